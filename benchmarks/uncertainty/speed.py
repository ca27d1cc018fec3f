"""How long do 16 samples of a volume take? Seconds, CPU seconds and peak memory of each model, every run a fresh process.

    python benchmarks/uncertainty/speed.py --work uncertainty-work                         # 128^3 voxels, two threads
    python benchmarks/uncertainty/speed.py --work uncertainty-work --side 256 --networks light --device cuda

The weights are random: they do not change the work. Windows of 64^3, two classes. Memory is the most that the process held,
Python and torch included. Seconds of a busy machine say little; CPU seconds say more. Writes speed/<run>.json, speed.md, speed.png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import NAMES, figure, parser, stage, write_table

GOAL = {"cpu": 60, "cuda": 2}  # seconds


def measure(model: str, network: str, precision: str, side: int, samples: int, threads: int, device: str) -> dict[str, float]:
    """Segment one random volume in this process. Loading torch is not timed."""
    import resource

    import numpy as np
    import torch

    from imagingai.device import keep_memory
    from imagingai.uncertainty.config import SegmentConfig
    from imagingai.uncertainty.model import ModelDescription, SegmentationModel, build_network
    from imagingai.uncertainty.segment import segment
    from imagingai.volume import Volume

    torch.manual_seed(0)
    members = 4 if model == "ensemble" else 1
    description = ModelDescription(model, network, 3, 1, ("background", "a"), (0, 1), (1.0, 1.0, 1.0), (64, 64, 64), members=members)
    networks = [build_network(description).eval().requires_grad_(False) for _ in range(members)]
    image = Volume.from_array(np.random.default_rng(0).normal(size=(side,) * 3).astype(np.float32))
    config = SegmentConfig(samples=samples, precision=precision, threads=threads, device=device)
    torch.set_num_threads(threads)
    keep_memory()  # as the jobs do
    times = []
    for _ in range(2 if device == "cuda" else 1):  # the first run on a GPU chooses its kernels
        began, used = time.perf_counter(), time.process_time()
        found = segment(image, SegmentationModel(description, networks), config)
        times.append({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used})
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**times[-1], "memory_mb": memory, "samples": len(found.samples)}


def fresh(settings: list[str], threads: int) -> dict[str, float]:
    """The same in another process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run([sys.executable, __file__, "--work", ".", "--one", *settings], env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def draw(rows: list[dict[str, Any]], file: Path, goal: float) -> None:
    """Seconds and memory of each run."""
    made, axes = figure(2, 4.2, 0.6 + 0.3 * len(rows))
    names = [f"{row['model']}, {row['network']}, {row['precision']}" for row in rows]
    for axis, key in zip(axes, ("seconds", "memory MB"), strict=True):
        axis.barh(names, [row[key] for row in rows], color="#4477aa")
        axis.set(xlabel=key)
        axis.invert_yaxis()
    axes[0].axvline(goal, color="#ee6677", linewidth=1)
    axes[1].set_yticks([])
    made.savefig(file, dpi=150)


def main() -> None:
    """Measure what is missing."""
    arguments = parser(__doc__)
    arguments.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    arguments.add_argument("--networks", nargs="+", choices=("fast", "light", "unet"), default=("fast", "light", "unet"))
    arguments.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    arguments.add_argument("--side", type=int, default=128, help="voxels along each axis")
    arguments.add_argument("--samples", type=int, default=16)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--one", nargs=7, help="measure in this process: model network precision side samples threads device")
    given = arguments.parse_args()
    if given.one:
        model, network, precision, side, samples, threads, device = given.one
        print(json.dumps(measure(model, network, precision, int(side), int(samples), int(threads), device)))
        return
    rows = []
    for network in given.networks:
        for precision in given.precisions:
            for model in given.models:
                settings = [model, network, precision, *map(str, (given.side, given.samples, given.threads)), given.device]
                file = given.work / "speed" / f"{'_'.join(settings)}.json"
                found = stage(file, lambda settings=settings: fresh(settings, given.threads))
                row = {"model": NAMES[model], "network": network, "precision": precision, "samples": found["samples"]}
                rows.append(row | {"seconds": found["seconds"], "CPU s": found["cpu_seconds"], "memory MB": round(found["memory_mb"])})
    title = f"{given.samples} samples of {given.side}^3 voxels on {given.device}, {given.threads} threads"
    name = f"speed_{given.device}_{given.side}"
    write_table(given.work / "speed" / f"{name}.md", title, rows)
    draw(rows, given.work / "speed" / f"{name}.png", GOAL[given.device])


if __name__ == "__main__":
    main()

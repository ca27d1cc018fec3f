"""The registration bench: every method a fresh process; accuracy, smoothness, CPU seconds and memory of one run.

    make bench IMAGINGAI_BENCH_DATA=DATA            # sets up the peers, makes the pairs, measures, writes the table
    python benchmarks/registration/bench.py run --work bench-work --methods 'imagingai*' Greedy --pairs '*_2mm'
    python benchmarks/registration/bench.py table --work bench-work

CPU seconds are user + system time of the whole process, imports and files included. Compare them only within
one run: the machine may be busy. Measured with imagingai.metrics over labels of at least 300 mm3.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would be counted as work
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "2")

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from peers import PEERS, voxel_grid

DEEP = {23, 30, 31, 32, 36, 37, 47, 48, 55, 56, 57, 58, 59, 60}  # accumbens ... thalamus of the Neuromorphometrics protocol
CORTEX = range(100, 256)
COLUMNS = {
    "dice": ".4f",
    "cortex": ".3f",
    "deep": ".3f",
    "hd95": ".2f",
    "sdlogj": ".3f",
    "folding": ".4f",
    "cpu_s": ".1f",
    "memory_mb": ".0f",
}


def measure(pairs: Path, pair: str, displacement: np.ndarray) -> dict[str, float]:
    """Overlap, surface distance, smoothness of one displacement (voxels)."""
    from scipy.ndimage import binary_fill_holes, map_coordinates

    from imagingai.metrics import dice, hd95

    read = lambda kind: nib.load(pairs / f"{pair}_{kind}.nii.gz")  # noqa: E731
    image, fixed, moving = read("fixed"), *(np.asarray(read(f"{kind}_labels").dataobj).astype(int) for kind in ("fixed", "moving"))
    where = (voxel_grid(fixed.shape) + displacement).transpose(3, 0, 1, 2)
    moved = map_coordinates(moving, where, order=0, mode="constant")
    spacing = np.array(image.header.get_zooms()[:3], float)
    large = lambda labels: {label for label in np.unique(labels) if label and (labels == label).sum() * spacing.prod() >= 300}  # noqa: E731
    labels = sorted(large(fixed) & large(moving))
    overlap = dice(fixed, moved, labels=labels)
    return {
        "dice": float(np.mean(list(overlap.values()))),
        "cortex": float(np.mean([value for label, value in overlap.items() if label in CORTEX])),
        "deep": float(np.mean([value for label, value in overlap.items() if label in DEEP])),
        "hd95": float(np.mean(list(hd95(fixed, moved, spacing, labels=labels).values()))),
        **_smoothness(displacement, binary_fill_holes(np.asarray(image.dataobj) > 0)),
    }


def _smoothness(displacement: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """SDlogJ and folding (%) inside the brain, two voxels off the border; voxels of either image have the same size here."""
    from imagingai.jacobian import determinant
    from imagingai.metrics import folding_percent, sdlogj

    jacobian, inner = determinant(displacement.transpose(3, 0, 1, 2), np.eye(4)), (slice(2, -2),) * 3
    return {"sdlogj": sdlogj(jacobian[inner], brain[inner]), "folding": folding_percent(jacobian[inner], brain[inner])}


def run(work: Path, methods: list[str], patterns: list[str], threads: int) -> None:
    """Run every method on every pair, each in a fresh process; append to results.jsonl."""
    pairs, names = work / "pairs", [name for name in PEERS if any(fnmatch.fnmatch(name, pattern) for pattern in methods)]
    if not names:
        sys.exit(f"No method matches {methods}. There are: {', '.join(PEERS)}")
    for pair in sorted(path.name.removesuffix("_fixed.nii.gz") for path in pairs.glob("*_fixed.nii.gz")):
        for name in names:
            if any(fnmatch.fnmatch(pair, pattern) for pattern in patterns):
                result = run_one(pairs, pair, name, work / "displacement.npy", threads)
                with (work / "results.jsonl").open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(
                    " ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in result.items()), flush=True
                )


def run_one(pairs: Path, pair: str, name: str, output: Path, threads: int) -> dict:
    output.unlink(missing_ok=True)
    fixed, moving = (str((pairs / f"{pair}_{kind}.nii.gz").absolute()) for kind in ("fixed", "moving"))
    command = [
        sys.executable,
        __file__,
        "one",
        "--method",
        name,
        "--fixed",
        fixed,
        "--moving",
        moving,
        "--output",
        str(output),
        "--threads",
        str(threads),
    ]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    result = {
        "pair": pair,
        "method": name,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1024,
        "time": int(time.time()),
    }
    if status or not output.exists():
        return {**result, "error": error[-400:]}
    return {**result, **measure(pairs, pair, np.load(output))}


def table(work: Path) -> str:
    """A markdown table per set of pairs from the newest result of each pair and method; also written to results.md."""
    newest = {}
    for line in (work / "results.jsonl").read_text().splitlines():
        result = json.loads(line)
        newest[result["pair"], result["method"]] = result
    sets: dict[str, dict[str, list]] = {}
    for (pair, method), result in newest.items():
        if "error" not in result:
            sets.setdefault(set_of(pair), {}).setdefault(method, []).append(result)
    lines = []
    for name, methods in sorted(sets.items()):
        lines += [f"\n{name}\n", f"| method | n | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 2)]
        for method, results in sorted(methods.items(), key=lambda item: -np.mean([r["dice"] for r in item[1]])):
            cells = [format(np.mean([result[key] for result in results]), how) for key, how in COLUMNS.items()]
            lines.append(f"| {method} | {len(results)} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (work / "results.md").write_text(text)
    return text


def set_of(pair: str) -> str:
    kind, spacing = pair.rsplit("_", 1)
    if kind.startswith("aff"):
        return f"affine, {spacing}"
    if kind == "rescan":
        return f"one person scanned twice, {spacing}"
    return f"T1 to T2-like, {spacing}" if kind.endswith("mm") else f"T1 to T1, {spacing}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run")
    measuring.add_argument("--methods", nargs="+", default=["*"])
    measuring.add_argument("--pairs", nargs="+", default=["*"])
    measuring.add_argument("--threads", type=int, default=2)
    for command in (measuring, commands.add_parser("table")):
        command.add_argument("--work", type=Path, default=Path("bench-work"))
    one = commands.add_parser("one")
    for name in ("method", "fixed", "moving", "output"):
        one.add_argument("--" + name, required=True)
    one.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.command == "one":
        os.chdir(tempfile.mkdtemp())  # elastix leaves files where it runs
        np.save(options.output, PEERS[options.method](options.fixed, options.moving, options.threads).astype(np.float32))
    elif options.command == "run":
        run(options.work, options.methods, options.pairs, options.threads)
    if options.command != "one":
        print(table(options.work))


if __name__ == "__main__":
    main()

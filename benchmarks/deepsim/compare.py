"""Does deepsim help? Accuracy against smoothness on real brains that the extractor never saw, with and without noise.

    python benchmarks/deepsim/compare.py --pairs bench-work/pairs --figure deepsim.png
    python benchmarks/deepsim/compare.py --pairs bench-work/pairs --pattern '*mm_2mm' --noise 0 --similarities ncc ncc+0.3*deepsim_seg

The pairs are those of benchmarks/registration/pairs.py (aligned affinely). Every similarity is run with several amounts
of smoothing, which gives a curve of Dice over SDlogJ; similarities are compared at equal SDlogJ. Gaussian noise (sigma as
a share of the 99th percentile of the image) is added to both images, as in paper 1, section 5.4. One thread.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from pathlib import Path

import numpy as np
import torch

from imagingai.metrics import common_labels, dice, sdlogj
from imagingai.registration import RegistrationConfig, register
from imagingai.registration.evaluate import foreground
from imagingai.transform import warp
from imagingai.volume import Volume, load

SMOOTHING = (0.7, 0.9, 1.2)


def noisy(image: Volume, sigma: float, seed: int) -> Volume:
    """Gaussian noise everywhere, in units of the 99th percentile of what is not background; no negative values."""
    data = image.data.astype(np.float32)
    scale = sigma * np.percentile(data[data > 0], 99)
    return Volume(np.maximum(data + scale * np.random.default_rng(seed).normal(size=data.shape), 0).astype(np.float32), image.affine)


def one(pairs: Path, pair: str, noise: float, config: RegistrationConfig) -> dict[str, float]:
    """Register one pair; mean Dice over structures, SDlogJ in the brain, CPU seconds."""
    fixed, moving = (load(pairs / f"{pair}_{kind}.nii.gz") for kind in ("fixed", "moving"))
    labels = [load(pairs / f"{pair}_{kind}_labels.nii.gz", label=True) for kind in ("fixed", "moving")]
    began = time.process_time()
    result = register(*(noisy(image, noise, seed) for seed, image in enumerate((fixed, moving))), config)
    seconds = time.process_time() - began
    moved = warp(labels[1], result.transform, labels[0], interpolation="nearest")
    large = int(300 / np.prod(fixed.spacing))
    values = [v for v in common_labels(labels[0].data, labels[1].data) if min((label.data == v).sum() for label in labels) >= large]
    overlap = dice(labels[0].data[0], moved.data[0], values)
    return {
        "dice": float(np.mean(list(overlap.values()))),
        "sdlogj": sdlogj(result.jacobian.data[0], foreground(fixed)),
        "cpu": seconds,
    }


def at_equal_smoothness(curve: list[dict[str, float]], reference: list[dict[str, float]]) -> float:
    """How much higher the Dice of a curve is than that of the reference where their SDlogJ overlap (mean, straight lines)."""
    (x, y), (u, v) = (np.array(sorted((p["sdlogj"], p["dice"]) for p in points)).T for points in (curve, reference))
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    if low > high:
        return float("nan")
    where = np.linspace(low, high, 20)
    return float(np.mean(np.interp(where, x, y) - np.interp(where, u, v)))


def draw(curves: dict[tuple[float, str], list[dict[str, float]]], path: Path) -> None:
    """One panel a noise level: Dice over SDlogJ."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    levels = sorted({noise for noise, _ in curves})
    figure, axes = pyplot.subplots(1, len(levels), figsize=(3.6 * len(levels), 3.4), squeeze=False, layout="constrained")
    for axis, level in zip(axes[0], levels, strict=True):
        for (noise, name), curve in curves.items():
            if noise == level:
                axis.plot([p["sdlogj"] for p in curve], [p["dice"] for p in curve], "o-", label=name)
        axis.set(title=f"noise {level:g}", xlabel="SDlogJ (rougher to the right)", ylabel="mean Dice")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--pattern", default="????-????_2mm")
    parser.add_argument("--limit", type=int, default=3, help="number of pairs (default 3)")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.15, 0.3])
    parser.add_argument(
        "--similarities", nargs="+", default=["ncc", "deepsim_seg", "ncc+0.3*deepsim_seg", "deepsim_ae", "ncc+0.3*deepsim_ae"]
    )
    parser.add_argument("--features", default="")
    parser.add_argument("--levels", type=int, nargs="+", default=[0], help="deepsim levels")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--results", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = sorted(file.name.removesuffix("_fixed.nii.gz") for file in options.pairs.glob("*_fixed.nii.gz"))
    names = fnmatch.filter(names, options.pattern)[: options.limit]
    curves: dict[tuple[float, str], list[dict[str, float]]] = {}
    print(f"{len(names)} pairs; levels {options.levels}\n")
    print("| noise | similarity | smoothing: Dice / SDlogJ | Dice at equal SDlogJ | CPU s |\n|---|---|---|---|---|")
    for noise in options.noise:
        for name in options.similarities:
            curve = []
            for smoothing in SMOOTHING:
                config = RegistrationConfig(
                    alignment="none",
                    similarity=name,
                    smoothing=smoothing,
                    features=options.features,
                    deepsim_levels=tuple(options.levels),
                    threads=1,
                )
                rows = [one(options.pairs, pair, noise, config) for pair in names]
                curve.append({key: float(np.mean([row[key] for row in rows])) for key in rows[0]})
            curves[noise, name] = curve
            points = ", ".join(f"{s}: {p['dice']:.4f} / {p['sdlogj']:.3f}" for s, p in zip(SMOOTHING, curve, strict=True))
            gain = at_equal_smoothness(curve, curves[noise, options.similarities[0]])
            print(f"| {noise:g} | {name} | {points} | {gain:+.4f} | {np.mean([p['cpu'] for p in curve]):.1f} |", flush=True)
    if options.results:
        options.results.write_text(json.dumps([{"noise": n, "similarity": s, "curve": c} for (n, s), c in curves.items()], indent=1))
    if options.figure:
        draw(curves, options.figure)


if __name__ == "__main__":
    main()

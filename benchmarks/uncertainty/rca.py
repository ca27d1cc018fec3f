"""Does Reverse Classification Accuracy follow the true Dice? True labels of the hippocampus, spoiled in known ways.

    python benchmarks/uncertainty/rca.py --data DATA --output OUT            # 20 cases, 8 references each

DATA (or IMAGINGAI_BENCH_DATA) holds hippocampus_msd. Test cases and references are different people. OUT gets rca.json (every
number), rca.md (the table) and rca.png. --choice random takes any references instead of those that resemble the image most,
--alignment center skips the affine alignment, which takes most of the time and which these crops hardly need.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.stats import pearsonr, spearmanr

from imagingai import metrics
from imagingai.uncertainty import rca
from imagingai.volume import load

STRUCTURES = {1: "anterior", 2: "posterior"}


def grow(labels: np.ndarray, steps: int) -> np.ndarray:
    """Each structure dilated (or eroded, steps < 0)."""
    out = np.zeros_like(labels)
    for value in STRUCTURES:
        mask = labels == value
        change = binary_dilation(mask, iterations=steps) if steps > 0 else binary_erosion(mask, iterations=-steps)
        out[change & ((out == 0) | mask)] = value
    return out


def drop(labels: np.ndarray, share: float) -> np.ndarray:
    """The front part of each structure is missing."""
    out = labels.copy()
    for value in STRUCTURES:
        y = np.where(labels == value)[1]
        if len(y):
            cut = np.quantile(y, 1 - share)
            front = np.arange(labels.shape[1])[None, :, None] > cut
            out[(labels == value) & front] = 0
    return out


def one_structure_lost(labels: np.ndarray) -> np.ndarray:
    """A segmentation that found the second structure only."""
    return np.where(labels == 1, 0, labels)


DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "truth": lambda labels: labels,
    "dilated 1": lambda labels: grow(labels, 1),
    "dilated 2": lambda labels: grow(labels, 2),
    "eroded 1": lambda labels: grow(labels, -1),
    "shifted 2": lambda labels: np.roll(labels, 2, 0),
    "shifted 4": lambda labels: np.roll(labels, 4, 1),
    "shifted 8": lambda labels: np.roll(labels, 8, 2),
    "30 % missing": lambda labels: drop(labels, 0.3),
    "70 % missing": lambda labels: drop(labels, 0.7),
    "one structure lost": one_structure_lost,
}


def mean(dice: dict[str, float | None]) -> float:
    return float(np.mean([value for value in dice.values() if value is not None]))


def measure(folder: Path, cases: int, references: int, choice: str, alignment: str, seed: int) -> dict:
    """True and predicted Dice (mean of the structures) of every case and degradation, and the seconds per reference."""
    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    random = np.random.default_rng(seed)
    random.shuffle(names)
    pairs = {name: (load(folder / "images" / name), load(folder / "labels" / name, label=True)) for name in names}
    pool, rows, seconds, config = names[cases:], [], [], replace(rca.FAST, alignment=alignment, threads=1, device="cpu")
    for name in names[:cases]:
        image, truth = pairs[name]
        chosen = random.choice(pool, references, replace=False) if choice == "random" else pool
        began = time.perf_counter()
        registered = rca.register_references(image, [pairs[other] for other in chosen], count=references, config=config)
        seconds.append((time.perf_counter() - began) / references)
        for kind, degrade in DEGRADATIONS.items():
            spoiled = degrade(truth.data[0])
            true = {STRUCTURES[k]: v for k, v in metrics.dice(truth.data[0], spoiled, list(STRUCTURES)).items()}
            predicted = rca.best_dice(truth.with_data(spoiled), registered, STRUCTURES)
            rows.append({"case": name, "kind": kind, "true": true, "predicted": predicted})
        print(f"{name}: {seconds[-1]:.1f} s per reference", flush=True)
    return {
        "cases": cases,
        "references": references,
        "choice": choice,
        "alignment": alignment,
        "seconds_per_reference": float(np.median(seconds)),
        "rows": rows,
    }


def summarize(found: dict) -> dict:
    """Correlations and errors; `calibrated`: after a line fitted to the other cases (leave one case out)."""
    true, predicted = (np.array([mean(row[name]) for row in found["rows"]]) for name in ("true", "predicted"))
    case = np.array([row["case"] for row in found["rows"]])
    calibrated = np.empty_like(true)
    for name in set(case):
        other = case != name
        calibrated[~other] = np.polyval(np.polyfit(predicted[other], true[other], 1), predicted[~other])
    one_each = [k * len(DEGRADATIONS) + k % len(DEGRADATIONS) for k in range(found["cases"])]  # every case spoiled in one way only
    flat = [(row["true"][s], row["predicted"][s]) for row in found["rows"] for s in STRUCTURES.values() if row["predicted"][s] is not None]
    return {
        "pearson": float(pearsonr(true, predicted)[0]),
        "spearman": float(spearmanr(true, predicted)[0]),
        "pearson_one_each": float(pearsonr(true[one_each], predicted[one_each])[0]),
        "p_one_each": float(pearsonr(true[one_each], predicted[one_each])[1]),
        "pearson_structures": float(pearsonr(*np.array(flat).T)[0]),
        "mean_absolute_error": float(np.abs(true - predicted).mean()),
        "mean_absolute_error_calibrated": float(np.abs(true - calibrated).mean()),
    }


def table(found: dict, summary: dict) -> str:
    """Markdown."""
    lines = ["| segmentation | true Dice | RCA Dice |", "|---|---|---|"]
    for kind in DEGRADATIONS:
        pairs = np.array([(mean(row["true"]), mean(row["predicted"])) for row in found["rows"] if row["kind"] == kind])
        lines.append(f"| {kind} | " + " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(pairs.mean(0), pairs.std(0), strict=True)) + " |")
    lines += ["", *(f"- {name.replace('_', ' ')}: {value:.3g}" for name, value in summary.items())]
    lines.append(f"- seconds per reference: {found['seconds_per_reference']:.2f}")
    return "\n".join(lines) + "\n"


def draw(found: dict, summary: dict) -> Figure:
    """Predicted against true Dice, a color for each way to spoil."""
    figure = Figure((6, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for number, kind in enumerate(DEGRADATIONS):
        pairs = np.array([(mean(row["true"]), mean(row["predicted"])) for row in found["rows"] if row["kind"] == kind])
        axes.scatter(*pairs.T, s=18, color=f"C{number}", label=kind)
    axes.set(xlabel="true Dice", ylabel="RCA Dice", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(f"{found['cases']} cases, {found['references']} references: r = {summary['pearson']:.2f}")
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("IMAGINGAI_BENCH_DATA"), help="folder of the data")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--choice", choices=("nearest", "random"), default="nearest")
    parser.add_argument("--alignment", choices=("none", "center", "rigid", "affine"), default=rca.FAST.alignment)
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args()
    if values.data is None:
        parser.error("give --data or IMAGINGAI_BENCH_DATA")
    found = measure(Path(values.data) / "hippocampus_msd", values.cases, values.references, values.choice, values.alignment, values.seed)
    summary = summarize(found)
    values.output.mkdir(parents=True, exist_ok=True)
    (values.output / "rca.json").write_text(json.dumps(found | {"summary": summary}, indent=1))
    (values.output / "rca.md").write_text(table(found, summary))
    draw(found, summary).savefig(values.output / "rca.png", dpi=120)
    print(table(found, summary))


if __name__ == "__main__":
    main()

"""How well does the shipped brain model segment real brains that it never saw, and does it know where it is wrong?

    python benchmarks/uncertainty/brain.py --pairs bench-work/pairs --work uncertainty-work

The pairs are those of benchmarks/registration/pairs.py (OASIS, skull-stripped T1 and simulated T2-like scans at 2 mm); their 134 manual
labels are brought to the classes of the model. Outer CSF, which skull stripping takes away, is not counted. Writes brain.json and brain.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import write_table

sys.path.insert(0, str(Path(__file__).parents[1] / "deepsim"))
from segment_real import IGNORED, NEUROMORPHOMETRICS

from imagingai.device import keep_memory, use_threads
from imagingai.uncertainty import calibration, evaluate
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.model import SegmentationModel, load_model
from imagingai.uncertainty.segment import segment
from imagingai.volume import Volume, load

GROUPS = {"T1": "????-????_2mm", "T2-like": "*mm_2mm"}


def measure(image: Volume, truth: np.ndarray, model: SegmentationModel) -> dict[str, Any]:
    """Dice per structure, calibration error inside the brain, entropy where it is right and where it is wrong, domain distance."""
    found = segment(image, model, SegmentConfig(samples=16))
    classes, counted = np.zeros(truth.shape, np.uint8), ~np.isin(truth, IGNORED)
    for number, values in enumerate(NEUROMORPHOMETRICS.values(), 1):
        classes[np.isin(truth, values)] = number
    dice = {}
    for number, name in enumerate(NEUROMORPHOMETRICS, 1):
        if name != "csf":
            a, b = (found.segmentation == number) & counted, classes == number
            dice[name] = float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    brain = counted & (classes > 0)
    right, entropy = found.segmentation == classes, found.entropy
    return {
        "dice": dice,
        "ece": calibration.ece(calibration.reliability(found.probability.max(0)[brain], right[brain])),
        "entropy_right": float(np.median(entropy[brain & right])),
        "entropy_wrong": float(np.median(entropy[brain & ~right])),
        "correlation": float(np.corrcoef(entropy[brain], ~right[brain])[0, 1]),
        "domain": evaluate.examine(found, [image], model)["image"]["domain"],
    }


def main() -> None:
    """Measure all scans and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    use_threads(1)
    keep_memory()
    model, results = load_model(given.model), {}
    for group, pattern in GROUPS.items():
        scans = sorted(given.pairs.glob(f"{pattern}_moving.nii.gz"))
        truths = [load(scan.with_name(scan.name.replace("moving", "moving_labels")), label=True).data[0] for scan in scans]
        results[group] = [measure(load(scan), truth, model) for scan, truth in zip(scans, truths, strict=True)]
    given.work.mkdir(parents=True, exist_ok=True)
    (given.work / "brain.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    mean = {group: {key: np.mean([row[key] for row in rows]) for key in rows[0] if key != "dice"} for group, rows in results.items()}
    dice = {group: {name: np.mean([row["dice"][name] for row in rows]) for name in rows[0]["dice"]} for group, rows in results.items()}
    lines = [{"Dice": "mean"} | {group: np.mean(list(values.values())) for group, values in dice.items()}]
    lines += [{"Dice": name} | {group: values[name] for group, values in dice.items()} for name in dice["T1"]]
    lines += [{"Dice": key.replace("_", " ")} | {group: values[key] for group, values in mean.items()} for key in mean["T1"]]
    write_table(
        given.work / "brain.md", f"The shipped brain model on real brains ({', '.join(f'{len(v)} {k}' for k, v in results.items())})", lines
    )


if __name__ == "__main__":
    main()

"""Is the Dice that quality control predicts the true one? The regressor beside Reverse Classification Accuracy, on held-out people.

    python benchmarks/uncertainty/quality.py --work uncertainty-work

The MC-dropout model of compare.py on the hippocampus (trained now if it is not there) segments its 28 test people, as they are and
from a spoiled copy of the image, so that there are bad segmentations too. One half are the controls of `learn-quality`, the other half
is predicted; then the other way round. RCA has the training people as atlases; a line from its figures to the true Dice is learned
from the controls as well. Writes quality/cases.json, rca.json, quality.md and
quality.png; what is there is not computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import figure, parser, stage, write_table
from models import trained
from prepare import Item, read
from scipy.stats import pearsonr, spearmanr

from imagingai.uncertainty.config import LearnQualityConfig, SegmentConfig
from imagingai.uncertainty.controls import Control, learn, spoil
from imagingai.uncertainty.evaluate import examine, structure_volumes
from imagingai.uncertainty.measures import pairwise_dice
from imagingai.uncertainty.model import SegmentationModel
from imagingai.uncertainty.quality import predict_dice
from imagingai.uncertainty.rca import reverse_classification_accuracy
from imagingai.uncertainty.segment import Segmentation, segment
from imagingai.volume import Volume

CONFIG = LearnQualityConfig(acceptable=0.7)
KINDS = ("as they are", "spoiled")
METHODS = {
    "regressor": "regressor",
    "mean": "mean Dice of the controls",
    "expected": "expected Dice of the model",
    "rca": "RCA",
    "rca_line": "RCA with a line",
}


def images_of(item: Item, number: int) -> list[Volume]:
    """The image as it is and a spoiled copy."""
    return [item.volume, spoil(item.volume, number, np.random.default_rng(number))]


def segmented(image: Volume, model: SegmentationModel) -> Segmentation:
    """16 samples on one thread."""
    return segment(image, model, SegmentConfig(threads=1, precision="bfloat16"))


def measure(item: Item, image: Volume, found: Segmentation, model: SegmentationModel, kind: str) -> dict[str, Any]:
    """What `learn-quality` knows of a control, plain data."""
    voxel_ml = float(np.prod(item.spacing)) / 1000
    overlap = pairwise_dice(found.segmentation[None], item.labels, len(found.classes))[:, 0, 0]
    seen, volumes = examine(found, [image], model), structure_volumes(found, CONFIG.coverage)
    for k, name in enumerate(found.classes[1:], 1):
        volumes[name]["truth"] = float((item.labels == k).sum()) * voxel_ml
    dice = {name: float(value) for name, value in zip(found.classes[1:], overlap, strict=True)}
    return {"name": item.name, "features": seen["uncertainty"], "image": seen["image"], "dice": dice, "volumes": volumes, "kind": kind}


def controls(items: list[Item], model: SegmentationModel, file: Path) -> list[dict[str, Any]]:
    """All test people, as they are and spoiled; their segmentations go into a file."""
    cases, labels = [], {}
    for number, item in enumerate(items):
        for image, kind in zip(images_of(item, number), KINDS, strict=True):
            found = segmented(image, model)
            cases.append(measure(item, image, found, model, kind))
            labels[f"{item.name} {kind}"] = found.segmentation
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **labels)
    return cases


def rca(items: list[Item], atlases: list[Item], names: dict[int, str], file: Path, count: int) -> list[dict[str, float]]:
    """Dice of each structure as RCA predicts it, for the same images in the same order."""
    references = [(atlas.volume, atlas.volume.with_data(atlas.labels)) for atlas in atlases]
    with np.load(file) as labels:
        return [
            reverse_classification_accuracy(image, image.with_data(labels[f"{item.name} {kind}"]), references, names, count=count)
            for number, item in enumerate(items)
            for image, kind in zip(images_of(item, number), KINDS, strict=True)
        ]


def predictions(cases: list[dict[str, Any]], reverse: list[dict[str, float]]) -> list[dict[str, Any]]:
    """One row a structure of an image: its true Dice, and what each method predicts that has learned from the other half."""
    people = sorted({case["name"] for case in cases})
    rows = []
    for half in (set(people[::2]), set(people[1::2])):
        known = [k for k, case in enumerate(cases) if case["name"] in half]
        fields = ("name", "features", "image", "dice", "volumes")
        learned = learn([Control(*(cases[k][f] for f in fields), spoiled=cases[k]["kind"] == KINDS[1]) for k in known], "model", CONFIG)
        pairs = [(reverse[k][name], dice) for k in known for name, dice in cases[k]["dice"].items()]
        line, mean = np.polyfit(*np.array(pairs, float).T, 1), float(np.mean([dice for _, dice in pairs]))
        for k, case in enumerate(cases):
            if case["name"] in half:
                continue
            for name, found in predict_dice(learned, case["features"]).items():
                row = {"kind": case["kind"], "structure": name, "true": case["dice"][name], "regressor": found["dice"]}
                row |= {"covered": found["low"] <= row["true"] <= found["high"], "expected": case["features"][name]["expected_dice"]}
                rows.append(row | {"mean": mean, "rca": reverse[k][name], "rca_line": float(np.polyval(line, reverse[k][name]))})
    return rows


def correlation(measure: Any, predicted: np.ndarray, true: np.ndarray) -> float | str:
    """Nothing for a method that hardly predicts different values: one mean for each half."""
    return float(measure(predicted, true)[0]) if len(np.unique(predicted)) > 2 else ""


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Error and correlation of each method on the images as they are, the spoiled ones, and all."""
    found = []
    for kind in (*KINDS, "all"):
        chosen = [row for row in rows if kind in ("all", row["kind"])]
        true = np.array([row["true"] for row in chosen])
        for method, words in METHODS.items():
            predicted = np.array([row[method] for row in chosen], float)
            line = {"images": f"{kind} ({len(chosen)})", "true Dice": f"{true.mean():.3f} ± {true.std():.3f}", "method": words}
            line |= {"mean absolute error": float(np.abs(predicted - true).mean()), "Pearson r": correlation(pearsonr, predicted, true)}
            covered = f"{np.mean([row['covered'] for row in chosen]):.0%}" if method == "regressor" else ""
            found.append(line | {"Spearman r": correlation(spearmanr, predicted, true), "in the 90 % interval": covered})
    return found


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Predicted against true Dice."""
    made, axes = figure(len(METHODS), 2.8, 3.0)
    for axis, (method, words) in zip(axes, METHODS.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for kind, color in zip(KINDS, ("#4477aa", "#ee6677"), strict=True):
            chosen = [row for row in rows if row["kind"] == kind]
            axis.plot([row["true"] for row in chosen], [row[method] for row in chosen], ".", color=color, label=kind)
        axis.set(title=words, xlabel="true Dice", ylabel="predicted Dice", xlim=(0, 1), ylim=(0, 1))
    axes[0].legend()
    made.savefig(file, dpi=150)


def main() -> None:
    """Measure what is missing, then predict."""
    arguments = parser(__doc__)
    arguments.add_argument("--references", type=int, default=4, help="atlases that RCA registers, those that resemble the image most")
    given = arguments.parse_args()
    data, folder, model = given.work / "data" / "hippocampus.npz", given.work / "quality", trained(given.work, "hippocampus", "dropout")
    items = read(data, "test")
    names, file = dict(enumerate(model.description.classes[1:], 1)), folder / "segmentations.npz"
    cases = stage(folder / "cases.json", lambda: controls(items, model, file))
    reverse = stage(folder / "rca.json", lambda: rca(items, read(data, "train"), names, file, given.references))
    rows = predictions(cases, reverse)
    write_table(folder / "quality.md", f"Predicted Dice of {len(items)} people that were not trained on", table(rows))
    draw(rows, folder / "quality.png")


if __name__ == "__main__":
    main()

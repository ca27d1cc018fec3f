"""How much do the readers of each data set differ? Radiologists, three networks, five algorithms.

    python benchmarks/uncertainty/raters.py --work uncertainty-work

Needs the data of prepare.py; all parts together. Dice between two readers (mean over the pairs that have both marked it), sample diversity
(last term of eq. 3 in Czolbe et al. 2021, over all pairs with replacement), how many voxels of the union all readers share, and
how often a reader marks nothing where another one does. Writes raters/<set>.json, raters.md and raters.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import figure, parser, quantiles, stage, write_table
from prepare import Item, read

from imagingai.uncertainty.measures import diversity, pairwise_dice

SETS = {"lidc": "nodules, 4 radiologists", "cells": "cells, 3 networks", "glioma": "glioma slices, 5 algorithms"}


def measure(items: list[Item]) -> dict[str, Any]:
    """Numbers of one data set."""
    dice, shared, blank, diverse = [], [], [], []
    for item in items:
        marked = item.labels.any((1, 2, 3))
        if not marked.any():
            continue
        both = item.labels[marked]
        first, second = np.triu_indices(len(both), 1)
        dice += pairwise_dice(both, both, 2)[0][first, second].tolist()
        shared.append(float(both.all(0).sum() / both.any(0).sum()))
        blank.append(1 - float(marked.mean()))
        diverse.append(diversity(item.labels, 2))
    names = ("dice", "shared", "blank", "diversity")
    return {"images": len(diverse)} | {
        name: {"mean": float(np.mean(values)), **quantiles(np.array(values))}
        for name, values in zip(names, (dice, shared, blank, diverse), strict=True)
    }


def draw(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Quantiles of the Dice between two readers, and of the diversity."""
    made, axes = figure(2, 4.2, 2.6)
    for axis, key in zip(axes, ("dice", "diversity"), strict=True):
        for k, found in enumerate(results.values()):
            low, first, middle, third, high = found[key]["quantiles"]
            axis.plot([low, high], [k, k], color="0.6")
            axis.plot([first, third], [k, k], color="#4477aa", linewidth=6, solid_capstyle="butt")
            axis.plot(middle, k, "o", color="black", markersize=4)
        axis.set(xlabel={"dice": "Dice of two readers", "diversity": "diversity of the readers"}[key], xlim=(0, 1))
        axis.set_yticks(range(len(results)), [SETS[name] for name in results] if key == "dice" else [])
        axis.invert_yaxis()
    made.savefig(file, dpi=150)


def main() -> None:
    """Measure what is missing."""
    given = parser(__doc__).parse_args()
    folder = given.work / "raters"
    results = {
        name: stage(folder / f"{name}.json", lambda name=name: measure(read(given.work / "data" / f"{name}.npz")))
        for name in SETS
        if (given.work / "data" / f"{name}.npz").exists()
    }
    columns = {"dice": "Dice of two readers", "diversity": "diversity", "shared": "shared by all", "blank": "marked nothing"}
    rows = [
        {"data": SETS[name], "images": found["images"]} | {words: found[key]["mean"] for key, words in columns.items()}
        for name, found in results.items()
    ]
    write_table(folder / "raters.md", "Agreement of readers", rows)
    draw(results, folder / "raters.png")


if __name__ == "__main__":
    main()

"""Do the four models know where they are wrong and where readers differ? Czolbe et al. (2021), figures 4, 5 and 6.

    python benchmarks/uncertainty/compare.py --work uncertainty-work                        # trains what is missing, on one thread
    python benchmarks/uncertainty/compare.py --work uncertainty-work --sets lidc --models unet dropout

Needs the data of prepare.py. Writes compare/<set>_<model>.json, and of each data set a table (.md) and a figure (.png).
Models that are trained are not trained again, numbers that are there are not computed again.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import NAMES, boxes, figure, parser, stage, write_table
from models import SETTINGS, predict, trained
from pixels import COUNTS, evaluate
from prepare import read
from scipy.stats import ttest_rel

ORDER = ("probabilistic", "dropout", "ensemble", "unet")  # of the paper's distance of distributions, best first
COLORS = {"unet": "#4477aa", "ensemble": "#ccbb44", "dropout": "#66ccee", "probabilistic": "#ee6677"}


def compute(work: Path, name: str, model: str) -> dict[str, Any]:
    """Train, predict the test images, measure."""
    network = trained(work, name, model)
    return evaluate([predict(network, item) for item in read(work / "data" / f"{name}.npz", "test")])


def errors(model: str, found: dict[str, Any]) -> dict[str, Any]:
    """One line of the table to figure 4."""
    error, outcome = found["error_correlation"], {key: group["quantiles"] for key, group in found["by_outcome"].items()}
    cells = {"model": NAMES[model], "Dice": float(np.mean(found["dice"]))}
    cells |= {f"entropy {key}": f"{values[2]:.2f}" if values else "-" for key, values in outcome.items()}
    cells |= {"r with error": error["r"], "p": small(error["p"])}
    cells |= {"images with r > 0": f"{error['positive']} of {error['images']}", "p of images": small(error["p_images"])}
    return cells | {"r of images' entropy and 1 - Dice": found["case_correlation"]["r"], "ECE": found["ece"]}


def readers(model: str, found: dict[str, Any]) -> dict[str, Any]:
    """One line of the table to figures 5 and 6."""
    groups = {key: group["quantiles"] for key, group in found["by_agreement"]["groups"].items()}
    cells = {"model": NAMES[model]} | {f"entropy, readers {key}": f"{values[2]:.2f}" if values else "-" for key, values in groups.items()}
    cells |= {"r with readers' entropy": found["by_agreement"]["r"], "p": small(found["by_agreement"]["p"])}
    cells |= {f"GED {n}": float(np.mean(found["ged_curve"][str(n)])) for n in (1, 4, 16)}
    return cells | {
        "GED, exact": float(np.mean(found["ged"])),
        "diversity": f"{found['diversity']:.3f} (readers {found['reader_diversity']:.3f})",
    }


def small(p: float) -> str:
    """A p-value; zero is what a float cannot hold."""
    return f"{p:.1e}" if p > 0 else "< 1e-300"


def ranking(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Is the distance of each model smaller than that of the next? One-sided paired t-tests over images, as in section 4.4.

    Apart for the nodules that all readers mark (only outlines differ) and those that some of them miss.
    """
    rows, marked = [], np.array(results["unet"]["marked_by_all"])
    groups = {"all": np.full(len(marked), True), "marked by all": marked, "missed by some": ~marked}
    for name, where in groups.items():
        if where.sum() < 2:
            continue
        for better, worse in pairwise(ORDER):
            a, b = (np.array(results[model]["ged"])[where] for model in (better, worse))
            test = ttest_rel(a, b, alternative="less")
            rows.append(
                {"images": f"{name} ({len(a)})", "smaller?": NAMES[better], "than": NAMES[worse], "GED": a.mean(), "GED of that": b.mean()}
            )
            rows[-1] |= {"p": small(float(test.pvalue))}
    return rows


def draw(results: dict[str, dict[str, Any]], file: Path) -> None:
    """Entropy by outcome, by agreement of the readers, and the distance of distributions by the number of samples."""
    several = all("ged" in found for found in results.values())
    made, axes = figure(3 if several else 1, 4.2, 3.6)
    panels = [("by_outcome", "entropy by outcome"), ("by_agreement", "entropy by agreement of readers")]
    for axis, (key, title) in zip(axes, panels, strict=False):
        for k, (model, found) in enumerate(results.items()):
            groups = found[key].get("groups", found[key])
            boxes(axis, groups, np.arange(len(groups)) + 0.2 * (k - 1.5), widths=0.16, boxprops={"facecolor": COLORS[model]})
        axis.set(title=title, ylabel="entropy (bits)")
        axis.set_xticks(np.arange(len(groups)), list(groups))
    if several:
        for model, found in results.items():
            values = np.array([found["ged_curve"][str(n)] for n in COUNTS])
            axes[2].plot(COUNTS, values.mean(1), "o-", color=COLORS[model])
        axes[2].set(title="distance of distributions", xlabel="samples", ylabel="GED (1 - IoU)", xscale="log", xticks=COUNTS)
        axes[2].set_xticks(COUNTS, [str(n) for n in COUNTS], minor=False)
    for model in results:
        axes[0].plot([], [], "s", color=COLORS[model], label=NAMES[model])
    made.legend(loc="outside lower center", ncols=4, fontsize=8)
    made.savefig(file, dpi=150)


def report(name: str, results: dict[str, dict[str, Any]], folder: Path) -> None:
    """Tables and figure of a data set."""
    count = len(next(iter(results.values()))["dice"])
    write_table(folder / f"{name}.md", f"Entropy and error on {name}, {count} test images", [errors(*item) for item in results.items()])
    if all("ged" in found for found in results.values()):
        write_table(folder / f"{name}_readers.md", f"Models and readers on {name}", [readers(*item) for item in results.items()])
    if set(results) == set(NAMES) and "ged" in results["unet"]:
        write_table(folder / f"{name}_ranking.md", f"Order of the distances on {name}", ranking(results))
    draw(results, folder / f"{name}.png")


def main() -> None:
    """Compute what is missing, then draw."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--sets", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    arguments.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    given = arguments.parse_args()
    for name in given.sets:
        folder = given.work / "compare"
        files = {model: folder / f"{name}_{model}.json" for model in given.models}
        results = {model: stage(file, lambda model=model, name=name: compute(given.work, name, model)) for model, file in files.items()}
        report(name, results, folder)


if __name__ == "__main__":
    main()

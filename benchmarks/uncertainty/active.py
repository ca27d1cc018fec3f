"""Does it pay to label the most uncertain images first? Learning curves of each strategy against random, Czolbe et al. (2021), figure 8.

    python benchmarks/uncertainty/active.py --work uncertainty-work                    # nodules, 3 seeds, sizes 20 40 80
    python benchmarks/uncertainty/active.py --work uncertainty-work --seeds 0 1 2 3 4 --sizes 20 40 60 80 100

Every curve of a seed starts from the same random nodules; then each strategy chooses its own from the rest of the training nodules,
with the code of `imagingai select-cases`. Before each choice an MC-dropout model is trained from the same random weights with the same
number of updates, without early stopping. What counts is the loss on the test nodules: the cross entropy with all four readers.
Writes active/<seed>_<strategy>_<size>.json, active.md and active.png; goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import SMALL, figure, parser, stage, write_table
from models import SETTINGS, cases_of, description_of
from prepare import read
from scipy.stats import ttest_1samp

from imagingai.uncertainty.active import Setting, choose, run_arm
from imagingai.uncertainty.config import STRATEGIES, SelectCasesConfig

COLORS = {"random": "black", "entropy": "#ee6677", "mutual_information": "#4477aa", "diversity": "#228833"}


def setting(work: Path, seed: int, steps: int) -> tuple[Setting, list[str]]:
    """What all rounds share, and the names of the nodules to choose from: each nodule once."""
    config = SelectCasesConfig(model="dropout", samples=8, seed=seed, **{**SMALL, **SETTINGS["lidc"], "steps": steps, "every": steps})
    path = work / "data" / "lidc.npz"
    pool = [item for item in read(path, "train") if item.name.endswith("a")]
    description = description_of(pool, config)
    cases = {case.name: case for case in cases_of(pool, description)}
    return Setting(description, config, cases_of(read(path, "test"), description), cases.__getitem__), list(cases)


def curve(work: Path, strategy: str, seed: int, sizes: list[int], steps: int) -> list[dict[str, Any]]:
    """Test figures of the models of one strategy, one a size."""
    shared, pool = setting(work, seed, steps)
    labeled = np.random.default_rng(seed).permutation(pool)[: sizes[0]].tolist()
    points = []
    for number, size in enumerate(sizes):
        name = f"{seed}_{strategy if number else 'start'}_{size}"  # all strategies share the first model
        more = sizes[number + 1] - size if number + 1 < len(sizes) else 0

        def make(labeled: list[str] = labeled, number: int = number, name: str = name, more: int = more) -> dict[str, Any]:
            rest = sorted(set(pool) - set(labeled)) if more else []
            found = run_arm(strategy, number, labeled, rest, shared, work / "active" / "rounds" / name)
            return {
                "labeled": len(labeled),
                "loss": found.measured["nll"],
                "dice": found.measured["score"],
                "next": choose(found.scores, more),
            }

        points.append(stage(work / "active" / f"{seed}_{strategy}_{size}.json", make))
        labeled = labeled + points[-1]["next"]
    return points


def table(curves: dict[str, list[list[dict[str, Any]]]], sizes: list[int]) -> list[dict[str, Any]]:
    """Mean over the seeds at each size, and the difference to random over the curve (paired over seeds; below 0: better)."""
    rows, losses = [], {strategy: np.array([[p["loss"] for p in points] for points in runs]) for strategy, runs in curves.items()}
    for strategy, values in losses.items():
        row: dict[str, Any] = {"strategy": strategy}
        row |= {f"loss {size}": f"{values[:, k].mean():.4f} ± {values[:, k].std(ddof=1):.4f}" for k, size in enumerate(sizes)}
        row[f"Dice {sizes[-1]}"] = float(np.mean([points[-1]["dice"] for points in curves[strategy]]))
        difference = (values - losses["random"])[:, 1:].mean(1)
        row["loss - random"] = f"{difference.mean():+.4f}"
        row["p"] = "" if strategy == "random" else float(ttest_1samp(difference, 0).pvalue)
        rows.append(row)
    return rows


def draw(curves: dict[str, list[list[dict[str, Any]]]], sizes: list[int], file: Path) -> None:
    """Loss and Dice by labeled nodules: mean and range of the seeds."""
    made, axes = figure(2, 4.0, 3.2)
    for axis, key, label in zip(axes, ("loss", "dice"), ("cross entropy of the test nodules (nats)", "Dice with the readers"), strict=True):
        for strategy, runs in curves.items():
            values = np.array([[point[key] for point in points] for points in runs])
            axis.plot(sizes, values.mean(0), "o-", color=COLORS[strategy], label=strategy.replace("_", " "))
            axis.fill_between(sizes, values.min(0), values.max(0), color=COLORS[strategy], alpha=0.12)
        axis.set(xlabel="labeled nodules", ylabel=label, xticks=sizes)
    axes[0].legend(fontsize=8)
    made.savefig(file, dpi=150)


def main() -> None:
    """Go on with the curves, then draw."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--sizes", nargs="+", type=int, default=[20, 40, 80])
    arguments.add_argument("--steps", type=int, default=200, help="updates of each training")
    arguments.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="random is always among them")
    given = arguments.parse_args()
    wanted = [strategy for strategy in STRATEGIES if strategy in (*given.strategies, "random")]
    curves = {s: [curve(given.work, s, seed, given.sizes, given.steps) for seed in given.seeds] for s in wanted}
    title = f"Active learning on nodules: cross entropy, mean ± deviation of {len(given.seeds)} seeds"
    write_table(given.work / "active" / "active.md", title, table(curves, given.sizes))
    draw(curves, given.sizes, given.work / "active" / "active.png")


if __name__ == "__main__":
    main()

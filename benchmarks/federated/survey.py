"""Table 2 of the survey (section 6): logistic regression on regional gray-matter volumes of two sites that differ.

    python benchmarks/federated/roi_features.py --data DATA --work W      # first: the volumes
    python benchmarks/federated/survey.py --work W --splits 20            # results/survey.md

Cross (train at one site, test at the other), Single, Mix, FedAvg, FedSGD and FedProx (mu 0.1): five random splits, 80 % of the scans of a
site to learn from, ACC, SEN, SPE, AUC on the other 20 %, mean and deviation. A site takes 10 steps between two exchanges, as in the
paper, each on all its data; every method takes 100 steps in all, FedSGD one in each of 100 rounds. "Local training is conducted only once"
(FedProx) can be read in two ways, which are both shown: 100 steps and one exchange, or one step between two exchanges. The model is that of
the last step, not the best one. The federations are those of `imagingai federated simulate`; every site standardizes its features
by itself, also for Cross and Mix.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import add_line, begin, parser, read_lines, table, write_result
from roi_features import CLASSES, REPEATS

from imagingai.federated.config import ProjectConfig

SPLITS, STEPS, LOCAL = 5, 100, 10
FIGURES = {"ACC": "accuracy", "SEN": "sensitivity", "SPE": "specificity", "AUC": "auc"}
PROJECT = ProjectConfig(
    task="roi-classification", classes=CLASSES, batch=1024, learning_rate=0.1, held_out=0.2, select="last", min_sites=1, proximal=0.1
)
RUNS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # name -> settings, what of it is a row of the table
    "FedAvg": ({"rounds": STEPS // LOCAL, "epochs": float(LOCAL)}, ("federated", "single", "cross", "mix")),
    "FedSGD": ({"rounds": STEPS, "strategy": "fedsgd"}, ("federated",)),
    "FedProx, one exchange": ({"rounds": 1, "epochs": float(STEPS), "strategy": "fedprox"}, ("federated",)),
    "FedProx, one step": ({"rounds": STEPS, "strategy": "fedprox"}, ("federated",)),
}


def write_split(work: Path, split: int) -> tuple[dict[str, dict[str, Path]], tuple[str, ...]]:
    """The tables of both sites with the cases in a random order, of which every fifth is held out; the names of the features."""
    data, features = {}, ()
    for number, site in enumerate(REPEATS):
        with (work / "rois" / site / "table.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        random = np.random.default_rng((split, number))
        target = work / "splits" / str(split) / f"{site}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        shuffled = [[f"{place:03d}_{row[0]}", *row[1:]] for place, row in zip(random.permutation(len(rows)), rows, strict=True)]
        with target.open("w", newline="") as file:
            csv.writer(file).writerows([header, *shuffled])
        data[site], features = {"table": target}, tuple(header[2:])
    return data, features


def run_all(work: Path, file: Path, splits: int) -> None:
    """Train every method on every split; what the file has already is left out."""
    from imagingai.federated.simulate import compare

    done = {(row["split"], row["run"]) for row in read_lines(file)}
    for split in range(splits):
        data, features = write_split(work, split)
        for run, (settings, methods) in RUNS.items():
            if (split, run) not in done:
                config = replace(PROJECT, features=features, seed=split, **settings)
                folder = work / "runs" / f"{split}-{run}"
                shutil.rmtree(folder, ignore_errors=True)
                add_line(file, {"split": split, "run": run, "rows": compare(config, data, methods, folder)})


def figures(work_file: Path) -> dict[tuple[str, str], np.ndarray]:
    """(site, method of the table) -> figures (splits, ACC SEN SPE AUC)."""
    found: dict[tuple[str, str], list] = {}
    for line in sorted(read_lines(work_file), key=lambda line: line["split"]):
        for row in line["rows"]:
            names = {"federated": line["run"], "cross": f"{row['trained_at']}-tr", "single": "Single", "mix": "Mix"}
            found.setdefault((row["site"], names[row["method"]]), []).append([row[name] for name in FIGURES.values()])
    return {key: np.array(values) for key, values in found.items()}


def make_tables(found: dict[tuple[str, str], np.ndarray]) -> str:
    """The table of the paper, of five splits, and how much better than Single the methods are, split by split, of all splits."""
    cell = lambda values: f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"  # noqa: E731
    methods = [f"{site}-tr" for site in REPEATS] + ["Single", "Mix", *RUNS]
    lines = [
        {"Client": site, "Method": method, **{name: cell(found[site, method][:SPLITS, k]) for k, name in enumerate(FIGURES)}}
        for site in REPEATS
        for method in methods
        if (site, method) in found
    ]
    gains = []
    for method in ("Cross", "Mix", *RUNS):
        other = {site: next(name for name in REPEATS if name != site) for site in REPEATS}
        rows = [found[site, f"{other[site]}-tr" if method == "Cross" else method] - found[site, "Single"] for site in REPEATS]
        gains.append({"Method - Single": method} | {name: cell(np.concatenate(rows)[:, k]) for k, name in enumerate(FIGURES)})
    splits = len(found[next(iter(found))])
    return f"{table(lines)}\nDifference to Single in the same split, at both sites, {splits} splits:\n\n{table(gains)}"


def main() -> None:
    """Run what is missing, write the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--splits", type=int, default=SPLITS, help="more of them for the table of differences; the other one is of five")
    given = arguments.parse_args()
    begin()
    run_all(given.work, given.work / "survey.jsonl", given.splits)
    write_result("survey.md", make_tables(figures(given.work / "survey.jsonl")))


if __name__ == "__main__":
    main()

"""Tables 2 to 4 and figure 7 of Linardos et al. (2022), of the trainings that linardos.py has done so far.

    python benchmarks/federated/linardos_tables.py --work W        # results/linardos.md, results/linardos.png

A number of seeds in parentheses says that some trainings of a cell are missing.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from centers import CENTERS, folder_of
from common import RESULTS, parser, read_lines, table, write_result
from linardos import AUGMENTATIONS, METHODS, SEEDS, Training, trainings

from imagingai.federated.cases import area_under_curve

PAPER = {  # total AUC in tables 3 and 4, augmentations in the order of AUGMENTATIONS
    "CCV": {
        "CDS": ("0.856", "0.809", "0.827", "0.849"),
        "FL": ("0.861", "0.844", "0.848", "0.839"),
        "FL-EV": ("0.852", "0.835", "0.839", "0.842"),
    },
    "LCO": {
        "CDS": ("0.732", "0.759", "0.764", "0.776"),
        "FL": ("0.746", "0.791", "0.766", "0.731"),
        "FL-EV": ("0.779", "0.773", "0.737", "0.768"),
    },
}


def areas(work: Path) -> dict[tuple, dict[str, list[float]]]:
    """(curation, augmentation, harmonization, validation, method) -> AUC of each center and Total, one number per seed that is complete."""
    cases: dict[Training, dict[str, float]] = {}
    for row in read_lines(*sorted(work.glob("trainings*.jsonl"))):
        training = Training(**row["training"])
        cases.setdefault(replace(training, fold=""), {}).update(row["probabilities"])
    people = sum(center.normal + center.hypertrophic for center in CENTERS.values())
    found: dict[tuple, dict[str, list[float]]] = {}
    for training, probabilities in sorted(cases.items(), key=lambda item: item[0].seed):
        if len(probabilities) < people:
            continue  # a fold is missing
        names, p = np.array(list(probabilities)), np.array(list(probabilities.values()))
        positive = np.array([is_hypertrophic(name) for name in names])
        key = (training.curation, training.augmentation, training.harmonization, training.validation, training.method)
        for center in (*CENTERS, "Total"):
            here = np.array([center == "Total" or name.startswith(folder_of(center)) for name in names])
            found.setdefault(key, {}).setdefault(center, []).append(area_under_curve(p[here], positive[here]))
    return found


def is_hypertrophic(case: str) -> bool:
    """The class of a case: the healthy people of a center come first (centers.people)."""
    folder, person = case.rsplit("_", 1)
    return int(person) >= next(center.normal for name, center in CENTERS.items() if folder_of(name) == folder)


def cell(values: list[float] | None) -> str:
    """Mean and deviation of the seeds; their number if some are missing."""
    if not values:
        return "not run"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}" + (f" ({len(values)})" if len(values) < SEEDS else "")


def curation_table(found: dict) -> str:
    """Table 2."""
    names = {"plain": "Baseline MRI", "masked": "Masked MRI", "split": "MRI per-structure split"}
    pick = lambda curation, method: cell(found.get((curation, "none", "nyul", "CCV", method), {}).get("Total"))  # noqa: E731
    return table({"Curation type": method} | {name: pick(key, method) for key, name in names.items()} for method in ("CDS", "FL"))


def validation_table(found: dict, validation: str, harmonization: str) -> str:
    """Table 3 (CCV) or 4 (LCO); the last column is the total that the paper has on its real hearts."""
    rows = []
    for (key, title), method in itertools.product(AUGMENTATIONS.items(), METHODS):
        values = found.get(("split", key, harmonization, validation, method), {})
        if not values:
            continue
        row = {"Augmentations": title, "Framework": method} | {center: cell(values.get(center)) for center in (*CENTERS, "Total")}
        rows.append(row | {"paper, Total": PAPER[validation][method][list(AUGMENTATIONS).index(key)]})
    return table(rows) if rows else "not run\n"


def contrasts(found: dict) -> str:
    """The findings of the paper as differences of two total AUCs, of all settings and seeds that have both."""
    pairs = {
        "FL - CDS": (4, "CDS", "FL"),
        "FL-EV - FL": (4, "FL", "FL-EV"),
        "LCO - CCV": (3, "CCV", "LCO"),
        "Nyul - none": (2, "none", "nyul"),
        **{f"{title} - no augmentation": (1, "none", key) for key, title in list(AUGMENTATIONS.items())[1:]},
    }
    rows = []
    for name, (place, before, after) in pairs.items():
        differences, better = [], []
        for key, values in found.items():
            other = found.get((*key[:place], after, *key[place + 1 :]))
            if key[0] == "split" and key[place] == before and other:
                gained = [b - a for a, b in zip(values["Total"], other["Total"], strict=False)]
                differences += gained
                better.append(np.mean(gained) > 0)
        if differences:
            rows.append(
                {
                    "": name,
                    "mean difference": f"{np.mean(differences):+.3f}",
                    "settings in which it is positive": f"{sum(better)} of {len(better)}",
                }
            )
    spreads = {
        m: np.mean([np.std(v["Total"], ddof=1) for k, v in found.items() if k[4] == m and k[0] == "split" and len(v["Total"]) > 1])
        for m in METHODS
    }
    return table(rows) + "\nMean deviation between seeds of the total AUC: " + ", ".join(f"{m} {s:.4f}" for m, s in spreads.items()) + ".\n"


def draw(found: dict, file: Path) -> None:
    """Figure 7: the total AUC of all settings, bars of one deviation of the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    for (row, harmonization), (column, validation) in itertools.product(enumerate(("nyul", "none")), enumerate(PAPER)):
        axis = axes[row][column]
        for number, method in enumerate(METHODS):
            values = [found.get(("split", key, harmonization, validation, method), {}).get("Total") or [np.nan] for key in AUGMENTATIONS]
            places = np.arange(len(values)) + 0.2 * (number - 1)
            axis.errorbar(places, [np.mean(v) for v in values], [np.std(v) for v in values], fmt="o", capsize=3, label=method)
        axis.set_xticks(range(len(AUGMENTATIONS)), AUGMENTATIONS.values())
        axis.set_title(f"{validation}, {'Nyul harmonization' if harmonization == 'nyul' else 'not harmonized'}")
        axis.set_ylabel("AUC")
    axes[0][0].legend()
    figure.savefig(file, dpi=90)


def main() -> None:
    """Write results/linardos.md and linardos.png."""
    arguments = parser(__doc__)
    arguments.add_argument("--name", default="linardos", help="name of the result")
    given = arguments.parse_args()
    work = given.work
    found = areas(work)
    rows = read_lines(*sorted(work.glob("trainings*.jsonl")))
    planned, seconds = sum(1 for _ in trainings()), np.array([row["cpu_seconds"] for row in rows])
    parts = [
        f"{len(rows)} of {planned} trainings are done; {np.median(seconds):.1f} CPU seconds each (median), "
        f"{seconds.sum() / 60:.0f} minutes in all.",
        f"AUC, mean ± deviation of {SEEDS} seeds, or of the number in parentheses; rows without a complete seed are left out.",
    ]
    titles = {"nyul": "Nyul harmonization", "none": "no harmonization"}
    parts += ["### Table 2: curation of the input (CCV, no augmentation)", curation_table(found)]
    for number, validation in ((3, "CCV"), (4, "LCO")):
        parts += [
            f"### Table {number}: {validation}, {title}\n\n{validation_table(found, validation, key)}" for key, title in titles.items()
        ]
    parts += ["### Differences of the total AUC", contrasts(found)]
    RESULTS.mkdir(exist_ok=True)
    draw(found, RESULTS / f"{given.name}.png")
    write_result(f"{given.name}.md", "\n\n".join(part.rstrip() for part in parts) + "\n")


if __name__ == "__main__":
    main()

"""`imagingai select-cases`: a round of active learning on folders of images, with random choice beside it.

The arms of a campaign are the strategy and chance. Both start from the same labeled cases; then each learns only from what it
has chosen itself, and from what was labeled without being asked for. A case is asked for once: neither arm chooses what has
labels, and both choose from the same unlabeled cases (`active.draft`). So chance cannot draw what the strategy had labeled in
earlier rounds; that matters little while few of the images are labeled, and more and more towards the end.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.datasets import CaseFiles, find_cases
from imagingai.device import keep_memory, use_threads
from imagingai.errors import InputError
from imagingai.job import Report, part, write_json
from imagingai.options import flag
from imagingai.training import check_results, clear_state, keep_state
from imagingai.uncertainty.active import RANDOM, Outcome, Setting, draft, run_arm
from imagingai.uncertainty.active_report import campaign_page, campaign_table, draw_curves
from imagingai.uncertainty.config import SelectCasesConfig
from imagingai.uncertainty.data import Case, load_case, survey
from imagingai.uncertainty.frame import make_frame
from imagingai.uncertainty.model import ModelDescription, save_model
from imagingai.uncertainty.train import describe
from imagingai.volume import load

FREE = ("count", "device", "threads")  # options that may change from round to round
RESULTS = ("campaign.json", "next.csv", "curves.png", "report.html", "model.safetensors")
LISTED = 5  # names in a message


@dataclass
class Campaign:
    """All rounds so far, as in campaign.json. Arms are named after their strategy; lists hold names of cases.

    grid: dimension, spacing and intensity, which the first round decides; next: what the last round has chosen, to be labeled;
    curves: arm -> a row for each round: round, labeled (how many), score (mean Dice), dice, nll.
    """

    config: dict[str, Any]
    grid: dict[str, Any]
    validation: list[str]
    labeled: dict[str, list[str]]
    next: dict[str, list[str]]
    curves: dict[str, list[dict[str, Any]]]
    version: int = 1

    @property
    def round(self) -> int:
        """How many rounds are done."""
        return len(next(iter(self.curves.values())))


def select_cases_files(inputs: dict[str, Path], config: SelectCasesConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Train and measure both arms, choose for both; write campaign.json, next.csv, curves.png, report.html, model.safetensors.

    The state of an unfinished round is kept in `training` beside the folder, so that the same job goes on where it stopped.
    """
    use_threads(config.threads)
    keep_memory()
    report(0.0, "Reading the images")
    pool, validation = find_pool(inputs)
    campaign = _begin(inputs.get("previous"), pool, validation, config)
    setting = read_setting(pool, validation, campaign, config)
    unlabeled, number, state = [case.name for case in pool if not case.labels], campaign.round + 1, folder.parent / "training"
    check_results(folder.parent, RESULTS)
    fixed = {name: value for name, value in vars(config).items() if name not in FREE}
    about = {"labeled": campaign.labeled, "description": asdict(setting.description), "config": fixed}
    keep_state(state, about, [path for case in (*pool, *validation) for path in case.labels.values()])
    outcomes = run_arms(campaign.labeled, unlabeled, number, setting, state, report)
    campaign.next = draft({arm: outcome.scores for arm, outcome in outcomes.items()}, config.count, number)
    for arm, outcome in outcomes.items():
        campaign.curves[arm].append({"round": number, "labeled": len(campaign.labeled[arm]), **outcome.measured})
    report(0.95, "Writing")
    rows = next_rows(campaign, outcomes, {case.name: case for case in pool}, setting.description)
    message = summary(campaign, len(pool), len(unlabeled), config.count)
    write(campaign, rows, message, outcomes[config.strategy], inputs, folder)
    clear_state(state)
    report(1.0, "Done")
    measured = {arm: curve[-1] for arm, curve in campaign.curves.items()}
    return {"round": number, "next": campaign.next, "measured": measured, "message": message, "table": campaign_table(campaign, message)}


# --- reading


def find_pool(inputs: dict[str, Path]) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """The cases to choose from, labeled or not, and the labeled ones that validate."""
    if inputs["images"].resolve() == inputs["validation_images"].resolve():
        raise InputError(
            f"--images and --validation-images are the same folder {inputs['images']}: images that measure the progress must not be "
            "learned from. Move some labeled images into a folder of their own."
        )
    validation = find_cases(inputs["validation_images"], inputs["validation_labels"])
    return find_cases(inputs["images"], inputs["labels"]), [case for case in validation if case.labels]


def read_campaign(folder: Path) -> Campaign:
    """The campaign up to the round of a folder. Raises InputError if there is none."""
    file = folder / "campaign.json"
    way_out = "Give the folder that select-cases wrote in the round before, or leave --previous out to start anew."
    if not file.is_file():
        raise InputError(f"--previous {folder} has no campaign.json. {way_out}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} cannot be read ({error}). {way_out}") from None
    if not isinstance(content, dict) or set(content) != {item.name for item in fields(Campaign)} or content["version"] != 1:
        raise InputError(f"{file} is no campaign of this version of ImagingAI. {way_out}")
    return Campaign(**content)


def _begin(previous: Path | None, pool: Sequence[CaseFiles], validation: Sequence[CaseFiles], config: SelectCasesConfig) -> Campaign:
    """The campaign with the labeled cases that its arms now learn from."""
    labeled, names = [case.name for case in pool if case.labels], [case.name for case in validation]
    arms = list(dict.fromkeys((config.strategy, RANDOM)))
    if previous is None:
        return Campaign(_plain(vars(config)), {}, names, dict.fromkeys(arms, labeled), {}, {arm: [] for arm in arms})
    campaign = read_campaign(previous)
    _check_same(campaign, names, config, previous)
    asked = {arm: list(dict.fromkeys(campaign.labeled[arm] + campaign.next[arm])) for arm in arms}
    known = {name for cases in asked.values() for name in cases}
    _check_labeled(sorted(known), pool, previous)
    extra = [name for name in labeled if name not in known]
    return replace(campaign, config=_plain(vars(config)), labeled={arm: cases + extra for arm, cases in asked.items()})


def _check_same(campaign: Campaign, validation: list[str], config: SelectCasesConfig, previous: Path) -> None:
    """Raise InputError if this round would not be comparable with those before."""
    for name, value in _plain(vars(config)).items():
        if name not in FREE and campaign.config.get(name, value) != value:
            raise InputError(
                f"{flag(name)} is {value} and was {campaign.config[name]} in the rounds before: the curves could not be compared. "
                "Give the same option, or leave --previous out to start anew."
            )
    if other := sorted(set(validation) ^ set(campaign.validation)):
        raise InputError(
            f"The labeled validation images are not those of {previous}: {listed(other)} {'is' if len(other) == 1 else 'are'} in one of "
            "both only. Give the same images, or leave --previous out to start anew."
        )


def _check_labeled(expected: Sequence[str], pool: Sequence[CaseFiles], previous: Path) -> None:
    """Raise InputError if cases that the round before had or chose are missing or have no labels."""
    if missing := sorted(set(expected) - {case.name for case in pool}):
        raise InputError(f"--images lacks {listed(missing)} of {previous}. Give the images of the round before; new ones may be added.")
    unlabeled = {case.name for case in pool if not case.labels}
    if waiting := [name for name in expected if name in unlabeled]:
        raise InputError(
            f"{len(waiting)} of the cases of the round before {'has' if len(waiting) == 1 else 'have'} no labels yet: {listed(waiting)}. "
            f"Put their labels into the folder of --labels; {previous / 'next.csv'} lists what was chosen."
        )


def listed(names: Sequence[str]) -> str:
    """At most five names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def read_setting(pool: Sequence[CaseFiles], validation: Sequence[CaseFiles], campaign: Campaign, config: SelectCasesConfig) -> Setting:
    """What both arms share. Labeled cases are read now, the others one by one; the first round decides the grid of all."""
    labeled = [case for case in pool if case.labels]
    grid = {name: tuple(value) if isinstance(value, list) else value for name, value in campaign.grid.items()}
    found = survey([*labeled, *validation], grid.get("dimension", config.dimension))
    description = describe(found, replace(config, **grid))
    campaign.grid = _plain({name: getattr(description, name) for name in ("dimension", "spacing", "intensity")})
    files, cases = {case.name: case for case in pool}, {case.name: load_case(case, description) for case in labeled}
    measured = [load_case(case, description) for case in validation]
    _check_classes(list(cases.values()), description)
    return Setting(description, config, measured, lambda name: cases[name] if name in cases else load_case(files[name], description))


def _check_classes(labeled: Sequence[Case], description: ModelDescription) -> None:
    """Raise InputError for a structure that only the validation images have. One side alone may lack one: that is its choice."""
    found = {int(k) for case in labeled for k in np.unique(case.labels)}
    if missing := [name for k, name in enumerate(description.classes) if k and k not in found]:
        raise InputError(
            f"None of the {len(labeled)} labeled images has {listed(missing)}, which the validation images have. "
            "Label an image that shows it too."
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(values))


# --- the round


def run_arms(
    arms: Mapping[str, Sequence[str]], unlabeled: Sequence[str], number: int, setting: Setting, state: Path, report: Report
) -> dict[str, Outcome]:
    """The round of every arm. Arms with the same labeled cases train the same model, once: they share the folder of the first."""
    outcomes = {}
    for k, (arm, labeled) in enumerate(arms.items()):
        place = state / next(other for other in arms if set(arms[other]) == set(labeled))
        step = part(report, 0.05 + 0.9 * k / len(arms), 0.05 + 0.9 * (k + 1) / len(arms))
        named = lambda fraction, text, step=step, arm=arm: step(fraction, f"{arm.replace('_', ' ')}: {text}")  # noqa: E731
        outcomes[arm] = run_arm(arm, number, labeled, unlabeled, setting, place, report=named)
    return outcomes


# --- writing


def next_rows(
    campaign: Campaign, outcomes: Mapping[str, Outcome], files: Mapping[str, CaseFiles], description: ModelDescription
) -> list[dict[str, Any]]:
    """A row for each chosen case: case, arm, rank, score, file, slice (as in `native_slice`, empty if there is none)."""
    return [
        {
            "case": case,
            "arm": arm,
            "rank": rank,
            "score": outcomes[arm].scores[case],
            "file": files[case].images[0].name,
            "slice": native_slice(files[case], outcomes[arm].slices[case], description) if case in outcomes[arm].slices else "",
        }
        for arm, cases in campaign.next.items()
        for rank, case in enumerate(cases, 1)
    ]


def native_slice(case: CaseFiles, index: int, description: ModelDescription) -> str:
    """A slice of the grid of the model as voxel axis and index of the image file: "k 12"; the first slice is 0."""
    frame = make_frame(load(case.images[0]), description.spacing, description.dimension)
    axis = frame.order[2]
    return f"{'ijk'[axis]} {frame.image.shape[axis] - 1 - index if 2 in frame.flips else index}"


def summary(campaign: Campaign, images: int, unlabeled: int, count: int) -> str:
    """What to do now, in one or two sentences."""
    if not unlabeled:
        return f"All {images} images are labeled: this round measured what they teach, and there is nothing left to choose."
    wanted = {case for cases in campaign.next.values() for case in cases}
    few = f" Only {unlabeled} were left without labels, so some are chosen for both sides." * (unlabeled < count * len(campaign.next))
    return f"Label the {len(wanted)} images of next.csv ({unlabeled} of {images} have no labels), then start the next round.{few}"


def write(
    campaign: Campaign, rows: Sequence[dict[str, Any]], message: str, outcome: Outcome, inputs: dict[str, Path], folder: Path
) -> None:
    """All files of a round; outcome: of the strategy."""
    write_json(folder / "campaign.json", asdict(campaign))
    with (folder / "next.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("case", "arm", "rank", "score", "file", "slice"))
        table.writeheader()
        table.writerows(rows)
    draw_curves(campaign.curves).savefig(folder / "curves.png")
    settings = {name: path.name for name, path in inputs.items()} | campaign.config
    (folder / "report.html").write_text(campaign_page(campaign, rows, message, settings), encoding="utf-8")
    save_model(folder / "model.safetensors", outcome.model)

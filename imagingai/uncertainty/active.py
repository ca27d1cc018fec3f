"""Active learning (Czolbe et al. 2021, section 4.5): one round of one arm, and how arms choose the next cases to label.

An arm is a strategy with a list of labeled cases of its own. A round trains a new model on that list, measures it on
validation cases, and scores the unlabeled cases. Every arm has the same budget: all steps, no early stop (as in the paper),
the same seed and first weights; the validation cases take no part in the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagingai.device import choose_device
from imagingai.job import Report, ignore, part, write_json
from imagingai.uncertainty import measures
from imagingai.uncertainty.config import SegmentConfig, SelectCasesConfig
from imagingai.uncertainty.data import Case
from imagingai.uncertainty.model import ModelDescription, SegmentationModel
from imagingai.uncertainty.segment import Segmentation, count_samples, draw_samples
from imagingai.uncertainty.train import train_model, views_of
from imagingai.volume import Volume

RANDOM = "random"
LEAST = 1e-7  # probability, so that the log likelihood stays finite
TRAINED, MEASURED = 0.7, 0.8  # progress of a round


@dataclass(frozen=True)
class Setting:
    """What all rounds of a campaign share. load: the case of a name; cases without labels have labels (0, X, Y, Z)."""

    description: ModelDescription
    config: SelectCasesConfig
    validation: Sequence[Case]
    load: Callable[[str], Case]


@dataclass(frozen=True)
class Outcome:
    """What a round of an arm found.

    measured: {"score": mean Dice of the structures, "dice": {structure: Dice}, "nll": nats per voxel}, means over the validation
    cases and readers; scores: of every unlabeled case, higher is chosen sooner; slices: the most informative slice on the
    grid of the model (its last axis), for a model of slices on volumes.
    """

    model: SegmentationModel
    measured: dict[str, Any]
    scores: dict[str, float]
    slices: dict[str, int]


def run_arm(
    strategy: str,
    number: int,
    labeled: Sequence[str],
    unlabeled: Sequence[str],
    setting: Setting,
    folder: Path,
    *,
    report: Report = ignore,
) -> Outcome:
    """Round `number` of an arm: train on `labeled`, measure on the validation cases, score `unlabeled`.

    All that is done is kept in `folder`: the same call goes on where a stopped one was. Arms with the same labeled cases may
    share the folder, and then train once. A structure that none of `labeled` has is not learned, and found nowhere.
    """
    training = [setting.load(name) for name in sorted(labeled)]
    config = setting.config
    source = views_of(training, (), setting.description, config)  # judged by the cases it learns from: the weights of the end are kept
    model, _ = train_model(source, setting.description, config, folder, report=part(report, 0.0, TRAINED))
    model = model.to(choose_device(config.device))
    measured = measure(model, setting, folder / "measured.json", part(report, TRAINED, MEASURED))
    if strategy == RANDOM:
        return Outcome(model, measured, random_scores(unlabeled, config.seed, number), {})
    rows = _each(
        unlabeled,
        lambda name, step: _score_case(strategy, look(setting.load(name), model, config, step), model.description),
        folder / f"{strategy}.json",
        part(report, MEASURED, 1.0),
        "Scoring",
    )
    scores = {name: row["score"] for name, row in rows.items()}
    return Outcome(model, measured, scores, {name: row["slice"] for name, row in rows.items() if "slice" in row})


def look(case: Case, model: SegmentationModel, config: SelectCasesConfig, report: Report = ignore) -> Segmentation:
    """Segment a case on the grid of the model, where voxels of all cases have the same size."""
    drawing = SegmentConfig(samples=config.samples, precision=config.precision, device=config.device, seed=config.seed)
    count, shape = count_samples(model, drawing), case.image.shape[1:]
    mean = np.zeros((len(model.description.classes), *shape), np.float32)
    expected, samples = np.zeros(shape, np.float32), []
    for probability in draw_samples(torch.from_numpy(case.image), model, drawing, count, report):
        mean += probability / count
        expected += measures.entropy(probability) / count
        samples.append(probability.argmax(0).astype(np.uint8))
    names, values, image = model.description.classes, model.description.values, Volume(case.image[:1], np.eye(4))
    return Segmentation(image, names, values, mean, mean.argmax(0).astype(np.uint8), expected, np.stack(samples))


def score(strategy: str, segmentation: Segmentation) -> float:
    """How much a case would teach: the sum over all voxels of the entropy (section 4.5) or of the mutual information, in bits.

    strategy "diversity": the mean 1 - IoU of two samples (last term of eq. 3), which does not depend on the size of the image.
    """
    if strategy == "diversity":
        return measures.diversity(segmentation.samples, len(segmentation.classes))
    return float(getattr(segmentation, strategy).sum(dtype=float))


def score_slices(strategy: str, segmentation: Segmentation) -> np.ndarray:
    """The same for every slice along the last axis, (Z,)."""
    if strategy == "diversity":
        count, slices = len(segmentation.classes), np.moveaxis(segmentation.samples, -1, 0)
        return np.array([measures.diversity(samples, count) for samples in slices])
    return getattr(segmentation, strategy).sum((0, 1), dtype=float)


def random_scores(names: Sequence[str], seed: int, number: int) -> dict[str, float]:
    """Numbers of chance for the cases of a round, the same for the same seed, round and cases."""
    ordered = sorted(names)
    return dict(zip(ordered, np.random.default_rng([seed, number]).random(len(ordered)).tolist(), strict=True))


def _score_case(strategy: str, segmentation: Segmentation, description: ModelDescription) -> dict[str, Any]:
    found: dict[str, Any] = {"score": score(strategy, segmentation)}
    if description.dimension == 2 and segmentation.samples.shape[-1] > 1:
        found["slice"] = int(score_slices(strategy, segmentation).argmax())
    return found


# --- who chooses what


def choose(scores: Mapping[str, float], count: int, taken: Collection[str] = ()) -> list[str]:
    """The `count` cases of the highest scores, best first, none of them in `taken`; the names decide between equal scores."""
    return sorted(scores.keys() - set(taken), key=lambda name: (-scores[name], name))[:count]


def draft(scores: Mapping[str, Mapping[str, float]], count: int, first: int = 0) -> dict[str, list[str]]:
    """`count` cases for every arm: the arms take turns, and who begins a turn alternates from `first` on.

    So no arm always takes the best cases of the other. A case that is chosen for both teaches nothing about which is better,
    so it is chosen twice only when nothing else is left; then all arms still get equally many, and stay comparable.
    scores: arm -> case -> score; labeled cases must not be in it.
    """
    chosen: dict[str, list[str]] = {arm: [] for arm in scores}
    for rank in range(count):
        for arm in list(scores)[:: -1 if (first + rank) % 2 else 1]:
            everybody = [case for cases in chosen.values() for case in cases]
            chosen[arm] += choose(scores[arm], 1, everybody) or choose(scores[arm], 1, chosen[arm])
    return chosen


# --- how good a model is


def measure(model: SegmentationModel, setting: Setting, file: Path, report: Report = ignore) -> dict[str, Any]:
    """Dice and negative log likelihood on the validation cases, as in `Outcome`. What is done is kept in `file`.

    The Dice of a structure that no validation case has is None and does not count.
    """
    cases = {case.name: case for case in setting.validation}
    one = lambda name, step: measure_case(cases[name], model, setting.config, step)  # noqa: E731
    rows = _each(list(cases), one, file, report, "Measuring").values()
    dice, present = {}, {int(k) for case in setting.validation for k in np.unique(case.labels)}
    for k, name in enumerate(model.description.classes[1:], 1):
        found = [row["dice"][name] for row in rows if row["dice"][name] is not None and k in present]
        dice[name] = float(np.mean(found)) if found else None
    known = [value for value in dice.values() if value is not None]
    return {"score": float(np.mean(known)) if known else None, "dice": dice, "nll": float(np.mean([row["nll"] for row in rows]))}


def measure_case(case: Case, model: SegmentationModel, config: SelectCasesConfig, report: Report = ignore) -> dict[str, Any]:
    """{"dice": {structure: mean over readers, None if absent everywhere}, "nll": mean over voxels and readers, nats}."""
    found, classes = look(case, model, config, report), model.description.classes
    pairs = measures.pairwise_dice(found.segmentation[None], case.labels, len(classes))[:, 0]
    dice = {name: float(np.nanmean(row)) if np.isfinite(row).any() else None for name, row in zip(classes[1:], pairs, strict=True)}
    likelihood = np.take_along_axis(found.probability, case.labels.astype(int), axis=0)  # of every reader's label
    return {"dice": dice, "nll": float(-np.log(np.maximum(likelihood, LEAST)).mean(dtype=float))}


def _each(names: Sequence[str], compute: Callable[[str, Report], Any], file: Path, report: Report, doing: str) -> dict[str, Any]:
    """name -> what was computed; written after each case, so that a stop loses none."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for number, name in enumerate(names):
        text = f"{doing} {name}, {number + 1} of {len(names)}"
        report(number / len(names), text)
        if name not in found:
            found[name] = compute(name, lambda fraction, _, number=number, text=text: report((number + fraction) / len(names), text))
            write_json(file, found)
    return {name: found[name] for name in names}

"""`imagingai learn-quality` and `imagingai check-quality`: what is normal for a model, and a cohort sorted worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.datasets import CaseFiles, find_cases
from imagingai.device import keep_memory, use_threads
from imagingai.errors import InputError
from imagingai.job import Report, part
from imagingai.uncertainty import calibration, evaluate, measures, queue
from imagingai.uncertainty.config import CheckQualityConfig, LearnQualityConfig, SegmentConfig
from imagingai.uncertainty.controls import LEAST, Control, learn, spoil
from imagingai.uncertainty.data import class_index, load_channels, load_labels
from imagingai.uncertainty.model import SegmentationModel, load_model
from imagingai.uncertainty.quality import calibrate
from imagingai.uncertainty.report import cohort_page, quality_page
from imagingai.uncertainty.segment import Segmentation, segment
from imagingai.volume import Volume

VOXELS = 20_000  # of a case, to learn the calibration from
CERTAIN = 0.001  # voxels whose background is more certain than 1 - this would hide all others in the calibration


def learn_quality_files(inputs: dict[str, Path], config: LearnQualityConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Segment labeled controls, and a spoiled copy of each; write what is normal into quality.json, and report.html."""
    use_threads(config.threads)
    keep_memory()
    report(0.0, "Reading")
    model = load_model(inputs.get("model"))
    cases = [case for case in find_cases(inputs["images"], inputs["labels"]) if case.labels]
    if len(cases) < LEAST:
        raise InputError(
            f"{inputs['images']} has {len(cases)} labeled image{'s' * (len(cases) != 1)}, too few to learn what is normal: "
            f"give {LEAST} or more, better 20."
        )
    controls, voxels = [], []
    for number, case in enumerate(cases):
        step = part(report, 0.95 * number / len(cases), 0.95 * (number + 1) / len(cases))
        controls += measure_control(case, number, model, config, voxels, step)
    report(0.96, "Learning")
    quality = learn(controls, model.identity, config, _calibration(voxels))
    quality.save(folder / "quality.json")
    found = asdict(quality)
    (folder / "report.html").write_text(quality_page(found), encoding="utf-8")
    report(1.0, "Done")
    kept = {name: found[name] for name in ("controls", "measured", "cutoffs", "cases")}
    return kept | {"model": model.identity, "calibration": {n: v for n, v in quality.calibration.items() if not isinstance(v, list)}}


def check_quality_files(inputs: dict[str, Path], config: CheckQualityConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Write queue.csv, worst first, with the decisions of earlier queues (the one of `previous`, and of this output folder)."""
    report(0.0, "Reading the results")
    rows, own = queue.collect(inputs["results"]), folder.parent / "queue.csv"  # the job works in a folder inside of its output
    earlier = [path for path in (inputs.get("previous"), own if folder.name == ".partial" and own.is_file() else None) if path]
    decided = sorted((row for path in earlier for row in queue.read(path)), key=lambda row: row["date"])  # the last decision counts
    rows = queue.keep_decisions(rows, decided)
    queue.write(folder / "queue.csv", rows)
    title = config.title or inputs["results"].absolute().name
    (folder / "report.html").write_text(cohort_page(rows, title), encoding="utf-8")
    report(1.0, "Done")
    counts = Counter(row["light"] or "not judged" for row in rows)
    return {"cases": len(rows), "lights": dict(counts), "decided": sum(bool(row["decision"]) for row in rows)}


def measure_control(
    case: CaseFiles, number: int, model: SegmentationModel, config: LearnQualityConfig, voxels: list[tuple], report: Report
) -> list[Control]:
    """A control, and its spoiled copy. Adds to `voxels` (log-probability, label) of some of its voxels."""
    channels = load_channels(case)
    readers = load_labels(case, channels[0])
    labels = np.stack([class_index(v.data[0], model.description.values, case.labels[r]) for r, v in readers.items()])
    random = np.random.default_rng([config.seed, number])
    settings = SegmentConfig(samples=config.samples, device=config.device, threads=config.threads, seed=config.seed)
    found = []
    for spoiled, images in enumerate((channels, [spoil(channel, number, random) for channel in channels])):
        step = part(report, 0.5 * spoiled, 0.5 * spoiled + 0.5)
        step(0.0, f"{case.name}{', its image spoiled' * spoiled}")
        segmentation = segment(images, model, settings, report=step)
        if not spoiled:
            voxels.append(_some_voxels(segmentation, labels, random))
        found.append(_measure(case.name, segmentation, images, labels, model, config.coverage, bool(spoiled)))
    return found


def _measure(
    name: str,
    segmentation: Segmentation,
    images: Sequence[Volume],
    labels: np.ndarray,
    model: SegmentationModel,
    coverage: float,
    spoiled: bool,
) -> Control:
    """A control from its segmentation and the labels (R, X, Y, Z) of its readers, over whom Dice and volume are averaged."""
    seen = evaluate.examine(segmentation, images, model)
    names = segmentation.classes[1:]
    pairs = measures.pairwise_dice(segmentation.segmentation[None], labels, len(names) + 1)[:, 0]  # structures x readers
    dice = {structure: float(np.nanmean(row)) if np.isfinite(row).any() else None for structure, row in zip(names, pairs, strict=True)}
    volumes = evaluate.structure_volumes(segmentation, coverage)
    for k, structure in enumerate(names, 1):
        volumes[structure]["truth"] = float((labels == k).sum() / len(labels)) * segmentation.image.voxel_ml
    return Control(name, seen["uncertainty"], seen["image"], dice, volumes, spoiled)


def _some_voxels(segmentation: Segmentation, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability (N, K) and the label (N,) of a random reader, of voxels that may be something else than background."""
    reader = labels[random.integers(len(labels))]
    where = np.flatnonzero((segmentation.probability[0] < 1 - CERTAIN) | (reader > 0))
    where = random.choice(where, min(len(where), VOXELS), replace=False)
    probability = segmentation.probability.reshape(len(segmentation.classes), -1)[:, where].T
    return np.log(np.maximum(probability, 1e-7)), reader.ravel()[where]


def _calibration(voxels: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Temperature, and calibration error with and without it; the temperature of a case is learned from the other cases."""
    if not sum(len(labels) for _, labels in voxels):
        return {}

    def fit(chosen: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        return calibration.fit_temperature(*(np.concatenate(arrays) for arrays in zip(*chosen, strict=True)))

    halves = [fit(half) if sum(len(labels) for _, labels in half) else 1.0 for half in (voxels[1::2], voxels[::2])]
    tables: tuple[list, list] = ([], [])
    for number, (logs, labels) in enumerate(voxels):
        for temperature, into in zip((1.0, halves[number % 2]), tables, strict=True):
            probability = calibrate(np.exp(logs).T, temperature)
            into.append(calibration.reliability(probability.max(0), probability.argmax(0) == labels))
    before, after = map(calibration.merge, tables)
    errors = {"ece_before": calibration.ece(before), "ece_after": calibration.ece(after)}
    return {"temperature": fit(voxels), **errors, "before": before, "after": after}

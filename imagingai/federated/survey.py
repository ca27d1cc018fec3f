"""The data check: what a site has, before anything is trained or leaves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.errors import InputError
from imagingai.federated.cases import Sample, divide_samples, is_classification
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import Found, build_network, find_cases
from imagingai.job import Report, ignore
from imagingai.uncertainty.data import AIR
from imagingai.volume import Volume, load

BINS = 64
PROBES = 4000  # voxels of an image that its intensities are judged by
FAR = 1.5  # times the spacing of the project, either way


@dataclass
class Look:
    """What was seen of the cases that can be read."""

    samples: list[Sample] = field(default_factory=list)  # without their images
    voxels: Counter[str] = field(default_factory=Counter)  # of each structure
    spacing: list[list[float]] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    probes: list[np.ndarray] = field(default_factory=list)
    same: dict[str, list[str]] = field(default_factory=dict)  # checksum of an image -> cases

    def features(self, project: ProjectConfig) -> list[tuple[str, np.ndarray]]:
        """(column, values) of a table."""
        return [] if self.probes else list(zip(project.features, np.stack([sample.input for sample in self.samples]).T, strict=True))


def check_data(project: ProjectConfig, inputs: Mapping[str, Path], report: Report = ignore) -> dict[str, Any]:
    """Look at all data of a site, as plain values for result.json and the report.

    verdict: bad (something must be changed before the site can join), look (worth a thought), good; problems: those
    sentences; rows: [what, value as text]; labels: class or structure -> count, in label_unit; training, held_out: cases;
    intensities: {edges, shares, unit}; features: column -> {edges, shares}; spacing (mm), shapes (voxels) of each case;
    project_spacing; cases: [{case, state, reason}]. Raises InputError only if nothing can be learned: an input, a column or
    nearly all cases are missing, or the settings are impossible.
    """
    build_network(project)
    found, look = find_cases(project, inputs), Look()
    bad = _read(project, found, look, report)
    if len(look.samples) < 2:
        first, total = f" The first problem: {bad[0][1]}" if bad else "", len(found.cases) + len(found.problems)
        raise InputError(f"{len(look.samples)} of {total} cases can be used, and at least 2 are needed.{first}")
    labels, unit = _labels(project, look)
    concerns = [*found.remarks, *_concerns(project, look, labels)]
    training, held_out = divide_samples(project, look.samples)
    hu = "HU" if project.intensity == "ct" else ""
    state = {name: ("bad", reason) for name, reason in bad} | {sample.name: ("good", "") for sample in look.samples}
    return {
        "verdict": "bad" if bad else "look" if concerns else "good",
        "problems": [*(reason for _, reason in bad), *concerns],
        "rows": _rows(project, look, labels, len(training), len(held_out)),
        "labels": labels,
        "label_unit": unit,
        "training": len(training),
        "held_out": len(held_out),
        "intensities": {**_histogram(np.concatenate(look.probes)), "unit": hu} if look.probes else {},
        "features": {name: _histogram(values) for name, values in look.features(project)},
        "spacing": look.spacing,
        "shapes": look.shapes,
        "project_spacing": list(project.spacing * 3 if len(project.spacing) == 1 else project.spacing),
        "cases": [{"case": name, "state": state[name][0], "reason": state[name][1]} for name in sorted(state)],
    }


def _read(project: ProjectConfig, found: Found, look: Look, report: Report) -> list[tuple[str, str]]:
    """Read every case, one after the other; returns (case, reason) of those that do not fit."""
    bad = list(found.problems)
    for number, (name, read) in enumerate(found.cases.items()):
        report(number / len(found.cases), f"Checking {name}")
        try:
            case = read()
        except InputError as error:
            bad.append((name, str(error)))
            continue
        if isinstance(case, Sample):
            look.samples.append(replace(case, input=np.empty(0) if name in found.files else case.input))
        else:
            look.samples.append(Sample(name, np.empty(0), 0.0, name))
            counts = np.bincount(case.labels.ravel(), minlength=len(project.classes) + 1)[1:]
            look.voxels.update(dict(zip(project.classes, counts.tolist(), strict=True)))
        if name in found.files:
            _look_at(load(found.files[name][0]), name, look)
    return bad


def _look_at(image: Volume, name: str, look: Look) -> None:
    values = image.data.ravel()
    look.spacing.append([round(float(step), 4) for step in image.spacing])
    look.shapes.append(list(image.shape))
    look.probes.append(values[:: max(1, values.size // PROBES)].astype(float))
    look.same.setdefault(hashlib.sha256(np.ascontiguousarray(values)).hexdigest(), []).append(name)


def _labels(project: ProjectConfig, look: Look) -> tuple[dict[str, int], str]:
    if project.task == "segmentation":
        return {name: look.voxels[name] for name in project.classes}, "voxels"
    if not is_classification(project):
        return {}, ""
    counts = Counter(sample.target for sample in look.samples)
    return {name: counts[k] for k, name in enumerate(project.classes)}, "cases"


def _concerns(project: ProjectConfig, look: Look, labels: Mapping[str, int]) -> list[str]:
    """What does not hinder the training, but may be a mistake; a sentence each."""
    what = "structure" if project.task == "segmentation" else "class"
    found = [f"No case has the {what} {name}: this site cannot help to learn or measure it." for name, count in labels.items() if not count]
    if what == "class" and project.held_out:
        found += [f"{name} has a single case, so that it is in no held-out case." for name, count in labels.items() if count == 1]
    found += [f"{' and '.join(names)} are the same image." for names in look.same.values() if len(names) > 1]
    if look.spacing:
        wanted = (project.spacing * 3 if len(project.spacing) == 1 else (*project.spacing, 0.0))[: project.dimension]
        own = np.median(look.spacing, 0)[: project.dimension]
        if any(max(a / b, b / a) > FAR for a, b in zip(np.sort(own), np.sort(wanted), strict=True)):
            found.append(f"The images have {_sizes(own)} mm between voxels and are resampled to the {_sizes(wanted)} mm of the project.")
    if project.intensity == "ct" and look.probes and min(map(np.min, look.probes)) > AIR:
        found.append(f"The project expects Hounsfield units, and no voxel is below {AIR}: check that these are CT images.")
    return [*found, *(f"{name} is the same in all cases." for name, values in look.features(project) if not values.std())]


def _rows(project: ProjectConfig, look: Look, labels: Mapping[str, int], training: int, held_out: int) -> list[list[str]]:
    rows = [["Cases", str(len(look.samples))], ["To learn from", str(training)], ["Held out", str(held_out)]]
    unit = " voxels" if project.task == "segmentation" else ""
    rows += [[name, f"{count:,}{unit}"] for name, count in labels.items()]
    if not labels:
        values = np.array([sample.target for sample in look.samples])
        rows.append([project.target, f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g})"])
    if look.spacing:
        rows.append(["Spacing", f"{_sizes(np.median(look.spacing, 0))} mm (median)"])
        rows.append(["Size", f"{_sizes(np.min(look.shapes, 0))} to {_sizes(np.max(look.shapes, 0))} voxels"])
        low, middle, high = np.quantile(np.concatenate(look.probes), [0.01, 0.5, 0.99])
        rows.append(["Intensities", f"{low:.4g} to {high:.4g}, median {middle:.4g}"])
    if not look.probes:
        rows.append(["Features", str(len(project.features))])
    return rows


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    """Shares of the values in equal bins; the extreme 0.1 % are left out of the range."""
    low, high = np.quantile(values, [0.001, 0.999])
    counts, edges = np.histogram(values.clip(low, high), BINS)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).tolist()}


def _sizes(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)

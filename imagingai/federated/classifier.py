"""A classifier or regressor in a file, with all that is needed to use it on new images or features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from imagingai.errors import InputError, WeightsError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import build_network, find_cases, read_all
from imagingai.federated.nyul import standardize
from imagingai.job import Report, ignore
from imagingai.weights import fill, read_tensors, write_tensors

LEAST = 10  # cases whose own mean and deviation may stand for those of a site


@dataclass(frozen=True)
class Description:
    """What a classifier is and expects. histogram: average one of the sites (nyul); about: where it comes from.

    mean, deviation: of the features at the site that saved it (roi tasks). They never leave a site by themselves: every
    site brings its features to mean 0 and deviation 1 with those of its own training cases, which also removes a constant
    difference of scanners. Empty if the aggregator saved it: then those of the new cases are taken. Whoever passes the file of
    a site on passes them on.
    """

    project: ProjectConfig
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    histogram: tuple[float, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def scale(self, inputs: np.ndarray) -> np.ndarray:
        """What the network sees, float32: standardized features, or the image, harmonized if there is a histogram."""
        if self.histogram:
            return standardize(inputs, self.histogram)
        return ((inputs - self.mean) / self.deviation if self.mean else inputs).astype(np.float32)

    def to_unit(self, value: float) -> float:
        """A value to predict, on the scale of the network."""
        low, high = self.project.target_range
        return (value - low) / (high - low)

    def from_unit(self, value: Any) -> Any:
        """The opposite of `to_unit`."""
        low, high = self.project.target_range
        return low + value * (high - low)


@dataclass
class Classifier:
    """A network, frozen, with its description."""

    description: Description
    network: nn.Module


def save_classifier(path: Path, network: nn.Module, description: Description, facts: dict[str, Any]) -> None:
    """Write .safetensors in half precision with the description as JSON."""
    content = {"classifier": asdict(description.project), **{k: v for k, v in vars(description).items() if k != "project"}}
    tensors = {name: value for name, value in network.state_dict().items() if value.dim()}  # not how many batches were seen
    write_tensors(path, tensors, {**content, "about": facts})


def load_classifier(path: str | Path) -> Classifier:
    """The classifier or regressor of a file, on the CPU. Raises `WeightsError` if it is missing, broken or something else."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no model {path}. Take the file that a federated training wrote.")
    tensors, facts = read_tensors(path)
    known = {option.name for option in dataclasses.fields(ProjectConfig)}
    if "classifier" not in facts or not set(facts["classifier"]) <= known:
        raise WeightsError(f"{path} holds no classifier of this version. Take a file that a federated training of ImagingAI wrote.")
    project = ProjectConfig(**_tuples(facts["classifier"]))
    values = {item.name: facts[item.name] for item in dataclasses.fields(Description) if item.name != "project"}
    network = build_network(project)
    fill(network, {name: value for name, value in network.state_dict().items() if not value.dim()} | tensors, path)
    return Classifier(Description(project, **_tuples(values)), network.eval().requires_grad_(False))


@torch.no_grad()
def predict(model: Classifier, inputs: Mapping[str, Path], *, own_scale: bool = False, report: Report = ignore) -> list[dict[str, Any]]:
    """One row for each case: case, prediction, and the probability of every class.

    inputs: images (and labels), or a table; it needs no column of the target. own_scale: standardize features by the new
    cases, for those of another site than the one that saved the model; raises InputError for fewer than 10 of them.
    """
    project = dataclasses.replace(model.description.project, target="")
    found = find_cases(project, inputs)
    if found.problems:
        raise InputError(found.problems[0][1])
    samples = read_all(found, report)
    if not samples:
        raise InputError(f"{inputs['table']} has no cases: there is no row below its header.")
    description = model.description
    if project.task.startswith("roi") and (own_scale or not description.mean):
        if len(samples) < LEAST:
            raise InputError(f"{len(samples)} cases are too few to know the usual features of a site; {LEAST} are needed.")
        description = dataclasses.replace(description, **statistics([sample.input for sample in samples]))
    seen = torch.from_numpy(np.stack([description.scale(sample.input) for sample in samples]))
    outputs = torch.cat([model.network(some) for some in seen.split(project.batch)])
    if project.task == "roi-regression":
        return [{"case": s.name, "prediction": float(description.from_unit(float(o)))} for s, o in zip(samples, outputs[:, 0], strict=True)]
    rows = []
    for sample, probability in zip(samples, torch.softmax(outputs, 1).tolist(), strict=True):
        best = project.classes[int(np.argmax(probability))]
        rows.append({"case": sample.name, "prediction": best, **dict(zip(project.classes, probability, strict=True))})
    return rows


def statistics(features: list[np.ndarray]) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of every feature; a constant one has the deviation 1."""
    values = np.stack(features).astype(float)
    deviation = values.std(0)
    return {"mean": tuple(values.mean(0).tolist()), "deviation": tuple(np.where(deviation > 0, deviation, 1.0).tolist())}


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

"""What a site learns from: a network, the loss of its cases, the figures on those held out. What all kinds of tasks share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from imagingai.datasets import split
from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.sharing import shared_names
from imagingai.job import Report, ignore

# Where each task is: build(project) -> network, find(project, inputs) -> Found, open_cases(project, found, histogram, report) -> Learner,
# save(project, network, path, facts, histogram)
MODULES = {"segmentation": "segmentation", "image-classification": "images", "roi-classification": "roi", "roi-regression": "roi"}


class Learner(Protocol):
    """The data of a site, ready to be learned from, whatever the task is.

    examples: training cases; held_out: cases that only measure; labels: training cases of each class, voxels of each
    structure, or nothing (regression).
    """

    network: nn.Module
    examples: int
    held_out: int
    labels: dict[str, int]

    def example(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """One randomly changed training case: input (C, *grid) or (features,) and target. The same for the same index and seed."""
        ...

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean over the batch of a loss of each case by itself; weights: of the classes (FedSLD).

        No case sees another one, so that the mean over all sites is the loss of the pooled data (FedSGD), and the gradient
        of a case can be bounded (differential privacy).
        """
        ...

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures on the held-out cases, or on the training cases if none are held out: loss, score (higher is better) and others."""
        ...

    def save(self, path: Path, network: nn.Module, facts: dict[str, Any]) -> None:
        """Write .safetensors that can be used on new data; facts: where the model comes from."""
        ...

    def histogram(self) -> list[float]:
        """Average histogram of the training images before they are harmonized (nyul)."""
        ...


@dataclass
class Found:
    """Cases of a site before they are read. cases: name -> reads and checks it; problems: (case, sentence) of what does not fit.

    files: name -> images; remarks: sentences on what is left out.
    """

    cases: dict[str, Callable[[], Any]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def build_network(project: ProjectConfig) -> nn.Module:
    """The network of a project with random weights, the same on every machine. Raises InputError for settings that do not fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(project.seed)
        return task_module(project).build(project)


def open_learner(
    project: ProjectConfig, inputs: Mapping[str, Path], *, histogram: Sequence[float] | None = None, report: Report = ignore
) -> Learner:
    """Read the data of a site. inputs: images, labels (folders), table (CSV); histogram: the average one of the sites (nyul).

    Raises InputError for the first case that does not fit the project; `survey.check_data` lists all of them.
    """
    found = find_cases(project, inputs)
    if found.problems:
        others = len(found.problems) - 1
        raise InputError(found.problems[0][1] + (f" ({others} more cases do not fit; the data check lists them.)" if others else ""))
    if len(found.cases) < 2:
        raise InputError(f"{len(found.cases)} case is not enough: a site needs at least 2, one to learn from and one to measure.")
    return task_module(project).open_cases(project, found, histogram, report)


def save_network(
    project: ProjectConfig, network: nn.Module, path: Path, facts: dict[str, Any], histogram: Sequence[float] | None = None
) -> None:
    """What `Learner.save` does, where there are no data: at the aggregator."""
    task_module(project).save(project, network, path, facts, histogram)


def find_cases(project: ProjectConfig, inputs: Mapping[str, Path]) -> Found:
    """The cases that the inputs name, not read yet. Raises InputError if an input is missing."""
    return task_module(project).find(project, inputs)


def task_module(project: ProjectConfig) -> ModuleType:
    """The module that knows the task of a project."""
    return importlib.import_module(f"imagingai.federated.{MODULES[project.task]}")


def head_of(network: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of the last layer, which `private = head` keeps at the site."""
    *_, (name, layer) = ((name, layer) for name, layer in network.named_modules() if list(layer.parameters(recurse=False)))
    return tuple(f"{name}.{own}" if name else own for own, _ in layer.named_parameters(recurse=False))


def shared_shapes(project: ProjectConfig, network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that a site sends in a round: the one answer to what leaves, for sites, aggregator and invitation."""
    state = network.state_dict()
    return {name: tuple(state[name].shape) for name in shared_names(network, project.private, head_of(network))}


def need(inputs: Mapping[str, Path], names: Sequence[str], task: str) -> list[Path]:
    """The inputs of these names; raises InputError for one that is missing."""
    for name in names:
        if name not in inputs:
            raise InputError(f"{task} needs --{name}, and it was not given.")
    return [Path(inputs[name]) for name in names]


def divide(
    names: Sequence[str], share: float, groups: Sequence[Any] | None = None, patients: Sequence[str] | None = None
) -> tuple[list[int], list[int]]:
    """Positions of the cases to learn from and of those held out: every n-th by name, in each group (class) by itself.

    The same every time, whoever asks. All cases of a patient stay together; without patients each case is one of its own.
    A group of a single patient is learned from.
    """
    groups, patients = groups or [0] * len(names), patients or names
    order, first, held = sorted(range(len(names)), key=lambda k: names[k]), {}, set()
    for k in order:
        first.setdefault(patients[k], k)
    for group in sorted(set(groups)):
        members = [patient for patient, k in first.items() if groups[k] == group]
        held |= set(split(members, share)[1]) if len(members) > 1 else set()
    return [k for k in order if patients[k] not in held], [k for k in order if patients[k] in held]


def read_all(found: Found, report: Report) -> list[Any]:
    """Every case, read and checked."""
    cases = []
    for number, (name, read) in enumerate(found.cases.items()):
        report(number / len(found.cases), f"Reading {name}")
        cases.append(read())
    return cases


def seed_of(*numbers: int) -> int:
    """One seed made of several numbers, below 2**31; the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1

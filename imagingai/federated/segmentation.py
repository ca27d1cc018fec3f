"""Structures in images: the networks, cases and views of train-segmentation, trained in a federation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagingai import datasets
from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import Found, build_network, divide, need, read_all, seed_of
from imagingai.job import Report
from imagingai.training import dice_cross_entropy, dice_per_class
from imagingai.uncertainty.config import TrainSegmentationConfig
from imagingai.uncertainty.data import Case, Survey, Views, load_case
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, save_model
from imagingai.uncertainty.model import build_network as build_model
from imagingai.uncertainty.networks import ProbabilisticUNet
from imagingai.uncertainty.train import describe as describe_model

VIEWS = {2: 8, 3: 2}  # of each held-out case
BETA = TrainSegmentationConfig().beta
SIDES = {"left", "right", "l", "r", "lh", "rh"}  # words in the name of a structure that has a mirror image of another name


def build(project: ProjectConfig) -> nn.Module:
    """The network of train-segmentation."""
    return build_model(describe(project))


def describe(project: ProjectConfig) -> ModelDescription:
    """The model that a project trains. Raises InputError for settings that do not fit together."""
    if not project.classes:
        raise InputError("--classes is empty: segmentation needs the names of the structures, without the background.")
    if project.augmentation not in ("auto", "none"):
        raise InputError(f"--augmentation {project.augmentation} is for image-classification; segmentation has auto or none.")
    if project.harmonization != "none":
        raise InputError("--harmonization nyul is for image-classification; segmentation learns any contrast by its augmentation.")
    if project.values and len(project.values) != len(project.classes):
        raise InputError(f"--classes has {len(project.classes)} names, and --values {len(project.values)} values: give one for each name.")
    values = project.values or tuple(range(1, len(project.classes) + 1))
    found = Survey((0, *values), {}, (), project.dimension, project.channels, False, ())
    wanted = TrainSegmentationConfig(
        model=project.model,
        network=project.size,
        dimension=project.dimension,
        patch=project.patch,
        spacing=project.spacing,
        intensity=project.intensity,
        names=project.classes,
        flip=not any(SIDES & set(name.lower().replace("-", " ").replace("_", " ").split()) for name in project.classes),
    )
    return describe_model(found, wanted)


def find(project: ProjectConfig, inputs: Mapping[str, Path]) -> Found:
    """The labeled images; images without labels are left out."""
    images, labels = need(inputs, ["images", "labels"], project.task)
    description = describe(project)
    every = datasets.find_cases(images, labels)
    cases = [case for case in every if case.labels]
    without = [case.name for case in every if not case.labels]
    remarks = [f"{len(without)} of {len(every)} images have no labels and are left out: {', '.join(without[:5])}."] if without else []
    return Found({case.name: partial(load_case, case, description) for case in cases}, [], {c.name: c.images for c in cases}, remarks)


def open_cases(project: ProjectConfig, found: Found, _histogram: Sequence[float] | None, report: Report) -> SegmentationLearner:
    """A learner of the labeled images."""
    return SegmentationLearner(project, read_all(found, report))


def save(project: ProjectConfig, network: nn.Module, path: Path, facts: dict[str, Any], _histogram: Sequence[float] | None) -> None:
    """See `learner.save_network`."""
    save_model(path, SegmentationModel(replace(describe(project), about=facts), [network]))


class SegmentationLearner:
    """A `Learner` of labeled images: random views of them, as train-segmentation takes."""

    def __init__(self, project: ProjectConfig, cases: Sequence[Case]) -> None:
        self.project, self.description, self.network = project, describe(project), build_network(project)
        self.strength = 0.0 if project.augmentation == "none" else 1.0
        training, held_out = divide([case.name for case in cases], project.held_out)
        self.training, self.measured = [cases[k] for k in training], [cases[k] for k in held_out]
        self.examples, self.held_out = len(training), len(held_out)
        counts = sum(np.bincount(case.labels.ravel(), minlength=len(self.description.classes)) for case in self.training)
        self.labels = dict(zip(self.description.classes[1:], counts[1:].tolist(), strict=True))

    def example(self, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """See `Learner`: a view of the case, image (C, *patch) and classes (*patch)."""
        return Views([self.training[index]], self.description, self.strength)(seed)

    def loss(self, network: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross entropy and Dice loss of each image by itself; weights of the structures count in the cross entropy."""
        divergence = 0.0
        if isinstance(network, ProbabilisticUNet):
            logits, divergence = network.learn(inputs, targets)
        else:
            logits = network(inputs)
        losses = torch.stack([dice_cross_entropy(one[None], true[None]) for one, true in zip(logits.float(), targets, strict=True)])
        if weights is not None:
            of_voxels = torch.cat([weights.new_ones(1), weights])[targets]  # the background counts as it is
            losses = losses + ((of_voxels - 1) * F.cross_entropy(logits.float(), targets, reduction="none")).flatten(1).mean(1)
        return losses.mean() + BETA * divergence

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """See `Learner`: dice, its mean over the structures (also the score), and `dice <structure>`, on fixed views of the cases."""
        device, losses, dices = next(network.parameters()).device, [], []
        network.eval()
        places = [(k, view) for k in range(len(self.measured or self.training)) for view in range(VIEWS[self.description.dimension])]
        for first in range(0, len(places), self.project.batch):
            views = [self._unchanged(*place) for place in places[first : first + self.project.batch]]
            images, targets = (torch.stack(some).to(device) for some in zip(*views, strict=True))
            for logits, classes in zip(network(images).float().split(1), targets.split(1), strict=True):
                losses.append(float(dice_cross_entropy(logits, classes)))
                dices.append(dice_per_class(logits, classes).cpu()[1:])
        named = zip(self.description.classes[1:], torch.stack(dices).nanmean(0).tolist(), strict=True)
        known = {f"dice {name}": value for name, value in named if value == value}  # a structure that is nowhere has none
        dice = float(np.mean(list(known.values()))) if known else 0.0
        return {"loss": float(np.mean(losses)), "score": dice, "dice": dice, **known}

    def _unchanged(self, number: int, view: int) -> tuple[Tensor, Tensor]:
        """A piece of a case that measures, always the same."""
        return Views([(self.measured or self.training)[number]], self.description, 0.0)(seed_of(number, view))

    def save(self, path: Path, network: nn.Module, facts: dict[str, Any]) -> None:
        """See `Learner`; the file is used by `imagingai segment`."""
        save(self.project, network, path, facts, None)

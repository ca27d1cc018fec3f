"""Train a segmentation model on the labels of one or several readers (Czolbe et al. 2021, sections 3 and 4.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagingai.device import choose_device
from imagingai.errors import InputError
from imagingai.job import Report, ignore, part
from imagingai.training import Schedule, dice_cross_entropy, dice_per_class, train
from imagingai.uncertainty.calibration import fit_temperature
from imagingai.uncertainty.config import TrainSegmentationConfig
from imagingai.uncertainty.data import Case, Survey, Views
from imagingai.uncertainty.domain import domain_features, learn_domain
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, build_network
from imagingai.uncertainty.networks import STAGES, ProbabilisticUNet

Draw = Callable[[int], tuple[Tensor, Tensor]]  # seed -> image (C, *patch), classes (*patch) long
HELD_OUT = 10**9  # first seed of the views that validate
VIEWS = {2: 32, 3: 8}  # how many of them
TOGETHER = {2: 8, 3: 1}  # in one pass
PATCH = {2: 128, 3: 64}
DOMAIN = 64
SAMPLES, VOXELS = 8, 2000  # of every held-out view, for the temperature


@dataclass(frozen=True)
class Source:
    """Views to learn from and to validate on. readers: what the members of an ensemble divide among them.

    images: whole training images (C, X, Y, Z), at most `DOMAIN` of them, from which the model learns what is usual.
    """

    training: Callable[[str | None], Draw]  # of a reader
    held_out: Draw
    readers: tuple[str, ...]
    images: Callable[[], Iterable[np.ndarray]]


def describe(found: Survey, config: TrainSegmentationConfig) -> ModelDescription:
    """What the model of a training will be."""
    dimension = config.dimension or found.ndim
    if dimension == 3 and found.ndim == 2:
        raise InputError("--dimension 3 needs volumes, and the images are 2-D. Leave it out.")
    names = config.names or tuple(found.names.get(value, f"label {value}") for value in found.values[1:])
    if len(names) != len(found.values) - 1:
        raise InputError(f"--names has {len(names)} names, and the labels have {len(found.values) - 1} values: {found.values[1:]}.")
    if double := [name for name, count in Counter(name.lower() for name in ("background", *names)).items() if count > 1]:
        raise InputError(f"Two structures have the name {double[0]}: give every value a name of its own.")
    spacing = config.spacing or found.spacing
    spacing = spacing * 3 if len(spacing) == 1 else (*spacing, 1.0)[:3]
    intensity = config.intensity if config.intensity != "auto" else "ct" if found.is_ct else "robust"
    return ModelDescription(
        config.model,
        config.network,
        dimension,
        found.channels,
        ("background", *names),
        found.values,
        spacing,
        patch_of(config, dimension),
        intensity,
        config.flip,
        config.members if config.model == "ensemble" else 1,
        config.dropout,
        config.latent,
    )


def patch_of(config: TrainSegmentationConfig, dimension: int) -> tuple[int, int, int]:
    """The window of the model; a model of slices has one voxel along their axis."""
    patch = config.patch or (PATCH[dimension],)
    patch = patch * dimension if len(patch) == 1 else patch
    if len(patch) != dimension or any(n % 2**STAGES for n in patch):
        raise InputError(f"--patch {' '.join(map(str, patch))}: give one number, or {dimension}, that are multiples of {2**STAGES}.")
    return (*patch, 1)[:3]


def views_of(training: Sequence[Case], held_out: Sequence[Case], description: ModelDescription, config: TrainSegmentationConfig) -> Source:
    """The source of a training on cases. Without held-out cases the views that validate are of the same cases."""
    readers = tuple(sorted({reader for case in training for reader in case.readers}))
    return Source(
        lambda reader: Views(training, description, config.augmentation, reader),
        Views(held_out or training, description, 0.0),
        readers,
        lambda: (case.image for case in training[:DOMAIN]),
    )


def check_classes(cases: Sequence[Case], description: ModelDescription) -> None:
    """Raise InputError for a structure that no case to learn from has."""
    present = torch.zeros(len(description.classes), dtype=torch.bool)
    for case in cases:
        present[torch.from_numpy(case.labels).unique().long()] = True
    if missing := [name for name, found in zip(description.classes[1:], present[1:].tolist(), strict=True) if not found]:
        raise InputError(
            f"None of the {len(cases)} images to learn from has {', '.join(missing)}: only images that are held out have it. "
            "Label more images, or choose another --held-out."
        )


def train_model(
    source: Source,
    description: ModelDescription,
    config: TrainSegmentationConfig,
    folder: Path,
    *,
    initial: Sequence[dict[str, Tensor]] | None = None,
    report: Report = ignore,
) -> tuple[SegmentationModel, list[list[dict[str, float]]]]:
    """Train all networks of a model; returns it and the history of each network. initial: weights that they start from.

    The state is kept in folder/member1, member2 ...: the same call goes on exactly where a stopped one was.
    """
    networks, histories, device = [], [], choose_device(config.device)
    held_out = _batch(source.held_out, HELD_OUT, VIEWS[description.dimension])
    for number in range(description.members):
        torch.manual_seed(config.seed + number)
        network = build_network(description)
        if initial:
            network.load_state_dict(initial[number])
        reader = source.readers[number % len(source.readers)] if description.members > 1 and len(source.readers) > 1 else None
        draw, first = source.training(reader), (config.seed * description.members + number) * 100_000_000
        history = train(
            network.to(device),
            lambda step, draw=draw, first=first: _batch(draw, first + step * config.batch, config.batch),
            partial(loss_of, criterion=criterion_of(config, source), beta=config.beta),
            Schedule(config.steps, config.learning_rate, config.every, config.patience, config.precision == "bfloat16"),
            folder / f"member{number + 1}",
            validate=lambda net: validate(net, held_out, description, criterion_of(config, source), config.beta),
            report=part(report, number / description.members, (number + 1) / description.members),
        )
        networks.append(network.cpu().eval().requires_grad_(False))
        histories.append(history)
    model = SegmentationModel(description, networks)
    description = replace(description, temperature=learn_temperature(model, held_out))
    domain = learn_domain([domain_features(model, image) for image in source.images()])
    return SegmentationModel(replace(description, domain=domain), networks), histories


@torch.no_grad()
def learn_temperature(model: SegmentationModel, held_out: tuple[Tensor, Tensor]) -> float:
    """The temperature that makes the mean of the samples most likely on the held-out views (Guo et al. 2017, section 4.2)."""
    some = []
    for image, classes in zip(*held_out, strict=True):
        logits = model.sample(image[None], range(SAMPLES))[0].flatten(2)  # (S, K, N)
        chosen = slice(None, None, max(1, logits.shape[-1] // VOXELS))
        some.append((logits[..., chosen], classes.flatten()[chosen]))
    logits, classes = torch.cat([values for values, _ in some], -1), torch.cat([true for _, true in some])
    return round(fit_temperature(logits.movedim(-1, 1).numpy(), classes.numpy()), 4)


def criterion_of(config: TrainSegmentationConfig, source: Source) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy as in the paper; with one reader also the Dice loss, which finds small structures sooner."""
    kind = config.loss
    if kind == "auto":
        kind = "cross_entropy" if len(source.readers) > 1 else "dice_cross_entropy"
    return F.cross_entropy if kind == "cross_entropy" else dice_cross_entropy


def loss_of(network: nn.Module, images: Tensor, classes: Tensor, criterion: Callable, beta: float, draw: bool = True) -> Tensor:
    """What is minimized; for the Probabilistic U-Net criterion + beta KL(posterior || prior), section 4.2."""
    if isinstance(network, ProbabilisticUNet):
        logits, divergence = network.learn(images, classes, draw)
        return criterion(logits.float(), classes) + beta * divergence
    return criterion(network(images).float(), classes)


@torch.no_grad()
def validate(network: nn.Module, held_out: tuple[Tensor, Tensor], description: ModelDescription, criterion: Callable, beta: float) -> dict:
    """The loss on held-out views (the score is its negative) and the Dice of every structure."""
    device = next(network.parameters()).device
    losses, dices = [], []
    for images, classes in zip(*(some.split(TOGETHER[description.dimension]) for some in held_out), strict=True):
        images, classes = images.to(device), classes.to(device)
        losses.append(loss_of(network, images, classes, criterion, beta, draw=False) * len(images))
        dices += [dice_per_class(logits[None], one[None]).cpu() for logits, one in zip(network(images), classes, strict=True)]
    loss = float(torch.stack(losses).sum()) / len(held_out[0])
    dice = torch.stack(dices)[:, 1:].nanmean(0)
    named = {f"dice {name}": round(float(value), 4) for name, value in zip(description.classes[1:], dice, strict=True)}
    return {"score": -loss, "loss_validation": loss, "dice": round(float(dice.nanmean()), 4), **named}


def _batch(draw: Draw, first: int, count: int) -> tuple[Tensor, Tensor]:
    images, classes = zip(*map(draw, range(first, first + count)), strict=True)
    return torch.stack(images), torch.stack(classes)

"""`imagingai train-features`: train a feature extractor and write it with a model card."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagingai.device import choose_device, use_threads
from imagingai.errors import WeightsError
from imagingai.features.config import TrainFeaturesConfig
from imagingai.features.data import Source, find_source
from imagingai.job import Report, part
from imagingai.networks import build, parameters
from imagingai.training import FREE, Schedule, clear_state, dice_cross_entropy, dice_per_class, files_in, keep_state, train
from imagingai.weights import Description, load_weights, save_weights

HELD_OUT = 10**9  # first seed of the images that are validated on
IMAGES = 8  # how many of them


def run(inputs: dict[str, Path], config: TrainFeaturesConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Train on the inputs (`label_maps`, or `images` and `labels`, or none; `initial` weights) and write into the folder.

    Writes features.safetensors, model_card.md and history.json. The state of an unfinished training is kept in
    `training` beside the folder, which a stopped job leaves, so that the same job goes on where it stopped.
    """
    use_threads(config.threads)
    report(0.0, "Reading the training data")
    source = find_source(inputs, config)
    description = describe(source, config)
    network = _start(inputs.get("initial"), description, config.seed).to(choose_device(config.device))
    held_out = [source.held_out(HELD_OUT + k) for k in range(IMAGES)]
    schedule = Schedule(config.steps, config.learning_rate, config.every, config.patience, config.precision == "bfloat16")
    state, began = folder.parent / "training", time.time()
    keep_state(state, {name: value for name, value in vars(config).items() if name not in FREE}, files_in(inputs.values()))
    criterion = dice_cross_entropy if config.kind == "seg" else F.mse_loss
    history = train(
        network,
        lambda step: draw_batch(source, config, step),
        lambda net, images, targets: criterion(net(images).float(), targets),
        schedule,
        state,
        validate=lambda net: validate(net, held_out, description),
        report=part(report, 0.02, 1.0),
    )
    save_weights(folder / "features.safetensors", network, description)
    (folder / "history.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
    best = max(history, key=lambda row: row["score"])
    (folder / "model_card.md").write_text(model_card(source, config, description, best, parameters(network)), encoding="utf-8")
    clear_state(state)
    return {"parameters": parameters(network), "seconds_of_training": round(time.time() - began, 1), **best}


def describe(source: Source, config: TrainFeaturesConfig) -> Description:
    """What the weights will be for; an auto-encoder has one output, the image."""
    classes = source.classes if config.kind == "seg" else ("image",)
    return Description(config.network, config.kind, source.dimension, classes, source.spacing)


def _start(initial: Path | None, description: Description, seed: int) -> nn.Module:
    """A new network of random weights, or one to go on from."""
    torch.manual_seed(seed)
    if initial is None:
        return build(description.network, description.kind, description.dimension, len(description.classes))
    network, found = load_weights(initial)
    same = ("network", "kind", "dimension", "classes")
    for name in same:
        if getattr(found, name) != getattr(description, name):
            raise WeightsError(f"--initial {initial} is for another {name}: {getattr(found, name)}, not {getattr(description, name)}.")
    return network.requires_grad_(True)


def draw_batch(source: Source, config: TrainFeaturesConfig, step: int) -> tuple[Tensor, Tensor]:
    """The images (B, 1, *shape) of a step and what to make of them: classes (B, *shape), or the images."""
    first = config.seed * 100_000_000 + step * config.batch
    images, classes = (torch.stack(part) for part in zip(*map(source.training, range(first, first + config.batch)), strict=True))
    return images, (classes if config.kind == "seg" else images)


@torch.no_grad()
def validate(network: nn.Module, held_out: list[tuple[Tensor, Tensor]], description: Description) -> dict[str, float]:
    """Mean Dice and Dice per class on held-out images; for an auto-encoder the mean squared error."""
    device = next(network.parameters()).device
    outputs = [(network(image[None].to(device)).cpu(), image[None], classes[None]) for image, classes in held_out]
    if description.kind == "ae":
        error = float(torch.stack([F.mse_loss(output, image) for output, image, _ in outputs]).mean())
        return {"score": -error, "mse": error}
    dice = torch.stack([dice_per_class(output, classes) for output, _, classes in outputs]).nanmean(0)
    named = {name: round(float(value), 4) for name, value in zip(description.classes, dice, strict=True)}
    return {"score": float(dice[1:].nanmean()), **named}


def model_card(source: Source, config: TrainFeaturesConfig, description: Description, best: dict[str, float], size: int) -> str:
    """What a person needs to know before using the weights."""
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in best.items())
    options = ", ".join(f"{name} {getattr(config, name)}" for name in ("steps", "batch", "learning_rate", "precision", "seed"))
    return f"""# Feature extractor: {description.kind}, {description.dimension}-D

- Network: {description.network}, {size} weights; outputs: {", ".join(description.classes)}
- Trained on: {source.text}; spacing {f"{description.spacing:g} mm" if description.spacing else "any"}
- Training: {options}
- Use: `imagingai register --similarity ncc+deepsim_{description.kind} --features features.safetensors ...`

Best validation, on images of the held-out part:

| figure | value |
|---|---|
{figures}
"""

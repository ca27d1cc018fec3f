"""The models of the evidence: how each data set is trained, and what the models predict on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SMALL  # sets one thread before torch starts
from pixels import Prediction
from prepare import Item, read

from imagingai.uncertainty.config import SegmentConfig, TrainSegmentationConfig
from imagingai.uncertainty.data import Case, Survey
from imagingai.uncertainty.frame import prepare
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, load_model, save_model
from imagingai.uncertainty.segment import segment
from imagingai.uncertainty.train import describe, train_model, views_of

SETTINGS: dict[str, dict[str, Any]] = {
    "lidc": {"patch": (64,), "batch": 8, "steps": 1200, "every": 100, "intensity": "ct", "names": ("nodule",)},
    "hippocampus": {"patch": (32, 48, 32), "batch": 2, "steps": 700, "every": 100, "names": ("anterior", "posterior")},
    "cells": {"patch": (128,), "batch": 4, "steps": 300, "every": 100, "names": ("cell",)},
}


def config_of(name: str, model: str, **changes: Any) -> TrainSegmentationConfig:
    """The training of a model on a data set."""
    return TrainSegmentationConfig(model=model, **{**SMALL, **SETTINGS[name], **changes})


def description_of(items: Sequence[Item], config: TrainSegmentationConfig) -> ModelDescription:
    """What the model of these images is."""
    values = tuple(int(value) for value in np.unique(np.concatenate([np.unique(item.labels) for item in items])))
    first = items[0]
    spacing = tuple(float(step) for step in first.spacing)
    survey = Survey(values, {}, spacing, first.volume.ndim, 1, config.intensity == "ct", _readers(first))
    return describe(survey, config)


def _readers(item: Item) -> tuple[str, ...]:
    return tuple(f"reader{number + 1}" for number in range(len(item.labels))) if len(item.labels) > 1 else ("",)


def cases_of(items: Sequence[Item], description: ModelDescription) -> list[Case]:
    """The images as the model sees them."""
    return [Case(item.name, prepare([item.volume], description)[1], item.labels, _readers(item)) for item in items]


def trained(work: Path, name: str, model: str, **changes: Any) -> SegmentationModel:
    """The model, trained now if it is not there; a stopped training goes on."""
    ending = "".join(f"_{key}{value:g}" for key, value in changes.items())
    folder = work / "models" / name / (model + ending)
    file = folder / "model.safetensors"
    if not file.exists():
        config, path = config_of(name, model, **changes), work / "data" / f"{name}.npz"
        torch.set_num_threads(1)
        training, validation = read(path, "train"), read(path, "validation")
        description = description_of(training, config)
        source = views_of(cases_of(training, description), cases_of(validation, description), description, config)
        result, _ = train_model(source, description, config, folder)
        save_model(folder / ".model.safetensors", result)
        os.replace(folder / ".model.safetensors", file)
    return load_model(file)


def predict(model: SegmentationModel, item: Item, samples: int = 16) -> Prediction:
    """What the model says on one image."""
    result = segment([item.volume], model, SegmentConfig(samples=samples, threads=1))
    return Prediction(item.labels, result.probability, result.samples)

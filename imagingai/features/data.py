"""Where training images come from: random shapes, label maps of brains, or the images of a user. Each is seed -> (image, target)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagingai.datasets import list_images, stem
from imagingai.errors import InputError
from imagingai.features.config import TrainFeaturesConfig
from imagingai.synthesis import brain, shapes
from imagingai.synthesis.appearance import degrade, normalize
from imagingai.synthesis.geometry import random_points, sample
from imagingai.volume import Volume, check_image, load, resample_like, same_grid

Draw = Callable[[int], tuple[Tensor, Tensor]]  # seed -> image (1, *shape), classes (*shape) long
STAGES = 3  # the networks halve three times


@dataclass(frozen=True)
class Source:
    """Images to learn from and images held out, both endless; `classes` start with the background; `spacing` in mm, 0 for any."""

    training: Draw
    held_out: Draw
    classes: tuple[str, ...]
    dimension: int
    spacing: float
    text: str


def find_source(inputs: dict[str, Path], config: TrainFeaturesConfig) -> Source:
    """The source that the inputs name: `label_maps`, or `images` with or without `labels`, or nothing: random shapes."""
    if "label_maps" in inputs:
        return _brains(inputs["label_maps"], config)
    if "images" in inputs:
        return _own_images(inputs["images"], inputs.get("labels"), config)
    if "labels" in inputs:
        raise InputError("--labels need --images: the folder of the images that they belong to.")
    draw = shapes.SyntheticShapes(_patch(config, config.dimension))
    return Source(draw, draw, shapes.CLASSES, config.dimension, 0.0, "random shapes")


def _patch(config: TrainFeaturesConfig, dimension: int) -> tuple[int, ...]:
    patch = config.patch or ((96,) if dimension == 2 else (64,))
    patch = patch * dimension if len(patch) == 1 else patch
    if len(patch) != dimension or any(n % 2**STAGES for n in patch):
        raise InputError(f"--patch {' '.join(map(str, patch))}: give one number, or {dimension}, that are multiples of {2**STAGES}.")
    return patch


def _brains(folder: Path, config: TrainFeaturesConfig) -> Source:
    spacing = config.spacing or 2.0
    if spacing != int(spacing):
        raise InputError(f"--spacing {spacing:g}: images are made from label maps of 1 mm at 1, 2, 3 ... mm.")
    files = list_images(folder)
    maps = [brain.load_tissues(file) for file in files]
    count = _held_out(len(files))
    make = [brain.SyntheticBrains(part, _patch(config, 3), int(spacing)) for part in (maps[:-count], maps[-count:])]
    return Source(*make, brain.CLASSES, 3, spacing, f"synthetic images of {len(maps)} brain label maps, {count} of them held out")


def _held_out(count: int) -> int:
    if count < 2:
        raise InputError(f"{count} file is not enough to train: at least one more is needed, which is held out to validate.")
    return max(1, count // 10)


def _own_images(folder: Path, labels: Path | None, config: TrainFeaturesConfig) -> Source:
    if config.kind == "seg" and labels is None:
        raise InputError("--kind seg learns from labels: give --labels, a folder with files of the same names, or choose --kind ae.")
    pairs = [_load_pair(file, labels, config.spacing) for file in list_images(folder)]
    dimension = pairs[0][0].dim() - 1
    if any(image.dim() - 1 != dimension for image, _ in pairs):
        raise InputError(f"{folder} holds 2-D and 3-D images: train on one kind at a time.")
    values = torch.cat([target.unique() for _, target in pairs]).unique()
    pairs = [(image, torch.searchsorted(values, target)) for image, target in pairs]
    count, patch = _held_out(len(pairs)), _patch(config, dimension)
    names = tuple("background" if value == 0 else f"label {value}" for value in values.tolist())
    make = [OwnImages(part, patch) for part in (pairs[:-count], pairs[-count:])]
    text = f"{len(pairs)} images of the user, {count} of them held out"
    return Source(*make, names if labels else ("background",), dimension, config.spacing, text)


def _load_pair(file: Path, labels: Path | None, spacing: float) -> tuple[Tensor, Tensor]:
    """An image (1, *shape), normalized, and its labels (*shape) long (0 if there are none)."""
    image = load(file)
    check_image(image, file.name)
    target = image.with_data(np.zeros((1, *image.shape), np.int16))
    if labels is not None:
        matches = [other for other in list_images(labels) if stem(other) == stem(file)]
        if not matches:
            raise InputError(f"{labels} has no labels for {file.name}: the files need the same names.")
        target = load(matches[0], label=True)
        if not same_grid(image, target):
            raise InputError(f"{matches[0]} is on another grid than {file.name}.")
    if spacing:
        grid = _grid_of(image, spacing)
        image, target = resample_like(image, grid), resample_like(target, grid, interpolation="nearest")
    data, number = torch.from_numpy(image.data[:1].astype(np.float32)), torch.from_numpy(target.data[0].astype(np.int64))
    return (normalize(data[..., 0]), number[..., 0]) if image.ndim == 2 else (normalize(data), number)


def _grid_of(image: Volume, spacing: float) -> Volume:
    """An empty volume over the image with another spacing (mm)."""
    scale = np.array([spacing / s if n > 1 else 1.0 for s, n in zip(image.spacing, image.shape, strict=True)])
    shape = np.maximum(1, np.round(np.array(image.shape) / scale)).astype(int)
    return Volume(np.zeros((1, *shape), np.float32), image.affine @ np.diag([*scale, 1.0]))


@dataclass(frozen=True)
class OwnImages:
    """Random views of given images (1, *size) with labels (*size): place, affine, deformation, then bias, blur, noise and gamma."""

    pairs: list[tuple[Tensor, Tensor]]
    shape: tuple[int, ...]

    def __call__(self, seed: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        image, labels = self.pairs[int(torch.randint(len(self.pairs), (), generator=random))]
        size, patch = torch.tensor(image.shape[1:]), torch.tensor(self.shape)
        room = (size - patch).clamp(min=0)
        center = (size - 1) / 2 + (torch.rand(len(self.shape), generator=random) - 0.5) * room
        points = random_points(self.shape, center, 1.0, random, deformation=1.5)
        view, target = sample(image, points), sample(labels[None].float(), points, mode="nearest")[0].long()
        return degrade(view, random), target

"""What a segmentation model learns from: labeled cases as arrays on the grid of the model, and random views of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagingai.datasets import CaseFiles, read_label_names
from imagingai.errors import InputError
from imagingai.synthesis.appearance import blur
from imagingai.synthesis.geometry import Random, random_points, sample, smooth_noise, uniform
from imagingai.uncertainty.frame import make_frame, prepare, to_grid
from imagingai.uncertainty.model import ModelDescription
from imagingai.volume import Volume, check_image, load, same_grid

CENTERED = 0.67  # share of the views whose center is in a structure
KEPT = 5000  # voxels of a structure that may be centers
AIR = -500  # below it an image has Hounsfield units


@dataclass(frozen=True)
class Case:
    """One image as a model sees it. image: (C, X, Y, Z) float32; labels: (R, X, Y, Z) class index; readers: R names."""

    name: str
    image: np.ndarray
    labels: np.ndarray
    readers: tuple[str, ...]

    @cached_property
    def voxels(self) -> list[np.ndarray]:
        """Some voxels (N, 3) of every structure that any reader has drawn."""
        counts = np.bincount(self.labels.ravel())
        places = [np.argwhere((self.labels == k).any(0)) for k in range(1, len(counts)) if counts[k]]
        return [place[:: len(place) // KEPT + 1] for place in places]


@dataclass(frozen=True)
class Survey:
    """What a first look at labeled files has found."""

    values: tuple[int, ...]  # of all labels, 0 first
    names: dict[int, str]
    spacing: tuple[float, float, float]  # mm, median, axes as the model sees them
    ndim: int
    channels: int
    is_ct: bool
    readers: tuple[str, ...]


# --- files


def load_channels(case: CaseFiles) -> list[Volume]:
    """The channels of a case, checked: on one grid, finite, not constant."""
    channels = [load(file) for file in case.images]
    for file, channel in zip(case.images, channels, strict=True):
        check_image(channel, file.name)
        if not same_grid(channel, channels[0]):
            raise InputError(f"{file} {channel.shape} is on another grid than {case.images[0].name} {channels[0].shape}. Resample it.")
    return channels


def load_labels(case: CaseFiles, image: Volume) -> dict[str, Volume]:
    """The labels of every reader of a case, checked: whole numbers on the grid of the image."""
    found = {reader: load(file, label=True) for reader, file in case.labels.items()}
    for reader, labels in found.items():
        if not same_grid(labels, image):
            file = case.labels[reader]
            raise InputError(
                f"{file} {labels.shape} is on another grid than {case.images[0].name} {image.shape}. "
                "Resample it onto the image, for example with imagingai apply --interpolation nearest."
            )
    return found


def survey(cases: Sequence[CaseFiles], dimension: int = 0) -> Survey:
    """Look at all labeled cases once. Raises InputError for what cannot be learned from."""
    values, names, spacings, dimensions, lowest, readers = set(), {}, [], set(), [], set()
    for case in cases:
        image = load_channels(case)[0]
        labels = load_labels(case, image)
        for reader, volume in labels.items():
            values |= set(np.unique(volume.data).tolist())
            names |= read_label_names(case.labels[reader])
        readers |= set(labels)
        dimensions.add(image.ndim)
        lowest.append(float(image.data.min()))
        spacings.append(make_frame(image, (), dimension or image.ndim).grid.spacing)
    if len(dimensions) > 1:
        raise InputError("The images are 2-D and 3-D: train on one kind at a time.")
    if not values - {0}:
        raise InputError(f"The labels of all {len(cases)} images are empty: every voxel is 0. Check that these are the right files.")
    if len(values | {0}) > 255:
        raise InputError(f"The labels have {len(values)} different values; a model has at most 254 structures. Are these label images?")
    whole = tuple(float(round(s, 4)) for s in np.median(spacings, 0))
    return Survey(
        (0, *sorted(values - {0})),
        names,
        whole,
        dimensions.pop(),
        len(cases[0].images),
        float(np.median(lowest)) < AIR,
        tuple(sorted(readers)),
    )


def load_case(case: CaseFiles, description: ModelDescription) -> Case:
    """A case on the grid of the model. Raises InputError for a label value that the model does not have."""
    channels = load_channels(case)
    labels = load_labels(case, channels[0])
    frame, image = prepare(channels, description)
    maps = [class_index(to_grid(frame, volume, labels=True), description.values, case.labels[reader]) for reader, volume in labels.items()]
    stacked = np.stack(maps) if maps else np.zeros((0, *image.shape[1:]), np.uint8)
    return Case(case.name, image, stacked, tuple(labels))


def class_index(labels: np.ndarray, values: Sequence[int], file: Path | str) -> np.ndarray:
    """Label values to class numbers, uint8. Raises InputError for a value that is none of `values`."""
    index = np.searchsorted(order := np.sort(values), labels).clip(max=len(values) - 1)
    unknown = order[index] != labels
    if unknown.any():
        raise InputError(
            f"{file} has the label {int(labels[unknown][0])}, which the model does not know: its labels are {', '.join(map(str, values))}."
        )
    return np.argsort(values)[index].astype(np.uint8)


# --- random views


@dataclass(frozen=True)
class Views:
    """Random views of cases: place, affine, deformation, mirror image, then contrast, blur and noise.

    Calling it with a seed gives (image (C, *patch), classes (*patch) long); *patch has 2 axes for a model of slices.
    reader: whose labels; None takes those of a random reader. strength 0: unchanged pieces of the image.
    """

    cases: Sequence[Case]
    description: ModelDescription
    strength: float = 1.0
    reader: str | None = None

    def __call__(self, seed: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(seed)
        case = self.cases[int(torch.randint(len(self.cases), (), generator=random))]
        image, labels = torch.from_numpy(case.image), torch.from_numpy(self._labels(case, random))
        center = self._center(case, random)
        if self.description.dimension == 2:
            image, labels, center = image[..., int(center[2])], labels[..., int(center[2])], center[:2]
        shape = self.description.patch[: self.description.dimension]
        points = self._points(shape, center, random)
        low = points.flatten(0, -2).amin(0).floor().long().clamp(min=0) - 1
        box = tuple(slice(max(0, int(a)), max(int(b) + 2, 1)) for a, b in zip(low, points.flatten(0, -2).amax(0).ceil(), strict=True))
        points = points - torch.tensor([float(part.start) for part in box])
        view = sample(image[(slice(None), *box)].float(), points)
        classes = sample(labels[box][None].float(), points, mode="nearest")[0].long()
        return (augment(view, random, self.strength, self.description.intensity) if self.strength else view), classes

    def _labels(self, case: Case, random: Random) -> np.ndarray:
        if self.reader in case.readers:
            return case.labels[case.readers.index(self.reader)]
        return case.labels[int(torch.randint(len(case.labels), (), generator=random))]

    def _center(self, case: Case, random: Random) -> Tensor:
        """A voxel of a structure, each as often as the others, or any voxel; the view lies inside the image as far as it can."""
        size = torch.tensor(case.labels.shape[1:], dtype=torch.float32)
        patch = torch.tensor([*self.description.patch[: self.description.dimension], 1][:3], dtype=torch.float32)
        center = torch.rand(3, generator=random) * (size - 1)
        if uniform(0, 1, random) < CENTERED and case.voxels:
            place = case.voxels[int(torch.randint(len(case.voxels), (), generator=random))]
            center = torch.from_numpy(place[int(torch.randint(len(place), (), generator=random))]).float()
        low, high = torch.minimum(patch / 2, size / 2) - 0.5, torch.maximum(size - patch / 2, size / 2) - 0.5
        return torch.minimum(torch.maximum(center, low), high)

    def _points(self, shape: tuple[int, ...], center: Tensor, random: Random) -> Tensor:
        if self.strength:
            return random_points(shape, center, 1.0, random, deformation=1.5 * self.strength, flip=self.description.flip)
        axes = [torch.arange(n, dtype=torch.float32) - n // 2 + int(c + 0.5) for n, c in zip(shape, center.tolist(), strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def augment(image: Tensor, random: Random, strength: float, intensity: str) -> Tensor:
    """Another scanner: contrast (a bias field and a curve, or for CT a small shift), resolution and noise. image (C, *shape)."""
    shape = tuple(image.shape[1:])
    if intensity == "ct":
        image = image * uniform(1 - 0.05 * strength, 1 + 0.05 * strength, random) + uniform(-0.02, 0.02, random) * strength
    else:
        image = image * torch.exp(0.15 * strength * smooth_noise(shape, 3, len(image), random))
        image = image.clamp(min=0) ** float(np.exp(uniform(-0.3, 0.3, random) * strength))
    if uniform(0, 1, random) < 0.5:
        image = blur(image, (uniform(0, 0.8, random) * strength,) * len(shape))
    return image + 0.05 * strength * uniform(0, 1, random) ** 2 * torch.randn(image.shape, generator=random)

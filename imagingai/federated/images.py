"""Classes of whole images, 2-D or 3-D: small CNN and ResNets, shape priors and augmentations of Linardos et al. (2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imagingai import datasets
from imagingai.datasets import CaseFiles
from imagingai.errors import InputError
from imagingai.federated.cases import CaseLearner, Sample, outputs_of
from imagingai.federated.cases import save as save
from imagingai.federated.classifier import Description
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import Found, need, read_all
from imagingai.federated.roi import Row, patient_of, read_table, read_target
from imagingai.job import Report
from imagingai.synthesis.geometry import sample, smooth_noise, uniform
from imagingai.uncertainty.data import load_channels, load_labels
from imagingai.uncertainty.frame import prepare, to_grid
from imagingai.uncertainty.model import ModelDescription

FEATURES = {2: (16, 32, 64, 128), 3: (8, 16, 32, 64)}  # channels of the small CNN
REDUCTION = 2 ** len(FEATURES[3])  # the networks halve four times
CHANCE = 0.5  # of a training image to be changed
TURN = np.deg2rad(20)
DEFORMATION = 0.02  # of the size of the image, one standard deviation


def build(project: ProjectConfig) -> nn.Module:
    """small: four residual blocks, the mean over the image, a linear layer; resnet10, resnet18: of MONAI, one channel each image."""
    from monai.networks.blocks import ResidualUnit
    from monai.networks.nets import resnet10, resnet18

    outputs, dimension = outputs_of(project), project.dimension
    if max(patch_of(project)) <= REDUCTION:
        raise InputError(f"--patch {' '.join(map(str, project.patch))} is too small: the network needs more than {REDUCTION} voxels.")
    if project.harmonization == "nyul":
        if project.intensity == "ct":
            raise InputError("--harmonization nyul changes the Hounsfield units that --intensity ct keeps. Leave one of them out.")
        if project.channels > 1 and len(project.values) != project.channels:
            raise InputError(f"--harmonization nyul knows one contrast, and a case has {project.channels} images. Leave it out.")
    norm = ("instance", {"affine": True}) if project.normalization == "instance" else "batch"
    if project.size != "small":
        if project.epsilon:
            raise InputError(
                f"--network {project.size} has layers in which the gradient of a single case is not known (--epsilon). Take small."
            )
        make = {"resnet10": resnet10, "resnet18": resnet18}[project.size]
        return make(spatial_dims=dimension, n_input_channels=project.channels, num_classes=outputs, norm=norm)
    features = FEATURES[dimension]
    blocks = [
        ResidualUnit(dimension, i, o, strides=2, subunits=2, act="leakyrelu", norm=norm)
        for i, o in zip((project.channels, *features), features, strict=False)
    ]
    return nn.Sequential(
        *blocks, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dimension - 2](1), nn.Flatten(), nn.Linear(features[-1], outputs)
    )


def patch_of(project: ProjectConfig) -> tuple[int, ...]:
    """Voxels that the network sees, one number for each axis; raises InputError for another number of them."""
    patch = project.patch * project.dimension if len(project.patch) == 1 else project.patch
    if len(patch) != project.dimension:
        raise InputError(f"--patch {' '.join(map(str, patch))}: give one number, or {project.dimension}.")
    return patch


def find(project: ProjectConfig, inputs: Mapping[str, Path]) -> Found:
    """The images, each with its row of the table and, if the project names structures (`values`), with its labels."""
    names = ["images", *(["table"] if project.target else []), *(["labels"] if project.values else [])]
    folders = dict(zip(names, need(inputs, names, project.task), strict=True))
    if "labels" in inputs and not project.values:
        raise InputError("--labels is given, and this project uses the images alone (it names no values of structures). Leave it out.")
    files = {case.name: case for case in datasets.find_cases(folders["images"], folders.get("labels"))}
    paths = {name: case.images for name, case in files.items()}
    if not project.target:
        return Found({name: partial(read_image, project, case, {"case": name}) for name, case in files.items()}, files=paths)
    rows, problems = read_table(folders["table"], [project.target])
    known = {*rows, *(name for name, _ in problems)}
    problems += [(name, f"{name} has an image and no row in {folders['table'].name}.") for name in files if name not in known]
    problems += [(name, f"{name} has a row in {folders['table'].name} and no image.") for name in rows if name not in files]
    return Found({name: partial(read_image, project, files[name], row) for name, row in rows.items() if name in files}, problems, paths)


def read_image(project: ProjectConfig, case: CaseFiles, row: Row) -> Sample:
    """A case, (C, *patch): resampled, scaled, cropped around its middle or its structures.

    With structures (`values` of the project) only they are left: all in one channel, or each in a channel of its own
    (Linardos et al., figure 2 B and C). Raises InputError if the case does not fit the project.
    """
    target, channels = read_target(project, row), load_channels(case)
    if project.dimension == 2 and channels[0].ndim == 3:
        raise InputError(f"{case.images[0].name} is 3-D {channels[0].shape}, and the project learns from 2-D images. Take single slices.")
    split = project.channels > 1 and len(project.values) == project.channels and len(channels) == 1
    if not split and len(channels) != project.channels:
        raise InputError(f"{case.name} has {len(channels)} images, and the project learns from {project.channels} for each case.")
    spacing = project.spacing * 3 if len(project.spacing) == 1 else (*project.spacing, 1.0)[:3]
    seen = ModelDescription("", "", project.dimension, len(channels), (), (), spacing, (), project.intensity)
    frame, image = prepare(channels, seen)
    masks = None
    if project.values:
        labels = next(iter(_labels(case, channels).values()))
        index = to_grid(frame, labels, labels=True)
        masks = np.stack([index == value for value in project.values])
        image = image * masks.any(0)
    center = _middle(masks.any(0), case.name) if masks is not None else (np.array(image.shape[1:]) - 1) / 2
    image = crop(image * masks if split else image, center, (*patch_of(project), 1)[:3])
    return Sample(case.name, image[..., 0] if project.dimension == 2 else image, target, patient_of(row))


def open_cases(project: ProjectConfig, found: Found, histogram: Sequence[float] | None, report: Report) -> CaseLearner:
    """A learner of the images."""
    return CaseLearner(Description(project, histogram=tuple(histogram or ())), read_all(found, report), augmentation(project))


def crop(image: np.ndarray, center: Sequence[float], patch: Sequence[int]) -> np.ndarray:
    """The piece (C, *patch) of an image (C, *grid) around a point in voxels; 0 beyond its edge."""
    result, inner, outer = np.zeros((len(image), *patch), np.float32), [], []
    for middle, n, size in zip(center, patch, image.shape[1:], strict=True):
        first = int(np.floor(middle - (n - 1) / 2))
        inner.append(slice(max(0, -first), max(0, min(n, size - first))))
        outer.append(slice(max(0, first), max(0, min(size, first + n))))
    result[(slice(None), *inner)] = image[(slice(None), *outer)]
    return result


def augmentation(project: ProjectConfig) -> Callable[[Tensor, int], Tensor]:
    """(image (C, *patch), seed) -> the image, half of the time changed by one of the changes of the set (Linardos et al.).

    auto is basic, which served federated training best in the paper (table 4).
    """
    kind = "basic" if project.augmentation == "auto" else project.augmentation
    if kind == "none":
        return lambda image, _seed: image
    changes = _changes(kind, patch_of(project))

    def change(image: Tensor, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        if float(torch.rand((), generator=random)) >= CHANCE:
            return image
        return changes[int(torch.randint(len(changes), (), generator=random))](image, seed)

    return change


def _changes(kind: str, patch: Sequence[int]) -> list[Callable[[Tensor, int], Tensor]]:
    """The changes of a set, each by a random amount that follows from the seed."""
    from monai import transforms

    turn = (0.0, 0.0, TURN) if len(patch) == 3 else TURN  # in the axial plane
    some = [transforms.RandAffine(1.0, rotate_range=turn, padding_mode="zeros"), transforms.RandFlip(1.0, 0), transforms.RandFlip(1.0, 1)]
    if kind == "shape_intensity":
        stripes = tuple(np.log(share * np.prod(patch)) for share in (0.05, 0.3))  # their height in the image
        some += [
            transforms.RandKSpaceSpikeNoise(1.0, intensity_range=stripes),
            transforms.RandBiasField(coeff_range=(0.0, 0.3), prob=1.0),
            transforms.RandGaussianNoise(1.0, std=0.25),
            transforms.RandAdjustContrast(1.0, (0.7, 1.5)),
        ]
    changes = [partial(_apply, transform) for transform in some]
    return changes if kind == "basic" else [*changes, _deform]


def _apply(transform: Any, image: Tensor, seed: int) -> Tensor:
    """A random transform of MONAI, as a function of the seed."""
    return torch.as_tensor(transform.set_random_state(seed=seed)(image)).as_subclass(Tensor)


def _deform(image: Tensor, seed: int) -> Tensor:
    """Elastic deformation; MONAI's takes 20 times as long in 3-D."""
    random, shape = torch.Generator().manual_seed(seed), image.shape[1:]
    amount = torch.tensor(shape) * DEFORMATION * uniform(0.5, 1.5, random)
    points = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"), -1)
    return sample(image, points + smooth_noise(tuple(shape), 5, len(shape), random).movedim(0, -1) * amount)


def _labels(case: CaseFiles, channels: list) -> dict:
    if not case.labels:
        raise InputError(f"{case.name} has no labels, and the project needs the structures of every image.")
    return load_labels(case, channels[0])


def _middle(mask: np.ndarray, name: str) -> np.ndarray:
    """Center of the box around a mask, in voxels."""
    places = np.argwhere(mask)
    if not len(places):
        raise InputError(f"The labels of {name} have none of the structures of the project.")
    return (places.min(0) + places.max(0)) / 2

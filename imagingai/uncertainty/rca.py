"""Reverse Classification Accuracy (Valindria et al., IEEE TMI 2017): how good is a segmentation when nobody has drawn the truth?

The image with its segmentation becomes an atlas of one case, which segments images whose labels are known. Only a good
segmentation can do that well, so the best Dice that it reaches on any of them predicts its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imagingai import metrics
from imagingai.errors import InputError
from imagingai.job import Report, ignore, part
from imagingai.registration import PRESETS, RegistrationConfig, register
from imagingai.transform import Transform, warp
from imagingai.volume import Volume, check_image, check_labels, resample_like

FAST = RegistrationConfig(**PRESETS["fast"], alignment_range=20.0)  # the references lie about as the image does
THUMBNAIL = 16  # voxels along a side: enough to see which references resemble the image


@dataclass(frozen=True)
class Reference:
    """An image whose labels are known, and the transform from it to the image that is tested (RAS mm)."""

    labels: Volume
    transform: Transform


def reverse_classification_accuracy(
    image: Volume,
    segmentation: Volume,
    atlases: Sequence[tuple[Volume, Volume]],
    structures: Mapping[int, str],
    *,
    count: int = 8,
    config: RegistrationConfig = FAST,
    report: Report = ignore,
) -> dict[str, float | None]:
    """Predicted Dice of each structure of a segmentation; None for a structure that no reference has.

    image, segmentation (label values): (1, X, Y, Z) on one grid; atlases: (image, labels) of the references, any grid;
    structures: value -> name; count: how many references (those that resemble the image most) are registered. Of
    each structure the highest Dice over the references counts (Valindria et al. 2017, eq. 6). Raises InputError
    if there is no reference or one that cannot be used.
    """
    references = register_references(image, atlases, count=count, config=config, report=report)
    return best_dice(segmentation, references, structures)


def register_references(
    image: Volume,
    atlases: Sequence[tuple[Volume, Volume]],
    *,
    count: int = 8,
    config: RegistrationConfig = FAST,
    report: Report = ignore,
) -> list[Reference]:
    """Register the image to the references that resemble it most; any segmentation of it can then be judged."""
    check_image(image, "image")
    chosen = _nearest(image, atlases, count)
    if not chosen:
        raise InputError(
            f"There is no atlas image other than the image itself among the {len(atlases)} that were given; "
            "Reverse Classification Accuracy needs labeled images of other people."
        )
    found = []
    for number, (other, labels) in enumerate(chosen):
        check_labels(labels, other, "atlas labels")
        step = part(report, number / len(chosen), (number + 1) / len(chosen))
        step(0.0, f"Comparing with reference {number + 1} of {len(chosen)}")
        found.append(Reference(labels, register(other, image, config, report=step).transform))
    return found


def best_dice(segmentation: Volume, references: Sequence[Reference], structures: Mapping[int, str]) -> dict[str, float | None]:
    """The highest Dice of each structure over the references, with the segmentation as the only atlas; None if none has it."""
    best: dict[str, float | None] = dict.fromkeys(structures.values())
    for reference in references:
        truth = reference.labels.data[0]
        moved = warp(segmentation, reference.transform, reference.labels, interpolation="nearest").data[0]
        for value, dice in metrics.dice(truth, moved, [value for value in structures if np.any(truth == value)]).items():
            best[structures[value]] = max(dice, best[structures[value]] or 0.0)
    return best


def _nearest(image: Volume, atlases: Sequence[tuple[Volume, Volume]], count: int) -> list[tuple[Volume, Volume]]:
    """The atlases that resemble the image most; the image itself is left out, it would judge nothing but its own label."""
    own, alike = _thumbnail(image, image), []
    for number, (other, _) in enumerate(atlases):
        check_image(other, "atlas image")
        if other.ndim != image.ndim:
            raise InputError(f"The image is {image.ndim}-D and an atlas image is {other.ndim}-D. Give atlas images of the same kind.")
        if other.shape != image.shape or not np.array_equal(other.data, image.data):
            alike.append((-float((own * _thumbnail(other, image)).mean()), number))
    return [atlases[number] for _, number in sorted(alike)[:count]]


def _thumbnail(image: Volume, like: Volume) -> np.ndarray:
    """A small picture of mean 0 and deviation 1: the middle of the image, as large in mm as `like`."""
    size = np.array([min(n, THUMBNAIL) for n in like.shape])
    matrix = like.affine.copy()
    matrix[:3, :3] *= np.array(like.shape) / size
    matrix[:3, 3] = image.center - matrix[:3, :3] @ ((size - 1) / 2)
    small = resample_like(image, Volume(np.zeros((1, *size), np.float32), matrix), fill=float(image.data.min())).data[0]
    return (small - small.mean()) / max(float(small.std()), 1e-12)

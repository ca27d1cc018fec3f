"""Between the grid of an image and the grid that a model works on: axes reordered, spacing changed, intensities scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from imagingai.errors import InputError
from imagingai.synthesis.appearance import normalize
from imagingai.uncertainty.model import ModelDescription
from imagingai.volume import Volume, check_image, resample_like, same_grid, smooth_for

SAME = 0.02  # relative difference of spacings that needs no resampling
THICK = 1.2  # slices are cut along an axis whose spacing is so much larger than the others


@dataclass(frozen=True)
class Frame:
    """How an image is seen by a model. grid: an empty volume, what the model works on."""

    image: Volume
    grid: Volume
    order: tuple[int, int, int]
    flips: tuple[int, ...]
    exact: bool  # only axes are reordered

    def to_native(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Values (X, Y, Z) on the grid of the model as float32 on the grid of the image, linear between voxels."""
        if self.exact:
            return np.ascontiguousarray(np.transpose(np.flip(values, self.flips), np.argsort(self.order)), np.float32)
        return resample_like(self.grid.with_data(values), self.image, fill=fill).data[0]


def make_frame(image: Volume, spacing: Sequence[float], dimension: int) -> Frame:
    """The frame for a model that works at `spacing` (3 numbers, mm; empty: as it is) in 2-D slices or in 3-D.

    Axes run to the right, the front and the top; a model that works on slices gets the axis of the slices last.
    """
    order, flips = reading_order(image, dimension)
    ordered = _reordered(image, order, flips)
    target = np.array([*spacing] or ordered.spacing)
    if dimension == 2:
        target[2] = ordered.spacing[2]  # slices stay what they are
    if np.allclose(target, ordered.spacing, rtol=SAME):
        return Frame(image, _empty(ordered.shape, ordered.affine), order, flips, True)
    ratio = target / ordered.spacing
    shape = np.maximum(1, np.ceil(np.array(ordered.shape) / ratio - 1e-3)).astype(int)
    affine = ordered.affine @ np.diag([*ratio, 1.0])
    affine[:3, 3] = ordered.center - affine[:3, :3] @ ((shape - 1) / 2)  # the same center
    return Frame(image, _empty(shape, affine), order, flips, False)


def reading_order(image: Volume, dimension: int) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Order of the axes and which of the ordered axes to flip, for RAS order; a 2-D image stays as it is."""
    if image.ndim == 2:
        return (0, 1, 2), ()
    matrix = image.direction
    order = max(permutations(range(3)), key=lambda o: sum(abs(matrix[row, axis]) for row, axis in enumerate(o)))
    if dimension == 2:
        flat = image.shape.index(1) if 1 in image.shape else None  # one slice, of any orientation
        thick = int(np.argmax(image.spacing)) if flat is None else flat
        others = np.delete(image.spacing, thick)
        last = thick if flat is not None or image.spacing[thick] > THICK * others.max() else order[2]
        order = (*(axis for axis in order if axis != last), last)
    flips = tuple(k for k, axis in enumerate(order) if matrix[int(np.argmax(abs(matrix[:, axis]))), axis] < 0)
    return order, flips


def prepare(channels: Sequence[Volume], description: ModelDescription) -> tuple[Frame, np.ndarray]:
    """The frame of an image and what the model sees, (C, *grid) float32. Raises InputError if it does not fit the model."""
    image = channels[0]
    if len(channels) != description.channels:
        raise InputError(
            f"The model needs {description.channels} channels and got {len(channels)}. Give --image, --image2 ... as in its training."
        )
    for number, channel in enumerate(channels):
        check_image(channel, f"image {number + 1}" if number else "image")
        if not same_grid(channel, image):
            raise InputError(f"Channel {number + 1} has {channel.shape} voxels on another grid than channel 1 {image.shape}. Resample it.")
    if description.dimension == 3 and image.ndim == 2:
        raise InputError(f"The model works in 3-D and the image is 2-D {image.shape}. Choose a 2-D model or a volume.")
    frame = make_frame(image, description.spacing, description.dimension)
    return frame, np.stack([see(frame, channel, description.intensity) for channel in channels])


def see(frame: Frame, channel: Volume, intensity: str) -> np.ndarray:
    """One channel as a model sees it, (*grid) float32: robust: 0..1 by its own range; ct: (HU + 1000) / 1000, 0..2."""
    import torch

    data = to_grid(frame, channel.as_type(np.float32))
    if intensity == "ct":
        return (np.clip(data, -1000, 1000) + 1000) / 1000
    return normalize(torch.from_numpy(data)).numpy()


def to_grid(frame: Frame, volume: Volume, labels: bool = False) -> np.ndarray:
    """The first channel of a volume on the grid of the model, (X, Y, Z); averaged when coarser, nearest for labels."""
    if frame.exact:
        return np.ascontiguousarray(_reordered(volume, frame.order, frame.flips).data[0])
    smooth = volume if labels else smooth_for(volume, frame.grid.spacing[np.argsort(frame.order)])
    fill = 0.0 if labels else float(volume.data.min())
    return resample_like(smooth, frame.grid, interpolation="nearest" if labels else "linear", fill=fill).data[0]


def _reordered(volume: Volume, order: Sequence[int], flips: Sequence[int]) -> Volume:
    """The volume with its axes in another order, some of them flipped; the same image in the world."""
    data = np.flip(np.transpose(volume.data, (0, *(axis + 1 for axis in order))), [axis + 1 for axis in flips])
    affine = volume.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (data.shape[axis + 1] - 1)
        affine[:3, axis] *= -1
    return Volume(data, affine)


def _empty(shape: Sequence[int], affine: np.ndarray) -> Volume:
    return Volume(np.broadcast_to(np.float32(0), (1, *shape)), affine)

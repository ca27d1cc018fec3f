"""Where a displacement field folds, and how it is taken out. Fields (1, D, *grid) in voxels, D = 2 or 3."""

from __future__ import annotations

import logging
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.registration.filters import box, gaussian

log = logging.getLogger(__name__)

SLAB = 1 << 18  # voxels that are worked on at once: bounds the memory and stays in the cache
ROUNDS = 60


def unfold(field: Tensor, smallest: float = 0.01) -> Tensor:
    """The field, smoothed where it folds, or nearly so, until no cell is smaller than `smallest` of its size.

    Smoothing is local, a Gaussian of one voxel with a soft edge, and reaches further if a place does not give way: in
    the limit it makes the field there constant, which folds nothing. What is well behaved stays as it is.
    """
    for attempt in range(ROUNDS):
        folded = (smallest_volume(field) < smallest).to(field.dtype)
        if not folded.any():
            return field
        voxels = F.pad(folded, [0, 1] * (field.ndim - 2)) + F.pad(folded, [1, 0] * (field.ndim - 2))
        near = gaussian((box(voxels, 1 + attempt // 4) > 0).to(field.dtype), 1.0)
        field = torch.lerp(field, gaussian(field, 1.0), near)
    log.warning("The deformation still folds in %d places; use a smaller --step or a larger --smoothing.", int(folded.sum()))
    return field


def smallest_volume(field: Tensor) -> Tensor:
    """Of every cell between 2^D voxels the smallest Jacobian determinant at its corners, (1, 1, *grid - 1).

    At a corner the differences along its edges count. The determinant of central differences is the mean of those of
    the 2^D cells around a voxel, so where all these are positive that is, too (Liu et al., IJCV 2024).
    """
    size, planes = field.ndim - 2, field.shape[2] - 1
    thickness = max(1, SLAB // field[0, 0, 0].numel())
    parts = [_smallest(field[:, :, begin : begin + thickness + 1], size) for begin in range(0, planes, thickness)]
    return torch.cat(parts, 2)


def _smallest(field: Tensor, size: int) -> Tensor:
    edges = []
    for axis in range(size):
        edge = torch.diff(field, dim=2 + axis)
        edge[:, axis] += 1
        edges.append(edge)
    out = None
    for corner in product((0, 1), repeat=size):
        columns = [_at_corner(edge, axis, corner) for axis, edge in enumerate(edges)]
        volume = _determinant(columns)
        out = volume if out is None else torch.minimum(out, volume)
    return out


def _at_corner(edge: Tensor, axis: int, corner: tuple[int, ...]) -> Tensor:
    for other, side in enumerate(corner):
        if other != axis:
            edge = edge.narrow(2 + other, side, edge.shape[2 + other] - 1)
    return edge


def _determinant(columns: list[Tensor]) -> Tensor:
    """det of D columns (1, D, *grid) -> (1, 1, *grid)."""
    a, b = (column.split(1, 1) for column in columns[:2])
    if len(columns) == 2:
        return a[0] * b[1] - a[1] * b[0]
    c = columns[2].split(1, 1)
    volume = (a[1] * b[2] - a[2] * b[1]).mul_(c[0])
    volume.add_((a[2] * b[0] - a[0] * b[2]).mul_(c[1]))
    return volume.add_((a[0] * b[1] - a[1] * b[0]).mul_(c[2]))

"""An image at a few resolutions with its foreground, and sample points of it: what the linear alignment works on.

World coordinates are RAS mm; a 2-D image has Z == 1 and a foreground in its plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.registration.filters import gaussian
from imagingai.volume import Volume

RESOLUTIONS = (25, 50, 100)  # steps along an edge of the mean size of the field of view: coarse, middle, fine
SAMPLES = (20_000, 30_000, 100_000)  # at most so many points at each of them


@dataclass(frozen=True)
class Grid:
    """stack: (C, X, Y, Z); affine: (4, 4), voxel index -> RAS mm."""

    stack: Tensor
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def center(self) -> np.ndarray:
        """(3,) RAS mm, the middle of the grid."""
        return self.affine[:3, :3] @ ((np.array(self.stack.shape[1:]) - 1) / 2) + self.affine[:3, 3]

    def at(self, points: Tensor, matrices: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Linear interpolation at points (N, 3) mapped by M matrices (M, 4, 4): values (C, M, N) and how far inside (M, N), 0..1.

        Beyond the border the last value goes on, and `inside` falls from 1 to 0 over one voxel around it.
        """
        to_index = np.linalg.inv(self.affine) @ (np.eye(4)[None] if matrices is None else matrices)
        to_index, size = (torch.as_tensor(x, dtype=torch.float32, device=points.device) for x in (to_index, self.stack.shape[1:]))
        index = points @ to_index[:, :3, :3].mT + to_index[:, None, :3, 3]
        where = ((2 * index + 1) / size - 1).flip(-1)[None, :, :, None]
        values = F.grid_sample(self.stack[None], where, padding_mode="border", align_corners=False)[0, ..., 0]
        edge = (torch.minimum(index, size - 1 - index) + 1).clamp_(0, 1)
        return values, torch.where(size > 1, edge, 1.0).prod(-1)


@dataclass(frozen=True)
class Scan:
    """An image, ready to be aligned.

    levels: its values in 0..1, coarse to fine, one channel each; foreground: where it shows something, holes closed;
    masks: the user's mask, or nothing.
    """

    levels: tuple[Grid, ...]
    foreground: Grid
    masks: tuple[Grid, ...]

    @property
    def volume(self) -> float:
        """Size of the foreground, mm^3."""
        return float(self.foreground.stack.sum()) * abs(np.linalg.det(self.foreground.affine[:3, :3]))

    @property
    def center_of_mass(self) -> np.ndarray:
        """(3,) RAS mm, of the foreground."""
        index = torch.nonzero(self.foreground.stack[0] > 0.5).double().mean(0).cpu().numpy()
        return self.foreground.affine[:3, :3] @ index + self.foreground.affine[:3, 3]


def mean_size(volume: Volume) -> float:
    """Geometric mean of the edges of the field of view in mm."""
    return float(np.prod((np.array(volume.shape) * volume.spacing)[: volume.ndim]) ** (1 / volume.ndim))


def prepare(volume: Volume, mask: Volume | None, size: float, device: torch.device) -> Scan:
    """The image at about size/25, size/50 and size/100 mm, but never finer than it is. Channels are averaged."""
    image = Grid(volume.tensor(device).mean(1), volume.affine)
    levels = []
    for count in reversed(RESOLUTIONS):
        image = reduce(image, size / count)
        levels.insert(0, image)
    masks = () if mask is None else (reduce(Grid((mask.tensor(device)[0, :1] > 0).float(), mask.affine), size / RESOLUTIONS[1]),)
    image = levels[1]
    bright = foreground(image.stack[0])
    closed = Grid(_close(bright[None].float(), image.spacing, size / RESOLUTIONS[0]), image.affine)
    if masks:
        inside = masks[0].at(_points(closed, torch.ones_like(closed.stack[0], dtype=torch.bool)))[0].view_as(closed.stack)
        closed = Grid(closed.stack * (inside > 0.5), image.affine)
    low, high = _limits(image.stack, closed.stack > 0)
    levels = [Grid(((level.stack - low) / (high - low)).clamp_(0, 1), level.affine) for level in levels]
    levels[0] = Grid(gaussian(levels[0].stack[None], 0.7)[0], levels[0].affine)
    return Scan(tuple(levels), closed if closed.stack.any() else Grid(torch.ones_like(closed.stack), image.affine), masks)


def reduce(grid: Grid, spacing: float) -> Grid:
    """Average blocks of voxels so that they come close to `spacing` mm."""
    sizes = grid.stack.shape[1:]
    factors = [int(np.clip(round(spacing / step), 1, size)) for step, size in zip(grid.spacing, sizes, strict=True)]
    if max(factors) == 1:
        return grid
    block = np.diag([*factors, 1.0])
    block[:3, 3] = (np.array(factors) - 1) / 2
    return Grid(F.avg_pool3d(grid.stack[None], factors, ceil_mode=True, count_include_pad=False)[0], grid.affine @ block)


def foreground(image: Tensor) -> Tensor:
    """Bool (X, Y, Z): what differs from the median of the border by more than half of Otsu's threshold of that difference."""
    faces = [image.select(axis, end).flatten() for axis in range(3) if image.shape[axis] > 1 for end in (0, -1)]
    difference = (image - torch.cat(faces).median()).abs()
    top = _quantile(difference, 0.99)
    counts = torch.histc(difference.clamp(max=top), 64, 0, top).double().cpu()
    below, moment = counts.cumsum(0), (counts * (torch.arange(64) + 0.5)).cumsum(0)
    between = (moment[-1] * below / below[-1] - moment).square() / (below * (below[-1] - below)).clamp(min=1e-9)
    return difference > 0.5 * top * float(between[:-1].argmax() + 1) / 64


def _close(mask: Tensor, spacing: np.ndarray, radius: float) -> Tensor:
    """Dilate and erode (1, X, Y, Z) by a box of about `radius` mm: skull, sulci and ventricles join the foreground."""
    steps = [round(radius / step) if size > 1 else 0 for step, size in zip(spacing, mask.shape[1:], strict=True)]
    widen = lambda x: _widen(x, steps)  # noqa: E731
    pad = [k for step in reversed(steps) for k in (step, step)]
    return (1 - widen(1 - widen(F.pad(mask, pad))))[(slice(None), *(slice(k, k + n) for k, n in zip(steps, mask.shape[1:], strict=True)))]


def _widen(mask: Tensor, steps: Sequence[int]) -> Tensor:
    """Dilate (1, X, Y, Z) by a box of so many voxels to each side."""
    for axis, step in enumerate(steps):
        along = [step if axis == other else 0 for other in range(3)]
        mask = F.max_pool3d(mask, [2 * k + 1 for k in along], 1, along)
    return mask


def _limits(image: Tensor, inside: Tensor) -> tuple[float, float]:
    """Intensities that become 0 and 1."""
    low, high = _quantile(image, 0.005), _quantile(image[inside] if inside.any() else image, 0.99)
    return (low, high) if high > low else (float(image.min()), float(image.max()) + 1e-12)


def _quantile(values: Tensor, fraction: float) -> float:
    values = values.flatten()
    return float(torch.quantile(values[:: max(1, len(values) // 200_000)], fraction))


def _points(grid: Grid, where: Tensor, jitter: np.random.Generator | None = None, most: int = 0) -> Tensor:
    """World points (N, 3) of the voxels of a bool (X, Y, Z), each moved within its voxel, at most `most` of them."""
    index = torch.nonzero(where).double().cpu().numpy()
    if most and len(index) > most:
        index = index[np.sort(jitter.permutation(len(index))[:most])]
    if jitter is not None:
        last = np.array(where.shape) - 1
        index = np.clip(index + jitter.uniform(-0.5, 0.5, index.shape), 0, last)
    world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return torch.as_tensor(world, dtype=torch.float32, device=where.device)


@dataclass(frozen=True)
class Samples:
    """Points of one scan and the other scan to compare them with, at one resolution.

    points: (N, 3) RAS mm; values: (N,) 0..1; moving: value and its gradient per mm (4, X, Y, Z); weights: grids that
    weight what a point meets; spacing: mm.
    """

    points: Tensor
    values: Tensor
    moving: Grid
    weights: tuple[Grid, ...]
    spacing: float

    def thinned(self, every: int) -> Samples:
        """Every so many of the points."""
        return replace(self, points=self.points[::every], values=self.values[::every])

    def met(self, matrices: np.ndarray, *, gradient: bool = False) -> tuple[Tensor, Tensor]:
        """What the points meet in the moving scan: values (C, M, N) and their weights (M, N)."""
        grid = self.moving if gradient else Grid(self.moving.stack[:1], self.moving.affine)
        values, weight = grid.at(self.points, matrices)
        for grid in self.weights:
            weight = weight * grid.at(self.points, matrices)[0][0]
        return values, weight


def draw(scan: Scan, other: Scan, level: int, size: float, *, margin: float, interior: bool, seed: int) -> Samples:
    """Points of the foreground and `margin` mm around it, moved within their voxels so that no two grids ever lock in.

    With `interior`, only what meets the foreground of the other scan counts.
    """
    grid, jitter = scan.levels[level], np.random.default_rng(seed)
    every = torch.ones_like(grid.stack[0], dtype=torch.bool)
    where = _points(grid, every)
    inside = scan.foreground.at(where)[0].view_as(grid.stack) > 0.5
    steps = [round(margin / step) if n > 1 else 0 for step, n in zip(grid.spacing, every.shape, strict=True)]
    inside = _widen(inside.float(), steps)[0] > 0
    for mask in scan.masks:
        inside &= mask.at(where)[0].view_as(inside) > 0.5
    points = _points(grid, inside, jitter, SAMPLES[level])
    moving = other.levels[level]
    weights = (*other.masks, *((other.foreground,) if interior else ()))
    return Samples(points, grid.at(points)[0][0, 0], _with_gradient(moving), weights, size / RESOLUTIONS[level])


def _with_gradient(grid: Grid) -> Grid:
    """(1, X, Y, Z) -> value and its three derivatives along RAS, per mm."""
    steps = [
        torch.gradient(grid.stack[0], dim=axis)[0] if grid.stack.shape[1 + axis] > 1 else torch.zeros_like(grid.stack[0])
        for axis in range(3)
    ]
    to_world = torch.as_tensor(np.linalg.inv(grid.affine[:3, :3]), dtype=torch.float32, device=grid.stack.device)
    return Grid(torch.cat([grid.stack, torch.einsum("ixyz,ij->jxyz", torch.stack(steps), to_world)]), grid.affine)

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

RESOLUTIONS = (25, 50, 100, 100)  # steps along an edge of the mean size of the field of view: coarse, middle, fine, sharp
SAMPLES = (5_000, 20_000, 80_000, 80_000)  # points at each of them
SMOOTH = 0.7  # voxels, of all but the last: noise makes bumps in the information, on which a search gets stuck 2-5 mm off


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

    def points(self, where: Tensor) -> Tensor:
        """World points (N, 3) of the voxels of a bool (X, Y, Z)."""
        return self._to_world(torch.nonzero(where).float())

    def scattered(self, where: Tensor, count: int, seed: int) -> Tensor:
        """At most `count` world points (N, 3) in the voxels of a bool (X, Y, Z), evenly and in random order and places: no two
        grids ever lock in. No voxel holds more than eight."""
        chance, index = np.random.default_rng(seed), torch.nonzero(where).cpu().numpy().astype(np.float32)
        order = np.concatenate([chance.permutation(len(index)) for _ in range(min(8, -(-count // max(1, len(index)))))])[:count]
        index = index[order] + chance.uniform(-0.5, 0.5, (len(order), 3)).astype(np.float32) * (np.array(where.shape) > 1)
        return self._to_world(torch.from_numpy(index.astype(np.float32)).to(where.device))

    def _to_world(self, index: Tensor) -> Tensor:
        matrix = torch.as_tensor(self.affine, dtype=torch.float32, device=index.device)
        return torch.addmm(matrix[:3, 3], index, matrix[:3, :3].T)

    def at(self, points: Tensor) -> Tensor:
        """Linear interpolation of channel 0 at world points (M, N, 3): (M, N). Beyond the border its value goes on."""
        return self._interpolate(self._normalized(points))

    def at_with_edge(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and a weight (M, N) that falls from 1 to 0 over one voxel around the border."""
        where = self._normalized(points)
        half = torch.tensor([n / 2 if n > 1 else 0.0 for n in reversed(self.stack.shape[1:])], device=points.device)
        edge = torch.addcmul((half + 0.5).clamp(min=1), where.abs(), half, value=-1).clamp(0, 1)
        return self._interpolate(where), edge[..., 0] * edge[..., 1] * edge[..., 2]

    def _normalized(self, points: Tensor) -> Tensor:
        """Where points fall on the grid, last axis first, the outer faces of its voxels at -1 and 1."""
        size = np.array(self.stack.shape[1:])
        to_faces = np.diag([*(2 / size), 1.0])
        to_faces[:3, 3] = 1 / size - 1
        matrix = torch.as_tensor((to_faces @ np.linalg.inv(self.affine))[2::-1].copy(), dtype=torch.float32, device=points.device)
        return torch.addmm(matrix[:, 3], points.flatten(0, 1), matrix[:, :3].T).view_as(points)

    def _interpolate(self, where: Tensor) -> Tensor:
        return F.grid_sample(self.stack[None], where[None, :, :, None], padding_mode="border", align_corners=False)[0, 0, ..., 0]


@dataclass(frozen=True)
class Scan:
    """An image, ready to be aligned.

    levels: its values in 0..1, as RESOLUTIONS says, one channel each; foreground: where it shows something, holes closed;
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
    """The image at about size/25, size/50 and size/100 mm, smooth, and there sharp; never finer than it is. Channels are averaged."""
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
        inside = masks[0].at(closed.points(torch.ones_like(bright))[None]).view_as(closed.stack)
        closed = Grid(closed.stack * (inside > 0.5), image.affine)
    low, high = _limits(image.stack, closed.stack > 0)
    levels = [Grid(((level.stack - low) / (high - low)).clamp_(0, 1), level.affine) for level in levels]
    smooth = [Grid(gaussian(level.stack[None], SMOOTH)[0], level.affine) for level in levels[:-1]]
    return Scan((*smooth, levels[-1]), closed if closed.stack.any() else Grid(torch.ones_like(closed.stack), image.affine), masks)


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
    """Bool (X, Y, Z): what differs from the border's median by clearly more than the border's noise does.

    The threshold is four standard deviations of the border, but between 0.15 and 0.5 of Otsu's threshold of the
    difference: skin and skull are dark in some contrasts, and a border may cut through the body.
    """
    border = torch.cat([image.select(axis, end).flatten() for axis in range(3) if image.shape[axis] > 1 for end in (0, -1)])
    difference, noise = (image - border.median()).abs(), 1.4826 * float((border - border.median()).abs().median())
    top = _quantile(difference, 0.99)
    counts = torch.histc(difference.clamp(max=top), 64, 0, top).double().cpu()
    below, moment = counts.cumsum(0), (counts * (torch.arange(64) + 0.5)).cumsum(0)
    between = (moment[-1] * below / below[-1] - moment).square() / (below * (below[-1] - below)).clamp(min=1e-9)
    otsu = top * float(between[:-1].argmax() + 1) / 64
    return difference > min(max(4 * noise, 0.15 * otsu), 0.5 * otsu)


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


@dataclass(frozen=True)
class Samples:
    """Points of one scan and the other scan to compare them with, at one resolution.

    points: (N, 3) RAS mm; values: (N,) 0..1; moving: what they meet; weights: grids that weight it; spacing: mm.
    """

    points: Tensor
    values: Tensor
    moving: Grid
    weights: tuple[Grid, ...]
    spacing: float

    def thinned(self, every: int) -> Samples:
        """Every so many of the points."""
        return replace(self, points=self.points[::every], values=self.values[::every])

    def moved(self, matrices: np.ndarray) -> Tensor:
        """The points (M, N, 3), RAS mm, that M matrices (M, 4, 4) map them to."""
        matrices = torch.as_tensor(matrices, dtype=torch.float32, device=self.points.device)
        return self.points @ matrices[:, :3, :3].mT + matrices[:, None, :3, 3]

    def met(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """What moved points (M, N, 3) meet in the moving scan: values and their weights, both (M, N)."""
        values, weight = self.moving.at_with_edge(moved)
        for grid in self.weights:
            weight = weight * grid.at(moved)
        return values, weight


def draw(scan: Scan, other: Scan, level: int, size: float, *, margin: float, interior: bool, seed: int) -> Samples:
    """Points of the foreground and `margin` mm around it. With `interior`, only what meets the foreground of the other counts."""
    grid = scan.foreground
    steps = [round(margin / step) if n > 1 else 0 for step, n in zip(grid.spacing, grid.stack.shape[1:], strict=True)]
    inside = _widen(grid.stack, steps)[0] > 0.5
    for mask in scan.masks:
        inside &= mask.at(grid.points(torch.ones_like(inside))[None]).view_as(inside) > 0.5
    points = grid.scattered(inside, SAMPLES[level], seed)
    weights = (*other.masks, *((other.foreground,) if interior else ()))
    return Samples(points, scan.levels[level].at(points[None])[0], other.levels[level], weights, size / RESOLUTIONS[level])

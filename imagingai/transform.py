"""Transforms of the world (RAS mm): apply, compose, invert, warp images, Jacobians.

A transform maps points of the fixed image to the moving image and so pulls back: moved(p) = moving(transform(p)).
Semantics are ITK's: an image and a displacement field reach half a voxel beyond their outer voxel centers; further
out an image has the fill value and a displacement is zero. Normalized coordinates are private to this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from imagingai import jacobian
from imagingai.errors import InputError
from imagingai.inverse import solve
from imagingai.volume import Volume, same_grid

ALIGN_CORNERS = True  # normalized -1 and 1 are the centers of the outer voxels
SLAB = 1 << 18  # voxels that are worked on at once: bounds the memory and stays in the cache
EDGE = 1e-9  # voxels; rounding errors must not decide what is inside, or which neighbor is nearest


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear transform. matrix: (4, 4), fixed RAS mm -> moving RAS mm."""

    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, float)
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
            raise InputError(f"An affine transform needs a finite 4x4 matrix, not {matrix.tolist()}.")
        if abs(determinant := np.linalg.det(matrix[:3, :3])) < 1e-6:
            raise InputError(f"The affine transform cannot be inverted: its determinant is {determinant:.3g}. Use another one.")
        object.__setattr__(self, "matrix", matrix)


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """A dense transform p -> p + u(p). data: (3, X, Y, Z) float32, u in RAS mm; affine: (4, 4), voxel index -> RAS mm."""

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or len(self.data) != 3:
            raise InputError(f"A displacement field needs data (3, X, Y, Z), not {self.data.shape}.")
        object.__setattr__(self, "data", np.asarray(self.data, np.float32))
        object.__setattr__(self, "affine", Volume(self.data, self.affine).affine)

    @property
    def volume(self) -> Volume:
        """The field as a volume of three channels."""
        return Volume(self.data, self.affine)


@dataclass(frozen=True, eq=False)
class Composite:
    """Transforms that are applied one after the other, first to last."""

    parts: tuple[Transform, ...]

    def __post_init__(self) -> None:
        flat = [part for item in self.parts for part in (item.parts if isinstance(item, Composite) else (item,))]
        object.__setattr__(self, "parts", tuple(flat))


Transform = Affine | DisplacementField | Composite


def compose(*transforms: Transform) -> Transform:
    """One transform that applies the given ones first to last; neighboring affines become one."""
    parts: list[Transform] = []
    for part in Composite(transforms).parts:
        if parts and isinstance(part, Affine) and isinstance(parts[-1], Affine):
            parts[-1] = Affine(part.matrix @ parts[-1].matrix)
        else:
            parts.append(part)
    if not parts:
        return Affine(np.eye(4))
    return parts[0] if len(parts) == 1 else Composite(tuple(parts))


def apply_to_points(transform: Transform, points: np.ndarray) -> np.ndarray:
    """Where points (N, 3) of the fixed image lie in the moving image, RAS mm."""
    moved = _move(_prepare(transform, "cpu"), torch.from_numpy(np.array(points, float).reshape(-1, 3).T.copy()))
    return moved.numpy().T.copy()


def warp(
    moving: Volume,
    transform: Transform,
    reference: Volume,
    *,
    interpolation: str = "linear",
    fill: float = 0.0,
    device: str | torch.device = "cpu",
) -> Volume:
    """The moving image on the grid of the reference: float32, or its own type with nearest (for labels and masks).

    interpolation: linear, nearest or cubic (B-spline). `fill` is the value where the moving image does not reach.
    """
    sample = _sampler(moving, interpolation, fill, device)
    to_index = np.linalg.inv(moving.affine)
    out = np.empty((len(moving.data), *reference.shape), moving.data.dtype if interpolation == "nearest" else np.float32)
    for slab, points in _slabs(transform, reference, device):
        out[:, slab] = sample(_multiply(to_index, points))
    return Volume(out, reference.affine)


def to_displacement(transform: Transform, reference: Volume, *, device: str | torch.device = "cpu") -> DisplacementField:
    """The whole transform as one displacement field on the grid of the reference."""
    if isinstance(transform, DisplacementField) and same_grid(transform.volume, reference, 1e-4):
        return transform
    out = np.empty((3, *reference.shape), np.float32)
    for slab, points in _slabs(transform, reference, device):
        out[:, slab] = (points - _grid_points(reference, slab, points.device)).float().cpu().numpy()
    return DisplacementField(out, reference.affine)


def jacobian_determinant(transform: Transform, reference: Volume) -> Volume:
    """det d transform / d p on the grid of the reference, float32: 1 keeps the volume, 0 or less is a fold.

    For a 2-D image it is the change of area within its plane, which may itself be turned by the transform.
    """
    return Volume(jacobian.determinant(to_displacement(transform, reference).data, reference.affine)[None], reference.affine)


def voxel_to_world_displacement(displacement: torch.Tensor, affine: np.ndarray) -> DisplacementField:
    """A displacement (1, D, *grid) in voxels, D = 2 or 3, as a field in RAS mm on the grid with this affine."""
    size = displacement.shape[1]
    linear = torch.as_tensor(affine[:3, :size], dtype=torch.float32, device=displacement.device)
    world = torch.tensordot(linear, displacement[0].float(), 1)
    return DisplacementField((world if size == 3 else world[..., None]).cpu().numpy(), affine)


def world_to_voxel_displacement(field: DisplacementField, *, device: str | torch.device = "cpu") -> torch.Tensor:
    """The displacement in voxels of its grid, (1, D, *grid), D = 2 if the grid has one slice only, else 3."""
    voxels = np.tensordot(np.linalg.inv(field.affine[:3, :3]).astype(np.float32), field.data, 1)
    voxels = voxels[:2, :, :, 0] if field.data.shape[3] == 1 else voxels
    return torch.from_numpy(np.ascontiguousarray(voxels))[None].to(device)


# --- inverse


def invert(transform: Transform, fixed: Volume, moving: Volume | None = None) -> tuple[Transform, dict[str, float]]:
    """The inverse, and its inverse-consistency error in mm: mean, 95th percentile, maximum.

    A linear transform gives its exact inverse, any other a displacement field on the grid of `moving` (or `fixed`).
    The error |inverse(transform(p)) - p| is measured at all voxels p of `fixed` that are mapped into that grid.
    """
    whole = compose(transform)
    grid = fixed if moving is None else moving
    if isinstance(whole, Affine):
        inverse: Transform = Affine(np.linalg.inv(whole.matrix))
    else:
        out, parts = np.empty((3, *grid.shape), np.float32), _prepare(whole, "cpu")
        for slab in _slices(grid.shape):
            points = _grid_points(grid, slab)
            out[:, slab] = (_move_back(parts, points.flatten(1)).view_as(points) - points).numpy()
        inverse = DisplacementField(out, grid.affine)
    return inverse, inverse_consistency(transform, inverse, fixed, grid)


def inverse_consistency(forward: Transform, backward: Transform, fixed: Volume, moving: Volume) -> dict[str, float]:
    """|backward(forward(p)) - p| in mm over the voxels p of `fixed` that `forward` maps into the grid of `moving`."""
    parts, to_index, errors = _prepare(backward, "cpu"), np.linalg.inv(moving.affine), []
    for slab, points in _slabs(forward, fixed):
        inside = _inside(_multiply(to_index, points), moving.shape)
        back = _move(parts, points[:, inside])
        errors.append((back - _grid_points(fixed, slab)[:, inside]).square().sum(0).sqrt().float().numpy())
    found = np.concatenate(errors)
    if not found.size:
        raise InputError("The transform maps no voxel of the fixed image into the moving image. Check that it belongs to these images.")
    return {"mean": float(found.mean()), "p95": float(np.percentile(found, 95)), "max": float(found.max())}


def invert_points(transform: Transform, points: np.ndarray) -> np.ndarray:
    """Where points (N, 3) of the moving image lie in the fixed image, RAS mm."""
    found = _move_back(_prepare(transform, "cpu"), torch.from_numpy(np.array(points, float).reshape(-1, 3).T.copy()))
    return found.numpy().T.copy()


def _move_back(parts: Sequence[Affine | _Field], points: torch.Tensor) -> torch.Tensor:
    """The points (3, N) whose images the given points are."""
    for part in reversed(parts):
        points = _multiply(np.linalg.inv(part.matrix), points) if isinstance(part, Affine) else _solve(part, points)
    return points


def _solve(field: _Field, target: torch.Tensor) -> torch.Tensor:
    """x with x + u(x) = target, both (3, N) RAS mm; solved in voxels, where float32 is exact enough.

    Beyond its grid u continues with its edge values; only a point that lies outside together with its solution keeps
    its place, because there the displacement is zero. A turn of everything is taken off first, with the affine map A that is
    nearest to the field: y = A x, y + (x + u(x) - A x) = target.
    """
    goal = _multiply(field.to_index, target).float()
    whole, back = field.whole, np.linalg.inv(field.whole)

    def rest(turned: torch.Tensor) -> torch.Tensor:
        index = _multiply(back, turned)
        return index + _linear(field.voxels, index, None) - _multiply(whole, index)

    found = _multiply(back, solve(rest, goal))
    moved = target + _multiply(field.affine, found.double()) - _multiply(field.affine, goal.double())
    return torch.where(_inside(found, field.shape) | _inside(goal, field.shape), moved, target)


# --- sampling


class _Field:
    """A displacement field that is ready to be sampled on a device."""

    def __init__(self, field: DisplacementField, device: str | torch.device) -> None:
        self.affine, self.shape, self.volume = field.affine, field.data.shape[1:], field.volume
        self.to_index = np.linalg.inv(field.affine)
        self.tensor = torch.from_numpy(np.ascontiguousarray(field.data)).to(device)[None]

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """The displacement (3, ...) at points (3, ...), RAS mm; zero outside."""
        return _linear(self.tensor, _multiply(self.to_index, points), 0.0)

    @cached_property
    def voxels(self) -> torch.Tensor:
        """The displacement in voxels."""
        linear = torch.as_tensor(self.to_index[:3, :3], dtype=torch.float32, device=self.tensor.device)
        return torch.tensordot(linear, self.tensor[0], 1)[None]

    @cached_property
    def whole(self) -> np.ndarray:
        """The affine map (4, 4) of voxel indices that is nearest to the field; the identity for one that has no inverse."""
        places = np.stack(np.meshgrid(*(np.unique(np.linspace(0, n - 1, 12).round()) for n in self.shape), indexing="ij")).reshape(3, -1)
        moved = _linear(self.voxels, torch.from_numpy(places).to(self.voxels), None).double().cpu().numpy()
        fit = np.linalg.lstsq(np.vstack([places, np.ones_like(places[:1])]).T, moved.T, rcond=None)[0].T
        matrix = np.eye(4) + np.vstack([fit, np.zeros((1, 4))])
        return matrix if np.linalg.cond(matrix[:3, :3]) < 1e3 else np.eye(4)


def _prepare(transform: Transform, device: str | torch.device) -> list[Affine | _Field]:
    return [part if isinstance(part, Affine) else _Field(part, device) for part in Composite((compose(transform),)).parts]


def _move(parts: Sequence[Affine | _Field], points: torch.Tensor) -> torch.Tensor:
    """Where points (3, ...) go, RAS mm, float64."""
    for part in parts:
        points = _multiply(part.matrix, points) if isinstance(part, Affine) else points + part.at(points)
    return points


def _slabs(transform: Transform, reference: Volume, device: str | torch.device = "cpu") -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices along X, and where their voxels (3, x, Y, Z) go, RAS mm."""
    parts = _prepare(transform, device)
    first = parts[0] if isinstance(parts[0], _Field) and same_grid(parts[0].volume, reference, 1e-4) else None
    for slab in _slices(reference.shape):
        points = _grid_points(reference, slab, device)
        if first is not None:  # no need to interpolate at its own voxels
            points += first.tensor[0, :, slab]
        yield slab, _move(parts[1:] if first is not None else parts, points)


def _slices(shape: Sequence[int]) -> Iterator[slice]:
    step = max(1, SLAB // (shape[1] * shape[2]))
    return (slice(x, min(x + step, shape[0])) for x in range(0, shape[0], step))


def _grid_points(grid: Volume, slab: slice, device: str | torch.device = "cpu") -> torch.Tensor:
    """RAS mm (3, x, Y, Z) of the voxels of a slab, float64."""
    sizes = (slice(slab.start, slab.stop), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    axes = [torch.arange(s.start, s.stop, dtype=torch.float64, device=device) for s in sizes]
    columns = torch.as_tensor(grid.affine[:3], device=device).view(3, 4, 1, 1, 1)
    x, y, z = axes[0].view(-1, 1, 1), axes[1].view(-1, 1), axes[2]
    return (columns[:, 0] * x + columns[:, 3]) + (columns[:, 1] * y + columns[:, 2] * z)


def _multiply(matrix: np.ndarray, points: torch.Tensor) -> torch.Tensor:
    """A (4, 4) matrix times points (3, ...)."""
    matrix = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    return torch.addmm(matrix[:3, 3:], matrix[:3, :3], points.flatten(1)).view_as(points)


def _inside(index: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Whether voxel indices (3, ...) are within half a voxel of the grid."""
    checks = [(index[k] >= -0.5 - EDGE) & (index[k] < shape[k] - 0.5 - EDGE) for k in range(3)]
    return checks[0] & checks[1] & checks[2]


def _linear(tensor: torch.Tensor, index: torch.Tensor, fill: float | None) -> torch.Tensor:
    """Values (C, ...) of a float32 tensor (1, C, X, Y, Z) at voxel indices (3, ...); outside `fill` or the edge value."""
    shape = tensor.shape[2:]
    scale = torch.tensor([2 / max(n - 1, 1) for n in shape], dtype=index.dtype, device=index.device)
    normalized = (index.flatten(1) * scale[:, None] - 1).float().flip(0).T.reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(tensor, normalized, mode="bilinear", padding_mode="border", align_corners=ALIGN_CORNERS)
    values = values.view(tensor.shape[1], *index.shape[1:])
    return values if fill is None else values.masked_fill_(~_inside(index, shape), fill)


def _sampler(moving: Volume, interpolation: str, fill: float, device: str | torch.device) -> Callable[[torch.Tensor], np.ndarray]:
    """A function that gives the values (C, ...) of the image at its voxel indices (3, ...)."""
    if interpolation == "linear":
        tensor = moving.tensor(device)
        return lambda index: _linear(tensor, index, fill).cpu().numpy()
    if interpolation == "nearest":
        return lambda index: _nearest(moving.data, index.cpu(), fill)
    if interpolation == "cubic":
        from scipy.ndimage import spline_filter

        splines = [spline_filter(channel.astype(np.float32), 3, np.float32, "mirror") for channel in moving.data]
        return lambda index: _cubic(splines, index.cpu(), fill)
    raise InputError(f"There is no interpolation {interpolation!r}. Choose linear, nearest or cubic.")


def _nearest(data: np.ndarray, index: torch.Tensor, fill: float) -> np.ndarray:
    inside, (_, x, y, z) = _inside(index, data.shape[1:]).numpy(), data.shape
    i, j, k = ((index[axis] + (0.5 + EDGE)).floor_().clamp_(0, n - 1).long() for axis, n in enumerate((x, y, z)))
    values = data.reshape(len(data), -1).take(((i * y + j) * z + k).numpy(), axis=1)
    values[:, ~inside] = fill
    return values


def _cubic(splines: Sequence[np.ndarray], index: torch.Tensor, fill: float) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    values = np.stack([map_coordinates(spline, index.numpy(), np.float32, 3, "mirror", prefilter=False) for spline in splines])
    values[:, ~_inside(index, splines[0].shape).numpy()] = fill
    return values

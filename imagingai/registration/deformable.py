"""The deformable stage: a dense displacement from coarse to fine, driven by closed-form forces.

Every iteration warps the moving image, takes the gradient of the similarity, smooths it, turns it into a bounded step
(Adam with a floor, a trust region, less where the gradient has no lasting direction), composes it with the field and
regularizes the field. Nothing but a warp-then-extract network needs automatic differentiation. All in voxels of an
isotropic grid; tensors (1, C, X, Y, Z) or (1, C, X, Y); moved(x) = moving(x + u(x)).

Sources: compositional update and Gaussian regularization of force and field as in Greedy (Yushkevich et al. 2016) and
log-demons (Vercauteren et al., NeuroImage 2009); Adam on the force as in FireANTs (Jena et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.errors import InputError
from imagingai.job import Report, ignore
from imagingai.registration.config import RegistrationConfig
from imagingai.registration.filters import derivative, gaussian
from imagingai.registration.folding import unfold
from imagingai.registration.regularizer import regularize
from imagingai.registration.rigid import RigidRegions
from imagingai.registration.similarity import Term

SMALLEST = 16  # mean number of voxels along an axis of the coarsest grid
BETA = (0.9, 0.99)  # Adam's memories of the force and of its square
FAINT = 1e-3  # a mean force below this (change of 1 - rho^2 per voxel) is rounding noise
REACH = 4.0  # mm, half the side of the ncc window, but at least one voxel


@dataclass(frozen=True)
class Comparison:
    """One summand of the similarity: `build(fixed, moving, radius)` makes its `Term` on a grid; images (1, C, *shape)."""

    weight: float
    build: Callable[[Tensor, Tensor, int], Term]
    fixed: Tensor
    moving: Tensor


@dataclass(frozen=True)
class Limits:
    """What counts and what must stay rigid, on the grid of the fixed image: masks (1, 1, *shape) 0 to 1, labels.

    linear (D + 1, D + 1): what follows the displacement (voxels to voxels); a region is rigid if both together are.
    """

    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    rigid_labels: Tensor | None = None
    linear: Tensor | None = None


@dataclass(frozen=True)
class Deformation:
    """displacement (1, D, *shape) in voxels; with the velocity model also the exact inverse, exp(-v)."""

    displacement: Tensor
    inverse: Tensor | None = None


@torch.no_grad()
def deform(
    comparisons: Sequence[Comparison],
    config: RegistrationConfig,
    spacing: float,
    limits: Limits = Limits(),
    *,
    report: Report = ignore,
    preview: Callable[[Callable[[], Tensor]], None] | None = None,
) -> Deformation:
    """Find the displacement that makes the moving images like the fixed ones.

    spacing: of the isotropic grid, mm. `preview` may ask, before every iteration, for the displacement in voxels of its grid.
    """
    _check(config, limits)
    shape = comparisons[0].fixed.shape[2:]
    factors = pyramid(shape)
    iterations = [config.iterations[min(level, len(config.iterations) - 1)] for level in range(len(factors))]
    cost = [count / factor ** len(shape) for count, factor in zip(iterations, factors, strict=True)]
    field = None
    for level, (factor, count) in enumerate(zip(factors, iterations, strict=True)):
        stage = _Level(comparisons, limits, config, factor, spacing)
        field = torch.zeros(1, len(shape), *stage.shape, device=stage.device) if field is None else resize_field(field, stage.shape)
        field = stage.optimize(field, count, _part_of(report, cost, level, f"Deforming at {factor * spacing:.3g} mm"), preview)
    if config.deformation == "velocity":
        return Deformation(exponential(field), exponential(-field))
    field = unfold(field)
    for _ in range(3 if stage.rigid is not None else 0):  # each may spoil the other a little
        field = stage.rigid.project(unfold(stage.rigid.project(field)))
    return Deformation(field)


def _check(config: RegistrationConfig, limits: Limits) -> None:
    if config.symmetric and config.deformation != "velocity":
        raise InputError("--symmetric needs --deformation velocity: only a velocity field can be followed both ways.")
    if limits.rigid_labels is not None and config.deformation == "velocity":
        raise InputError("--rigid-labels need --deformation displacement: a velocity field cannot keep a region rigid.")


def _part_of(report: Report, cost: Sequence[float], level: int, text: str) -> Callable[[float], None]:
    begin, total = sum(cost[:level]), sum(cost)
    return lambda fraction: report((begin + fraction * cost[level]) / total, text)


def pyramid(shape: Sequence[int]) -> list[int]:
    """Factors from coarse to fine, powers of two; the coarsest grid has about 16 voxels along an axis, at the most 5 levels."""
    mean = math.prod(shape) ** (1 / len(shape))
    levels = min(max(int(math.log2(max(mean / SMALLEST, 1))), 0), 4)
    return [2**level for level in range(levels, -1, -1)]


class _Level:
    """One resolution: the terms on its grid, and the loop."""

    def __init__(self, comparisons: Sequence[Comparison], limits: Limits, config: RegistrationConfig, factor: int, spacing: float) -> None:
        self.config, self.finest, self.device = config, factor == 1, comparisons[0].fixed.device
        self.force_smoothing = config.force_smoothing if self.finest else config.coarse_force_smoothing
        radius = max(1, round(REACH / (factor * spacing)))
        images = [(shrink(c.fixed, factor), shrink(c.moving, factor)) for c in comparisons]
        self.shape = images[0][0].shape[2:]
        self.forward = [(c.weight, c.build(a, b, radius)) for c, (a, b) in zip(comparisons, images, strict=True)]
        self.backward = (
            [(c.weight, c.build(b, a, radius)) for c, (a, b) in zip(comparisons, images, strict=True)] if config.symmetric else []
        )
        self.masks = [None if m is None else shrink(m, factor) for m in (limits.fixed_mask, limits.moving_mask)]
        self.rigid = None if limits.rigid_labels is None else RigidRegions(limits.rigid_labels, limits.linear, self.shape)
        self.grid = Grid(self.shape, self.device)
        self.balance: dict[int, float] = {}

    def displacement(self, field: Tensor) -> Tensor:
        return exponential(field) if self.config.deformation == "velocity" else field

    def optimize(
        self, field: Tensor, count: int, report: Callable[[float], None], preview: Callable[[Callable[[], Tensor]], None] | None
    ) -> Tensor:
        """Improve the displacement (or velocity) field."""
        step = _Step(self.config)
        for iteration in range(count):
            report(iteration / count)
            if preview is not None:
                preview(partial(self.displacement, field))
            update = step.take(gaussian(self.both_forces(field), self.force_smoothing))
            field = compose(field, update) if self.config.deformation == "displacement" else field.add_(update)
            field = regularize(field, self.config, self.finest)
            field = field if self.rigid is None else self.rigid.project(field)
        return field

    def both_forces(self, field: Tensor) -> Tensor:
        """The force on the moving image; with `symmetric` the mean of it and minus the force on the fixed one."""
        force = self.force(self.forward, self.displacement(field), *self.masks)
        if self.backward:
            force = force.sub_(self.force(self.backward, exponential(-field), *self.masks[::-1])).mul_(0.5)
        return force

    def force(self, terms: list[tuple[float, Term]], displacement: Tensor, fixed_mask: Tensor | None, moving_mask: Tensor | None) -> Tensor:
        """Where every voxel is pulled: minus the gradient of the similarity; summands balanced at the first iteration."""
        points, total = self.grid.points(displacement), None
        for number, (weight, term) in enumerate(terms):
            force = term_force(term, sample(term.moving, points))
            if len(terms) > 1:
                if number not in self.balance:
                    self.balance[number] = weight / (float(force.norm(dim=1).mean()) + 1e-12)
                force *= self.balance[number]
            total = force if total is None else total.add_(force)
        if fixed_mask is not None:
            total *= fixed_mask
        return total if moving_mask is None else total.mul_(sample(moving_mask, points))


def term_force(term: Term, moved: Tensor) -> Tensor:
    """- (gradient by the gray value) x (gradient of the gray value), summed over channels; (1, D, *grid)."""
    slope = term.gradient(moved)
    axes = range(2, moved.ndim)
    return torch.cat([(derivative(moved, axis).mul_(slope)).sum(1, keepdim=True).neg_() for axis in axes], 1)


class _Step:
    """From forces to steps in voxels: Adam whose denominator has a floor, so that flat regions do not drift.

    The step shrinks with the coherence of the force: |mean force| / |force|, near 1 while everything pulls one way and
    small when only noise is left (two scans of one person). No step is longer than `config.step`.
    """

    def __init__(self, config: RegistrationConfig) -> None:
        self.config, self.count, self.mean, self.square = config, 0, None, None

    def take(self, force: Tensor) -> Tensor:
        """The next step (1, D, *grid); `force` gives its memory to it."""
        if self.mean is None:
            self.mean, self.square = torch.zeros_like(force), torch.zeros_like(force)
        self.count += 1
        one, two = (1 - beta**self.count for beta in BETA)
        self.mean.mul_(BETA[0]).add_(force, alpha=1 - BETA[0])
        self.square.mul_(BETA[1]).addcmul_(force, force, value=1 - BETA[1])
        size = torch.div(self.square, two, out=force).sqrt_()
        typical = max(float(size.mean()), FAINT)
        coherence = float(self.mean.abs().mean()) / one / typical
        step = torch.div(self.mean, size.add_(self.config.floor * typical).mul_(one), out=size)
        step *= min(1.0, (coherence / self.config.coherence) ** 3) if self.config.coherence else 1.0
        return step.mul_(self.config.step / max(1.0, float(step.norm(dim=1).max())))


class Grid:
    """Turns displacements in voxels into sampling points."""

    def __init__(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.axes = [
            torch.arange(n, dtype=torch.float32, device=device).view([n if k == axis else 1 for k in range(len(shape))])
            for axis, n in enumerate(shape)
        ]
        self.buffer = torch.empty(1, *shape, len(shape), device=device)

    def points(self, displacement: Tensor) -> Tensor:
        """(1, *grid, D) in the normalized coordinates of torch, last axis first; valid until the next call."""
        size = displacement.shape[1]
        for axis in range(size):
            out = self.buffer[..., size - 1 - axis]
            torch.add(displacement[:, axis], self.axes[axis], out=out)
            out.mul_(2 / max(1, displacement.shape[2 + axis] - 1)).sub_(1)
        return self.buffer


def sample(image: Tensor, points: Tensor, border: str = "border") -> Tensor:
    """The image (1, C, *grid) at points, linearly."""
    return F.grid_sample(image, points, padding_mode=border, align_corners=True)


def compose(field: Tensor, step: Tensor) -> Tensor:
    """u(x + d(x)) + d(x) to first order in d, which is shorter than a voxel: u + d + (d . grad) u."""
    out = field + step
    for axis in range(field.shape[1]):
        out.addcmul_(derivative(field, 2 + axis), step[:, axis : axis + 1])
    return out


def exponential(velocity: Tensor, squarings: int = 6) -> Tensor:
    """exp(v) by scaling and squaring (Arsigny et al. 2006); v and the result (1, D, *grid) in voxels."""
    grid = Grid(velocity.shape[2:], velocity.device)
    field = velocity / 2**squarings
    for _ in range(squarings):
        field = field + sample(field, grid.points(field))
    return field


def shrink(image: Tensor, factor: int) -> Tensor:
    """A coarser grid with the same corners, after Gaussian smoothing."""
    if factor == 1:
        return image
    size = [max(min(n, 8), n // factor) for n in image.shape[2:]]
    mode = "trilinear" if image.ndim == 5 else "bilinear"
    return F.interpolate(gaussian(image, 0.4 * factor), size=size, mode=mode, align_corners=True)


def resize_field(field: Tensor, shape: Sequence[int]) -> Tensor:
    """A displacement on another grid with the same corners, in voxels of that grid."""
    if tuple(field.shape[2:]) == tuple(shape):
        return field
    scale = [(n - 1) / max(m - 1, 1) for m, n in zip(field.shape[2:], shape, strict=True)]
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    out = F.interpolate(field, size=tuple(shape), mode=mode, align_corners=True)
    return out.mul_(torch.tensor(scale, device=field.device).view(1, -1, *[1] * len(shape)))

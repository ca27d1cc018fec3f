"""Solve x + u(x) = target for many points at once: the inverse of a displacement, point by point."""

from __future__ import annotations

from collections.abc import Callable

import torch

Displacement = Callable[[torch.Tensor], torch.Tensor]  # (3, N) voxel coordinates -> (3, N) voxels

ADAPTED, NEWTON = 40, 30  # most iterations of each stage; a point takes part only until it has converged


def solve(displacement: Displacement, target: torch.Tensor, tolerance: float = 1e-3) -> torch.Tensor:
    """x (3, N) with |x + u(x) - target| below `tolerance` voxels, where there is such an x; else the nearest found.

    Most points converge in a few steps of the first stage; Newton's method ends what is left: strong compression or
    expansion.
    """
    x = target - displacement(target)
    residual = x + displacement(x) - target
    for stage in (_adapted_steps, _newton_steps):
        left = residual.abs().amax(0) > tolerance
        if left.any():
            x[:, left], residual[:, left] = stage(displacement, x[:, left], residual[:, left], target[:, left], tolerance)
    return x


def _adapted_steps(
    displacement: Displacement, x: torch.Tensor, residual: torch.Tensor, target: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed-point steps x - s (x + u(x) - target), each point with its own s from its last two residuals.

    (Barzilai and Borwein 1988.) Converges also where u expands by more than its own size, unlike s = 1.
    """
    found, found_residual = x.clone(), residual.clone()
    rows, step = torch.arange(x.shape[1], device=x.device), torch.ones_like(x[0])
    for _ in range(ADAPTED):
        moved = x - step * residual
        new = moved + displacement(moved) - target
        change = new - residual
        step = (-(step * (residual * change).sum(0)) / (change * change).sum(0).clamp_min(1e-30)).clamp_(0.1, 1.5)
        left = new.abs().amax(0) > tolerance
        done = rows[~left]
        found[:, done], found_residual[:, done] = moved[:, ~left], new[:, ~left]
        rows, x, residual, step, target = rows[left], moved[:, left], new[:, left], step[left], target[:, left]
        if not len(rows):
            break
    closer = residual.norm(dim=0) < found_residual[:, rows].norm(dim=0)
    found[:, rows[closer]], found_residual[:, rows[closer]] = x[:, closer], residual[:, closer]
    return found, found_residual


def _newton_steps(
    displacement: Displacement, x: torch.Tensor, residual: torch.Tensor, target: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's method with central differences; each point halves its step until its residual shrinks."""
    half = 0.1
    offsets = half * torch.eye(3, dtype=x.dtype, device=x.device)[:, :, None]
    step = torch.ones_like(x[0])
    for _ in range(NEWTON):
        if not bool(((residual.abs().amax(0) > tolerance) & (step > 1e-3)).any()):
            break
        sides = [(displacement(x + offset) - displacement(x - offset)) / (2 * half) for offset in offsets]
        slope = torch.stack(sides, -1).permute(1, 0, 2) + torch.eye(3, dtype=x.dtype, device=x.device)
        direction = torch.linalg.lstsq(slope, residual.T[..., None]).solution[..., 0].T
        moved = x - step * direction
        new = moved + displacement(moved) - target
        better = new.norm(dim=0) < residual.norm(dim=0)
        x, residual = torch.where(better, moved, x), torch.where(better, new, residual)
        step = torch.where(better, (2 * step).clamp(max=1), step / 2)
    return x, residual

"""Regions that must move rigidly (bones, implants) inside a deformation."""

from __future__ import annotations

import torch
from torch import Tensor

from imagingai.registration.filters import gaussian

TRANSITION = 1.5  # voxels, sigma of the blend from a rigid region to what is around it


class RigidRegions:
    """Projects a displacement onto the closest rigid motion inside every labeled region, and blends around it.

    labels (1, 1, *shape) on the full, isotropic grid; linear (D + 1, D + 1) is what follows the displacement (voxels to
    voxels of that grid): together they are rigid. `shape` is the grid of the field, with the corners of that of the labels.
    """

    def __init__(self, labels: Tensor, linear: Tensor | None, shape: torch.Size) -> None:
        nearest, size = labels[0, 0], len(shape)
        for axis, (n, m) in enumerate(zip(labels.shape[2:], shape, strict=True)):
            nearest = nearest.index_select(axis, torch.linspace(0, n - 1, m, device=labels.device).round().long())
        inside = [nearest == label for label in nearest.unique() if label != 0]
        self.regions = [_Region(region, nearest != 0) for region in inside if region.sum() > size]  # fewer voxels have no rotation
        # Voxels of the full grid per voxel of the field: only the full grid is isotropic.
        self.scale = torch.tensor([(n - 1) / max(m - 1, 1) for n, m in zip(labels.shape[2:], shape, strict=True)], device=labels.device)
        linear = (torch.eye(size + 1) if linear is None else linear).to(self.scale)
        self.matrix, self.shift = linear[:size, :size], linear[:size, size]

    def project(self, field: Tensor) -> Tensor:
        """The displacement (1, D, *shape) with rigid regions; changed in place."""
        for region in self.regions:
            start = region.voxels * self.scale
            index = (0, slice(None), *region.voxels.T)
            target = (start + field[index].T * self.scale) @ self.matrix.T + self.shift
            rotation, shift = fit_rigid(start[region.inside], target[region.inside])
            moved = start @ rotation + shift
            rigid = (torch.linalg.solve(self.matrix, (moved - self.shift).T).T - start) / self.scale
            field[index] = torch.lerp(field[index], rigid.T, region.weight)
        return field


class _Region:
    """Voxels (N, D) of a region and around it, which of them are inside, and the weight of the rigid motion (N,)."""

    def __init__(self, inside: Tensor, any_region: Tensor) -> None:
        weight = (2 * gaussian(inside[None, None].float(), TRANSITION)[0, 0]).clamp(max=1) * ~any_region
        weight[inside] = 1
        self.voxels = torch.nonzero(weight > 0.01)
        self.weight = weight[tuple(self.voxels.T)]
        self.inside = inside[tuple(self.voxels.T)]


def fit_rigid(start: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (D, D) and shift (D,) of the rigid motion start @ rotation + shift that is closest to target (Kabsch 1976)."""
    center, goal = start.mean(0), target.mean(0)
    u, _, v = torch.linalg.svd(((start - center).T @ (target - goal)).double())
    turn = torch.ones(start.shape[1], dtype=torch.float64, device=start.device)
    turn[-1] = torch.sign(torch.linalg.det(u @ v))
    rotation = ((u * turn) @ v).to(start.dtype)
    return rotation, goal - center @ rotation

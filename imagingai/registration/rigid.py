"""Regions that must move rigidly (bones, implants) inside a deformation."""

from __future__ import annotations

import torch
from torch import Tensor


class RigidRegions:
    """Projects a displacement onto the closest rigid motion inside every labeled region.

    labels (1, 1, *shape) on the full grid; linear (D + 1, D + 1) is what follows the displacement (voxels to voxels of
    an isotropic grid): together they are rigid. `shape` is the grid of the field, which has the corners of that of the
    labels.
    """

    def __init__(self, labels: Tensor, linear: Tensor | None, shape: torch.Size) -> None:
        nearest = labels[0, 0]
        for axis, (n, m) in enumerate(zip(labels.shape[2:], shape, strict=True)):
            nearest = nearest.index_select(axis, torch.linspace(0, n - 1, m, device=labels.device).round().long())
        found = [torch.nonzero(nearest == label) for label in nearest.unique() if label != 0]
        self.regions = [voxels for voxels in found if len(voxels) > len(shape)]  # fewer voxels have no rotation
        scale = torch.tensor([(n - 1) / max(m - 1, 1) for n, m in zip(labels.shape[2:], shape, strict=True)], device=labels.device)
        linear = torch.eye(len(shape) + 1) if linear is None else linear.float()
        size = len(shape)
        self.matrix, self.shift = linear[:size, :size].to(scale), linear[:size, size].to(scale)
        self.scale = scale  # voxels of the full grid per voxel of the field: the full grid is the isotropic one

    def project(self, field: Tensor) -> Tensor:
        """The displacement (1, D, *shape) with rigid regions; changed in place."""
        for voxels in self.regions:
            index = (0, slice(None), *voxels.T)
            start = voxels * self.scale
            target = (start + field[index].T * self.scale) @ self.matrix.T + self.shift
            moved = fit_rigid(start, target)
            field[index] = ((torch.linalg.solve(self.matrix, (moved - self.shift).T).T - start) / self.scale).T
        return field


def fit_rigid(start: Tensor, target: Tensor) -> Tensor:
    """Where the rigid motion that best maps points (N, D) to their targets takes them (Kabsch 1976)."""
    a, b = start - start.mean(0), target - target.mean(0)
    u, _, v = torch.linalg.svd((a.T @ b).double())
    turn = torch.ones(start.shape[1], dtype=torch.float64, device=start.device)
    turn[-1] = torch.sign(torch.linalg.det(u @ v))
    rotation = (u * turn) @ v
    return a @ rotation.to(a.dtype) + target.mean(0)

"""Grids that images come on, and images and transforms to try on them: used by every test of geometry."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from imagingai.transform import Affine, DisplacementField, voxel_to_world_displacement
from imagingai.volume import Volume


def turned(*degrees: float) -> np.ndarray:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = step @ matrix
    return matrix


def placed(shape, directions, spacing, center=(0.0, 0.0, 0.0)) -> Volume:
    """An empty volume whose grid is centered in the world."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float) * spacing
    affine[:3, 3] = center - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.zeros((1, *shape), np.float32), affine)


GRIDS = {
    "RAS": placed((30, 34, 28), np.eye(3), (1.5, 1.5, 1.5)),
    "LAS": placed((26, 40, 21), np.diag([-1, 1, 1]), (1.6, 1.2, 2.1), (2, -3, 1)),
    "LPS": placed((40, 31, 16), np.diag([-1, -1, 1]), (1.1, 1.5, 3.0), (-1, 2, 4)),
    "sagittal": placed((33, 29, 24), np.eye(3)[:, [1, 2, 0]], (1.3, 1.4, 1.8)),
    "oblique": placed((28, 36, 22), turned(20, -15, 35) @ np.diag([1, -1, 1]), (1.7, 1.2, 2.0), (1, 1, -2)),
    "slice": placed((44, 38, 1), turned(10, 20, 30), (1.1, 1.3, 4.0)),
    "other slice": placed((30, 52, 1), turned(10, 20, 30) @ turned(0, 0, 25), (1.5, 0.9, 2.0)),
}
# fixed and moving: equal and unequal orientation, spacing, field of view; two slices in one oblique plane
PAIRS = [("RAS", "RAS"), ("RAS", "oblique"), ("LAS", "LPS"), ("oblique", "LAS"), ("sagittal", "RAS"), ("slice", "other slice")]


def textured(grid: Volume, seed: int = 0) -> Volume:
    """A smooth random image with values in about 0 .. 1000."""
    noise = np.random.default_rng(seed).normal(size=grid.shape)
    image = gaussian_filter(noise, [1.5 if n > 1 else 0 for n in grid.shape])
    return grid.with_data((500 + 150 * image / image.std()).astype(np.float32))


def labeled(grid: Volume, seed: int = 0) -> Volume:
    """Five labels."""
    return grid.with_data((textured(grid, seed).data / 250).clip(0, 4).astype(np.int16))


def mild_affine(grid: Volume) -> Affine:
    """Rotation, scaling, shear and shift, without round numbers that make ties; within the plane for a slice."""
    matrix = np.eye(4)
    matrix[:3] = [[1.0513, -0.1219, 0.0617, 2.0331], [0.1027, 0.9203, -0.0511, -1.5127], [-0.0413, 0.0817, 1.0807, 2.5071]]
    if grid.ndim == 2:
        matrix[2], matrix[:2, 2] = [0, 0, 1, 0], 0
        plane = np.eye(4)
        plane[:3, :3] = grid.direction
        matrix = plane @ matrix @ np.linalg.inv(plane)
    return Affine(matrix)


def smooth_field(grid: Volume, voxels: float = 2.0, width: float = 4.0, seed: int = 1) -> DisplacementField:
    """A smooth random displacement with the given standard deviation; within the plane for a slice."""
    import torch

    noise = np.random.default_rng(seed).normal(size=(grid.ndim, *grid.shape))
    field = np.stack([gaussian_filter(channel, [width if n > 1 else 0 for n in grid.shape]) for channel in noise])
    field = torch.from_numpy((voxels * field / field.std()).astype(np.float32))[None]
    return voxel_to_world_displacement(field if grid.ndim == 3 else field[..., 0], grid.affine)

"""Random places, sizes and smooth deformations: where to sample a label map. For 2-D and 3-D alike."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Random = torch.Generator
LINEAR = {2: "bilinear", 3: "trilinear"}


def uniform(low: float, high: float, random: Random) -> float:
    """A random number between low and high."""
    return low + (high - low) * float(torch.rand((), generator=random))


def random_matrix(dimension: int, random: Random, degrees: float = 15, scale: float = 0.12, shear: float = 0.06) -> Tensor:
    """A random rotation, scale and shear (D, D): each angle within +-degrees, each factor within 1 +- scale."""
    angle = (torch.rand(dimension, dimension, generator=random) * 2 - 1) * math.radians(degrees)
    rotation = torch.linalg.matrix_exp(angle.triu(1) - angle.triu(1).T)
    stretch = torch.diag(1 + (torch.rand(dimension, generator=random) * 2 - 1) * scale)
    skew = torch.eye(dimension) + (torch.rand(dimension, dimension, generator=random) * 2 - 1).triu(1) * shear
    return rotation @ stretch @ skew


def smooth_noise(shape: tuple[int, ...], knots: int, channels: int, random: Random) -> Tensor:
    """Smooth normal noise (channels, *shape) with a correlation length of about 1/knots of the image."""
    coarse = torch.randn(1, channels, *[knots] * len(shape), generator=random)
    return F.interpolate(coarse, size=shape, mode=LINEAR[len(shape)], align_corners=True)[0]


def random_points(
    shape: tuple[int, ...], center: Tensor, step: float, random: Random, *, deformation: float = 2.0, flip: bool = True
) -> Tensor:
    """Points (*shape, D), in voxels of a label map, of a grid of `shape` placed at random around `center` (D,).

    `step` is the distance of neighbors in voxels of the label map; `deformation` is the standard deviation of a smooth
    random displacement, in grid steps. `flip` mirrors the first axis (left-right) half of the time.
    """
    dimension = len(shape)
    matrix = random_matrix(dimension, random) * step
    if flip and uniform(0, 1, random) < 0.5:
        matrix[:, 0] *= -1
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    for knots, share in ((5, 1.0), (12, 0.4)):
        amount = deformation * share * uniform(0, 1.5, random)
        grid += amount * smooth_noise(shape, knots, dimension, random).movedim(0, -1)
    return grid @ matrix.T + center


def sample(image: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values (C, *grid) of an image (C, *shape) at points (*grid, D) given in voxels; 0 outside."""
    size = torch.tensor(image.shape[1:], dtype=torch.float32)
    normalized = ((points + 0.5) * 2 / size - 1).flip(-1)
    return F.grid_sample(image[None], normalized[None], mode=mode, align_corners=False)[0]

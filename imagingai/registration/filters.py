"""Filters that the similarities and the optimizer share. Tensors are (N, C, X, Y, Z) or (N, C, X, Y).

All are separable and written as shifted additions: on the CPU this is several times faster than a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def box(image: Tensor, radius: int) -> Tensor:
    """Mean of a window of 2 radius + 1 voxels along each axis; outside the image is 0, so the filter is its own adjoint."""
    weight = 1 / (2 * radius + 1)
    for axis in range(2, image.ndim):
        image = _filter_axis(image, axis, [weight] * (radius + 1), "constant")
    return image


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing, sigma in voxels, cut at 2.5 sigma; the border value goes on outside."""
    if sigma <= 0:
        return image
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(math.ceil(2.5 * sigma) + 1)]
    total = 2 * sum(weights) - weights[0]
    for axis in range(2, image.ndim):
        image = _filter_axis(image, axis, [weight / total for weight in weights], "replicate")
    return image


def _filter_axis(image: Tensor, axis: int, weights: Sequence[float], border: str) -> Tensor:
    """Symmetric filter along one axis; weights[k] is that of the voxels k to either side."""
    radius, size = len(weights) - 1, image.shape[axis]
    padding = [0] * (2 * (image.ndim - 2))
    padding[2 * (image.ndim - 1 - axis)] = padding[2 * (image.ndim - 1 - axis) + 1] = radius
    padded = F.pad(image, padding, mode=border)
    out = padded.narrow(axis, radius, size) * weights[0]
    for shift in range(1, radius + 1):
        out.add_(padded.narrow(axis, radius - shift, size), alpha=weights[shift])
        out.add_(padded.narrow(axis, radius + shift, size), alpha=weights[shift])
    return out


def spatial_gradient(image: Tensor) -> Tensor:
    """Central differences of a single image (1, C, *grid) in voxels, as (C, D, *grid); 0 at the border."""
    out = image.new_zeros(image.shape[1], image.ndim - 2, *image.shape[2:])
    for axis in range(image.ndim - 2):
        size = image.shape[2 + axis]
        if size > 2:
            ahead, behind = image[0].narrow(1 + axis, 2, size - 2), image[0].narrow(1 + axis, 0, size - 2)
            torch.sub(ahead, behind, out=out[:, axis].narrow(1 + axis, 1, size - 2)).mul_(0.5)
    return out

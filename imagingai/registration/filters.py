"""Filters that the similarities and the optimizer share. Tensors are (N, C, X, Y, Z) or (N, C, X, Y).

All are separable and written as shifted additions without padding: on the CPU this is several times faster than a
convolution. `gaussian` works channel by channel, so that what it touches stays small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def box(image: Tensor, radius: int) -> Tensor:
    """Mean of a window of 2 radius + 1 voxels along each axis; outside the image is 0, so the filter is its own adjoint."""
    for axis in range(2, image.ndim):
        image = _filter_axis(image, axis, [1.0] * (radius + 1), replicate=False)
    return image.mul_((2 * radius + 1) ** (2 - image.ndim)) if radius else image.clone()


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing, sigma in voxels, cut at 2.5 sigma; the border value goes on outside."""
    if sigma <= 0:
        return image
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(math.ceil(2.5 * sigma) + 1)]
    total = 2 * sum(weights) - weights[0]
    out = torch.empty_like(image)
    for channel in range(image.shape[1]):
        part = image[:, channel : channel + 1]
        for axis in range(2, image.ndim):
            part = _filter_axis(part, axis, [weight / total for weight in weights], replicate=True)
        out[:, channel : channel + 1] = part
    return out


def _filter_axis(image: Tensor, axis: int, weights: Sequence[float], replicate: bool) -> Tensor:
    """Symmetric filter along one axis; weights[k] is that of the voxels k to either side."""
    size, out = image.shape[axis], image * weights[0]
    for shift, weight in enumerate(weights[1:], 1):
        reach = min(shift, size)
        if reach < size:
            out.narrow(axis, shift, size - shift).add_(image.narrow(axis, 0, size - shift), alpha=weight)
            out.narrow(axis, 0, size - shift).add_(image.narrow(axis, shift, size - shift), alpha=weight)
        if replicate:
            out.narrow(axis, 0, reach).add_(image.narrow(axis, 0, 1), alpha=weight)
            out.narrow(axis, size - reach, reach).add_(image.narrow(axis, size - 1, 1), alpha=weight)
    return out


def derivative(image: Tensor, axis: int) -> Tensor:
    """Central difference along one axis of the tensor, in voxels; 0 at the border."""
    out, size = torch.zeros_like(image), image.shape[axis]
    if size > 2:
        inner = out.narrow(axis, 1, size - 2)
        torch.sub(image.narrow(axis, 2, size - 2), image.narrow(axis, 0, size - 2), out=inner)
        inner.mul_(0.5)
    return out


def second_derivative(image: Tensor, axis: int) -> Tensor:
    """Second difference along one axis of the tensor, in voxels; 0 at the border."""
    out, size = torch.zeros_like(image), image.shape[axis]
    if size > 2:
        inner = out.narrow(axis, 1, size - 2)
        torch.add(image.narrow(axis, 2, size - 2), image.narrow(axis, 0, size - 2), out=inner)
        inner.sub_(image.narrow(axis, 1, size - 2), alpha=2)
    return out

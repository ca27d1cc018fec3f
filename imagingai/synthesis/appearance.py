"""Random appearance: contrast, bias field, resolution, noise, gamma. Tensors are (1, *shape), 2-D or 3-D."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imagingai.synthesis.geometry import Random, smooth_noise, uniform


def random_contrast(count: int, random: Random, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (count,) of the intensity of each tissue, roughly in 0..1.

    Without a prior every tissue gets any intensity. With a `prior` (count, 2) of means and their spread, 40 % of the
    contrasts follow it, 45 % follow it through a random curve (which makes T2-, PD- and FLAIR-like orders out of T1),
    and 15 % are any: fully random contrasts are the hardest to learn from and the farthest from real ones.
    """
    kind = uniform(0, 1, random)
    if prior is not None and kind < 0.85:
        means = prior[:, 0] + prior[:, 1] * torch.randn(count, generator=random)
        deviations = torch.rand(count, generator=random) * 0.08
        return (means if kind < 0.4 else random_curve(means, random)), deviations
    return torch.rand(count, generator=random), torch.rand(count, generator=random) * 0.12


def random_curve(values: Tensor, random: Random, knots: int = 6) -> Tensor:
    """Values in 0..1 through a random piecewise linear curve, falling half of the time."""
    heights = torch.rand(knots, generator=random)
    if uniform(0, 1, random) < 0.5:
        heights = 0.5 * heights + 0.5 * torch.linspace(1, 0, knots)
    place = values.clamp(0, 1) * (knots - 1)
    low = place.floor().clamp(max=knots - 2).long()
    return heights[low] + (heights[low + 1] - heights[low]) * (place - low)


def blur(image: Tensor, sigma: tuple[float, ...]) -> Tensor:
    """Gaussian smoothing of (C, *shape) with a sigma in voxels per axis, by shifted sums; borders are repeated."""
    for axis, s in enumerate(sigma, start=1):
        if s <= 0.2:
            continue
        radius = max(1, math.ceil(2.5 * s))
        weights = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * s * s))
        n = image.shape[axis]
        index = torch.arange(-radius, n + radius).clamp(0, n - 1)
        padded = image.index_select(axis, index)
        image = sum(w * padded.narrow(axis, k, n) for k, w in enumerate((weights / weights.sum()).tolist()))
    return image


def degrade(image: Tensor, random: Random, *, noise: float = 0.06, bias: float = 0.3, blurring: float = 0.5) -> Tensor:
    """Give a clean image (1, *shape) a bias field, the resolution of a random scanner, noise and a random gamma."""
    shape = tuple(image.shape[1:])
    image = image * torch.exp(bias * uniform(0, 1, random) * smooth_noise(shape, 4, 1, random))
    sigma = [uniform(0, blurring, random)] * len(shape)
    if uniform(0, 1, random) < 0.3:  # thick slices
        sigma[int(uniform(0, len(shape) - 1e-6, random))] += uniform(0, 2 * blurring, random)
    image = blur(image, tuple(sigma))
    image = (image + noise * uniform(0, 1, random) ** 2 * torch.randn(image.shape, generator=random)).clamp_(min=0)
    return normalize(image) ** math.exp(uniform(-0.5, 0.5, random))


def normalize(image: Tensor) -> Tensor:
    """Scale an image of any positive or negative intensities robustly to 0..1 (clipped at 1.5); a constant image becomes 0.

    The lowest value becomes 0, the 99th percentile of the others 1. Both ends are taken from every few voxels.
    """
    image = image - image.amin()
    few = image.flatten()
    few = few[:: max(1, few.numel() // 50_000)]
    few = few[few > 0]
    top = torch.quantile(few, 0.99) if few.numel() else image.new_tensor(0.0)
    return (image / top.clamp(min=1e-20)).clamp_(max=1.5) if top > 0 else torch.zeros_like(image)

"""How much two sets of samples tell of each other, in nats per sample, and how that changes with every sample.

Both measures are mean log-likelihood ratios, log p(f, m) / (p(f) p(m)), with p a joint histogram (mutual information;
Mattes et al., IEEE TMI 22, 2003) or a normal distribution (correlation). Their derivatives with respect to the moving
value and to the weight of a sample are in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

BINS = 32


class Information(NamedTuple):
    """value: (M,) nats; slope, worth: (M, N), M times the share of a sample in the weight, they are the derivatives of
    the value with respect to the moving value and to the weight."""

    value: Tensor
    slope: Tensor
    worth: Tensor


Measure = Callable[[Tensor, Tensor, Tensor], Information]


def mutual_information(fixed: Tensor, moving: Tensor, weight: Tensor) -> Information:
    """fixed (N,), moving and weight (M, N), values in 0..1. Any relation counts."""
    low = (moving * (BINS - 1)).floor().clamp_(0, BINS - 2)
    rest, row = moving * (BINS - 1) - low, (fixed * (BINS - 1)).round().long()
    cell = torch.arange(len(moving), device=fixed.device)[:, None] * BINS**2 + row * BINS + low.long()
    shares = (torch.stack([weight * (1 - rest), weight * rest]) * 2.0**20).round_().double()
    # sums of whole numbers do not depend on their order: the result is the same on every run, also on a GPU
    histogram = torch.bincount(torch.stack([cell, cell + 1]).flatten(), shares.flatten(), len(moving) * BINS**2).view(-1, BINS, BINS)
    smooth = _smoothing(fixed.device)
    joint = smooth @ (histogram / histogram.sum((1, 2), keepdim=True).clamp(min=1)) @ smooth.T + 1e-12
    ratio = torch.log(joint / (joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)))
    value = (joint * ratio).sum((1, 2))
    ratio = (smooth.T @ ratio @ smooth).flatten().float()
    here, next_ = ratio[cell], ratio[cell + 1]
    slope = (next_ - here) * (BINS - 1)
    return Information(value, slope, here + rest * (next_ - here) - value[:, None].float())


def correlation(fixed: Tensor, moving: Tensor, weight: Tensor) -> Information:
    """As `mutual_information`, for a linear relation: -log(1 - r^2) / 2, negative where r is."""
    share = weight.double() / weight.sum(1, keepdim=True).double().clamp(min=1e-12)
    center = lambda x: x - (share * x).sum(1, keepdim=True)  # noqa: E731
    a, b = center(fixed.double().expand_as(share)), center(moving.double())
    a, b = (x / ((share * x * x).sum(1, keepdim=True).sqrt() + 1e-6) for x in (a, b))
    scale = (share * center(moving.double()).square()).sum(1, keepdim=True).sqrt() + 1e-6
    r = (share * a * b).sum(1, keepdim=True).clamp(-0.999999, 0.999999)
    by_r = r.abs() / (1 - r * r)
    slope, worth = by_r * (a - r * b) / scale, by_r * (a * b - r * (a * a + b * b) / 2)
    return Information((-0.5 * torch.log1p(-r * r) * r.sign())[:, 0], slope.float(), worth.float())


@lru_cache
def _smoothing(device: torch.device) -> Tensor:
    """(BINS, BINS): the binomial window 1 4 6 4 1, which keeps the sum; it turns the linear Parzen window into a smooth one."""
    bins, matrix = torch.arange(BINS), torch.zeros(BINS, BINS, dtype=torch.float64)
    for shift, share in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        matrix.index_put_(((bins + shift).clamp(0, BINS - 1), bins), torch.tensor(share / 16, dtype=torch.float64), accumulate=True)
    return matrix.to(device)


MEASURES: dict[str, Measure] = {"mi": mutual_information, "ncc": correlation}

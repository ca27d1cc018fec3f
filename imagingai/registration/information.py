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

FEW_BINS, MANY_BINS = 32, 64  # of a histogram of few or of many samples; many have the smaller bias to rare values
MANY = 15_000


class Information(NamedTuple):
    """value: (M,) nats; slope, worth: (M, N), M times the share of a sample in the weight, they are the derivatives of
    the value with respect to the moving value and to the weight."""

    value: Tensor
    slope: Tensor
    worth: Tensor


Measure = Callable[[Tensor, Tensor, Tensor], Information]


def mutual_information(fixed: Tensor, moving: Tensor, weight: Tensor) -> Information:
    """fixed (N,), moving and weight (M, N), values in 0..1. Any relation counts."""
    bins = MANY_BINS if len(fixed) >= MANY else FEW_BINS
    low = (moving * (bins - 1)).floor().clamp_(0, bins - 2)
    rest, row = moving * (bins - 1) - low, (fixed * (bins - 1)).round().long()
    cell = torch.arange(len(moving), device=fixed.device)[:, None] * bins**2 + row * bins + low.long()
    shares = (torch.stack([weight * (1 - rest), weight * rest]) * 2.0**20).round_().double()
    # sums of whole numbers do not depend on their order: the result is the same on every run, also on a GPU
    histogram = torch.bincount(torch.stack([cell, cell + 1]).flatten(), shares.flatten(), len(moving) * bins**2).view(-1, bins, bins)
    smooth = _smoothing(bins, fixed.device)
    joint = smooth @ (histogram / histogram.sum((1, 2), keepdim=True).clamp(min=1)) @ smooth.T + 1e-12
    ratio = torch.log(joint / (joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)))
    value = (joint * ratio).sum((1, 2))
    ratio = (smooth.T @ ratio @ smooth).flatten().float()
    here, next_ = ratio[cell], ratio[cell + 1]
    slope = (next_ - here) * (bins - 1)
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
def _smoothing(bins: int, device: torch.device) -> Tensor:
    """(bins, bins): the window 1 2 1, twice for few bins; it keeps the sum and makes the linear Parzen window a smooth one."""
    places, matrix = torch.arange(bins), torch.zeros(bins, bins, dtype=torch.float64)
    for shift, share in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        matrix.index_put_(((places + shift).clamp(0, bins - 1), places), torch.tensor(share, dtype=torch.float64), accumulate=True)
    return (matrix if bins == MANY_BINS else matrix @ matrix).to(device)


MEASURES: dict[str, Measure] = {"mi": mutual_information, "ncc": correlation}

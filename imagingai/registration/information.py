"""How much two sets of samples tell of each other, in nats per sample, and how that changes with every sample.

Both measures are log-likelihood ratios: the mean over the samples of log p(f, m) / (p(f) p(m)), with p a joint
histogram (mutual information; Mattes et al., IEEE TMI 22, 2003, with a linear Parzen window) or a normal distribution
(correlation). The derivative with respect to the moving value of a sample is its score; it is in closed form, and its
square is the Fisher information that scales the steps of the optimizer in affine.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BINS = 32
Measure = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def mutual_information(fixed: Tensor, moving: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """fixed (N,), moving and weight (M, N), values in 0..1: information (M,) and scores (M, N). Any relation counts."""
    count = len(moving)
    low = (moving * (BINS - 1)).floor().clamp_(0, BINS - 2)
    rest, row = moving * (BINS - 1) - low, (fixed * (BINS - 1)).round().long()
    start = torch.arange(count, device=fixed.device)[:, None] * BINS**2
    cell = start + row * BINS + low.long()
    shares = torch.stack([weight * (1 - rest), weight * rest]).double()
    shares = (shares * 2**20).round_()  # sums of whole numbers do not depend on their order: the same on every run, also on a GPU
    histogram = torch.bincount(torch.stack([cell, cell + 1]).flatten(), shares.flatten(), count * BINS**2).view(count, BINS, BINS)
    smooth = _smoothing(fixed.device)
    joint = smooth @ (histogram / histogram.sum((1, 2), keepdim=True).clamp(min=1)) @ smooth.T + 1e-12
    ratio = torch.log(joint / (joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)))
    slope = (smooth.T @ ratio @ smooth).diff(dim=2) * (BINS - 1)
    slope = torch.cat([slope, slope[:, :, -1:]], 2).float()
    return (joint * ratio).sum((1, 2)), slope.flatten()[cell]


def correlation(fixed: Tensor, moving: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `mutual_information`, of a normal distribution: -log(1 - r^2) / 2, negative where r is."""
    weight = weight.double()
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    center = lambda x: x - (weight * x).sum(1, keepdim=True)  # noqa: E731
    a, b = center(fixed.double().expand_as(weight)), center(moving.double())
    var_a, var_b, both = ((weight * x).sum(1, keepdim=True) for x in (a * a, b * b, a * b))
    deviation = (var_a * var_b).sqrt() + 1e-12
    r = (both / deviation).clamp(-0.999999, 0.999999)
    value = -0.5 * torch.log1p(-r * r) * r.sign()
    slope = r.abs() / (1 - r * r) * (a / deviation - r * b / (var_b + 1e-12))
    return value[:, 0], slope.float()


def _smoothing(device: torch.device) -> Tensor:
    """(BINS, BINS): the binomial window 1 4 6 4 1, which keeps the sum; it turns the linear Parzen window into a smooth one."""
    bins = torch.arange(BINS)
    matrix = torch.zeros(BINS, BINS, dtype=torch.float64)
    for shift, share in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        matrix.index_put_(((bins + shift).clamp(0, BINS - 1), bins), torch.tensor(share / 16, dtype=torch.float64), accumulate=True)
    return matrix.to(device)


MEASURES: dict[str, Measure] = {"mi": mutual_information, "ncc": correlation}

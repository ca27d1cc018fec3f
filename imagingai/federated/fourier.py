"""Progressive Fourier aggregation (Chen et al. 2022; survey, section 3.3.1): only the low frequencies of the weights are shared at first.

They carry the basis of what a network can do; the high frequencies, which stay those of the site, are what it has learned of its own data.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def share_in(round: int, rounds: int, start: float) -> float:
    """Share of the frequencies that are taken from the others: `start` in round 1, then linearly up to 1 in the last round."""
    return 1.0 if rounds == 1 else start + (1 - start) * (round - 1) / (rounds - 1)


def merge(own: Mapping[str, Tensor], received: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The received weights, in which the highest frequencies of each tensor are the site's own.

    share: 0 gives the own weights, 1 the received ones, exactly; else frequencies up to share / 2 cycles per weight on each axis are
    received ones. A weight (out, in, rows, ...) is transformed as a matrix (out * rows, in * ...), as in the paper; vectors as such.
    """
    return {name: _merge(own[name], received[name], share) for name in received}


def _merge(own: Tensor, received: Tensor, share: float) -> Tensor:
    if share <= 0 or share >= 1 or not received.is_floating_point():
        return (own if share <= 0 else received).clone()
    difference = torch.fft.fftn(_matrix(received - own))
    for axis, length in enumerate(difference.shape):
        low = torch.fft.fftfreq(length, device=difference.device).abs() <= share / 2
        difference = difference * low.view([-1 if axis == n else 1 for n in range(difference.ndim)])
    low_part = torch.fft.ifftn(difference).real.to(received.dtype)
    return own + _back(low_part, received.shape)


def _matrix(weight: Tensor) -> Tensor:
    """(out, in, rows, rest ...) -> (out * rows, in * rest); (out, in) and (n,) stay."""
    if weight.ndim < 3:
        return weight.reshape(-1) if weight.ndim == 0 else weight
    out, inputs, rows = weight.shape[:3]
    return weight.reshape(out, inputs, rows, -1).permute(0, 2, 1, 3).reshape(out * rows, -1)


def _back(matrix: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) < 3:
        return matrix.reshape(shape)
    out, inputs, rows = shape[:3]
    return matrix.reshape(out, rows, inputs, -1).permute(0, 2, 1, 3).reshape(shape)

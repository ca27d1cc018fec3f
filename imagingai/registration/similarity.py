"""Image similarities: lower is better. The table `SIMILARITIES`, what all of them share, and deepsim.

Tensors are (1, C, X, Y, Z) or (1, C, X, Y). A `Term` compares one fixed image with a moving image that is being warped,
at one resolution; its gradient is in closed form, except where a network stands between the image and the comparison.
The similarities of gray values are in intensity.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.errors import InputError
from imagingai.options import parse_sum
from imagingai.registration.intensity import MutualInformation, PatchCorrelation, SquaredError, SupervisedCorrelation, mind_features

Features = Callable[[Tensor], list[Tensor]]  # image (1, 1, *grid) -> levels 0, 1 ... (1, C, *this or a coarser grid)


@dataclass(frozen=True)
class Settings:
    """radius: of the ncc window, in voxels; bins: of the nmi histogram; features: the extractor of deepsim.

    levels: which levels deepsim compares; 0 is the end of the decoder, 1 the finest of the encoder. extract_first: deepsim warps the
    features instead of the image.
    """

    radius: int = 2
    bins: int = 32
    features: Features | None = None
    levels: tuple[int, ...] = (0,)
    extract_first: bool = False


class Term(Protocol):
    """One similarity at one resolution. `moving` (1, C, *grid) is what the optimizer warps."""

    moving: Tensor

    def map(self, moved: Tensor) -> Tensor:
        """Local dissimilarity (1, 1, *grid); the loss is its mean."""

    def gradient(self, moved: Tensor) -> Tensor:
        """Derivative of the sum of the map with respect to `moved`, of the same shape."""


# --- deep features


def deepsim(fixed: list[Tensor], moved: list[Tensor]) -> Tensor:
    """1 - DeepSim of two feature pyramids (Czolbe et al., paper 1, eq. 12): cosine over channels, mean over space and levels."""
    return torch.stack([cosine_map(a, b).mean() for a, b in zip(fixed, moved, strict=True)]).mean()


def cosine_map(fixed: Tensor, moved: Tensor) -> Tensor:
    """1 - cosine of the channel vectors, (1, 1, *grid)."""
    return 1 - F.cosine_similarity(fixed, moved, dim=1, eps=1e-6)[:, None]


class FeatureCosine:
    """DeepSim, the image warped first and then its features extracted; the gradient goes back through the network.

    Every voxel has the value of the cell of each level that it lies in, so that the mean of the map is that of eq. 12.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, settings: Settings) -> None:
        self.extract, self.moving = (lambda image: choose_levels(image, settings)), moving
        with torch.no_grad():
            self.fixed = self.extract(fixed)

    def map(self, moved: Tensor) -> Tensor:
        maps = [cosine_map(a, b) for a, b in zip(self.fixed, self.extract(moved), strict=True)]
        return sum(F.interpolate(level, size=moved.shape[2:], mode="nearest") for level in maps) / len(maps)

    @torch.enable_grad()
    def gradient(self, moved: Tensor) -> Tensor:
        image = moved.detach().requires_grad_()
        return torch.autograd.grad(self.map(image).sum(), image)[0]


class WarpedFeatureCosine:
    """DeepSim, features extracted first and then warped. sizes: how many channels each level has, side by side."""

    def __init__(self, fixed: Tensor, moving: Tensor, sizes: list[int]) -> None:
        self.fixed = [F.normalize(level, dim=1, eps=1e-6) for level in fixed.split(sizes, 1)]
        self.moving, self.sizes = moving, sizes

    def map(self, moved: Tensor) -> Tensor:
        return sum(cosine_map(a, b) for a, b in zip(self.fixed, moved.split(self.sizes, 1), strict=True)) / len(self.sizes)

    def gradient(self, moved: Tensor) -> Tensor:
        out, begin = torch.empty_like(moved), 0
        for fixed in self.fixed:
            part = slice(begin, begin + fixed.shape[1])
            begin = part.stop
            length = moved[:, part].norm(dim=1, keepdim=True).clamp_(min=1e-6)
            cosine = (fixed * moved[:, part]).sum(1, keepdim=True) / length
            torch.mul(moved[:, part], cosine / length, out=out[:, part]).sub_(fixed).div_(length * len(self.sizes))
        return out


def warpable_features(fixed: Tensor, moving: Tensor, settings: Settings, components: int = 8) -> tuple[Tensor, Tensor, list[int]]:
    """Levels of both images at full size, side by side (1, C, *grid), and the number of channels of each.

    Each level is reduced to its strongest components (of both images together; not centered, so that their inner
    products come closest to those of all channels), which keeps warping them affordable.
    """
    channels: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for a, b in zip(choose_levels(fixed, settings), choose_levels(moving, settings), strict=True):
            vectors = torch.cat([a.flatten(2)[0], b.flatten(2)[0]], 1)
            basis = torch.linalg.eigh(vectors @ vectors.T)[1][:, -min(components, len(vectors)) :]
            channels.append(tuple(_resize(torch.einsum("bc...,ck->bk...", level, basis), fixed.shape[2:]) for level in (a, b)))
    first, second = (torch.cat([pair[k] for pair in channels], 1) for k in (0, 1))
    return first, second, [pair[0].shape[1] for pair in channels]


def choose_levels(image: Tensor, settings: Settings) -> list[Tensor]:
    """The levels of an image that the settings name."""
    if settings.features is None:
        raise InputError("deepsim needs a feature extractor: give --features a file of weights, or the name of shipped ones.")
    levels = settings.features(image)
    if bad := [level for level in settings.levels if level >= len(levels)]:
        raise InputError(f"--deepsim-levels {bad[0]}: the extractor has the levels 0 to {len(levels) - 1}.")
    return [levels[number] for number in settings.levels]


def _resize(level: Tensor, shape: torch.Size) -> Tensor:
    return F.interpolate(level, size=shape, mode="trilinear" if len(shape) == 3 else "bilinear", align_corners=False)


def _deepsim_term(fixed: Tensor, moving: Tensor, settings: Settings) -> Term:
    if settings.extract_first:
        return WarpedFeatureCosine(*warpable_features(fixed, moving, settings))
    return FeatureCosine(fixed, moving, settings)


# --- the table


SIMILARITIES: dict[str, Callable[[Tensor, Tensor, Settings], Term]] = {
    "mse": lambda fixed, moving, settings: SquaredError(fixed, moving),
    "ncc": lambda fixed, moving, settings: PatchCorrelation(fixed, moving, settings.radius),
    "nmi": lambda fixed, moving, settings: MutualInformation(fixed, moving, settings.bins),
    "mind": lambda fixed, moving, settings: SquaredError(mind_features(fixed), mind_features(moving)),
    "ncc_sup": lambda fixed, moving, settings: SupervisedCorrelation(fixed, moving, settings.radius),
    "deepsim_ae": _deepsim_term,
    "deepsim_seg": _deepsim_term,
}


def sum_terms(text: str, fixed: Tensor, moving: Tensor, settings: Settings = Settings()) -> list[tuple[float, Term]]:
    """The weighted summands of a similarity such as `ncc+0.5*mind`.

    With ncc_sup the images carry one-hot labels behind their first channel; the other summands leave them out.
    """
    summands = parse_sum(text, tuple(SIMILARITIES), "similarity")
    labeled = any(name == "ncc_sup" for _, name in summands)
    terms = []
    for weight, name in summands:
        pair = (fixed[:, :1], moving[:, :1]) if labeled and name != "ncc_sup" else (fixed, moving)
        terms.append((weight, SIMILARITIES[name](*pair, settings)))
    return terms


def similarity_map(text: str, fixed: Tensor, moved: Tensor, settings: Settings = Settings()) -> Tensor:
    """Where two images differ by a similarity or a weighted sum, (1, 1, *grid): 0 is a perfect match."""
    with torch.no_grad():
        return sum(weight * term.map(term.moving) for weight, term in sum_terms(text, fixed, moved, settings))

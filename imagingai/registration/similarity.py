"""Image similarities: lower is better. Each is a plain function, a `Term` for the optimizer, and a row of `SIMILARITIES`.

Tensors are (1, C, X, Y, Z) or (1, C, X, Y). A `Term` compares one fixed image with a moving image that is being warped,
at one resolution; its gradient is in closed form, except where a network stands between the image and the comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.errors import InputError
from imagingai.registration.filters import box

EPSILON = 1e-4  # added to local variances; intensities are about 0 to 1
Features = Callable[[Tensor], list[Tensor]]  # image (1, 1, *grid) -> encoder levels (1, C, *coarser grid)


@dataclass(frozen=True)
class Settings:
    """radius: of the ncc window, in voxels; bins: of the nmi histogram; features: the extractor of deepsim.

    levels: which encoder levels deepsim compares, 1 is the finest, () takes all. extract_first: deepsim warps the
    features instead of the image.
    """

    radius: int = 2
    bins: int = 32
    features: Features | None = None
    levels: tuple[int, ...] = ()
    extract_first: bool = False


class Term(Protocol):
    """One similarity at one resolution. `moving` (1, C, *grid) is what the optimizer warps."""

    moving: Tensor

    def map(self, moved: Tensor) -> Tensor:
        """Local dissimilarity (1, 1, *grid); the loss is its mean."""

    def gradient(self, moved: Tensor) -> Tensor:
        """Derivative of the sum of the map with respect to `moved`, of the same shape."""


# --- mean squared error


def mse(fixed: Tensor, moved: Tensor) -> Tensor:
    """Mean squared difference."""
    return (fixed - moved).square().mean()


class SquaredError:
    """Squared difference, averaged over channels."""

    def __init__(self, fixed: Tensor, moving: Tensor, settings: Settings = Settings()) -> None:
        self.fixed, self.moving = fixed, moving

    def map(self, moved: Tensor) -> Tensor:
        return (self.fixed - moved).square().mean(1, keepdim=True)

    def gradient(self, moved: Tensor) -> Tensor:
        return (moved - self.fixed).mul_(2 / moved.shape[1])


# --- normalized cross correlation of patches


def ncc(fixed: Tensor, moved: Tensor, radius: int = 2) -> Tensor:
    """1 - mean squared correlation of windows: 0 for images that are linear functions of each other, whatever the sign."""
    return PatchCorrelation(fixed, moved, Settings(radius=radius)).map(moved).mean()


class PatchCorrelation:
    """1 - squared correlation in a window (Avants et al., Medical Image Analysis 2008), with its exact gradient.

    With c, v, w the local covariance and variances, a = c / (v w) and b = a c / w, the derivative of sum c^2 / (v w)
    with respect to the moved image m is 2 (f S(a) - m S(b) + S(b mean(m) - a mean(f))), S the adjoint of the window
    mean. At the border of the image only the part of the window inside counts.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, settings: Settings = Settings()) -> None:
        self.fixed, self.moving, self.radius = fixed, moving, settings.radius
        self.inside = 1 / box(torch.ones_like(fixed), self.radius)
        self.mean = box(fixed, self.radius) * self.inside
        self.variance = (box(fixed * fixed, self.radius) * self.inside - self.mean.square()).clamp_(min=0).add_(EPSILON)

    def _moments(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = box(torch.cat([moved, moved * moved, self.fixed * moved], 1), self.radius) * self.inside
        mean, square, product = sums.split(1, 1)
        covariance = product - self.mean * mean
        covariance += torch.where(covariance < 0, -EPSILON, EPSILON)
        return mean, (square - mean.square()).clamp_(min=0).add_(EPSILON), covariance

    def map(self, moved: Tensor) -> Tensor:
        _, variance, covariance = self._moments(moved)
        return 1 - covariance.square() / (self.variance * variance)

    def gradient(self, moved: Tensor) -> Tensor:
        mean, variance, covariance = self._moments(moved)
        a = covariance / (self.variance * variance) * self.inside
        b = a * covariance / variance
        summed = box(torch.cat([a, b, b * mean - a * self.mean], 1), self.radius)
        return (moved * summed[:, 1:2]).sub_(self.fixed * summed[:, :1]).sub_(summed[:, 2:]).mul_(2)


# --- normalized mutual information


def nmi(fixed: Tensor, moved: Tensor, bins: int = 32) -> Tensor:
    """2 - normalized mutual information (Studholme 1999): 0 if one image tells the other, 1 if they are independent."""
    return MutualInformation(fixed, moved, Settings(bins=bins)).map(moved).mean()


class MutualInformation:
    """2 - (H(f) + H(m)) / H(f, m) from a Parzen histogram: cubic B-spline for the moved image, plain bins for the fixed one.

    The map is each voxel's share, 2 + (log p(f) + log p(m)) / H(f, m) at its gray values; its mean is the loss.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, settings: Settings = Settings()) -> None:
        self.moving, self.bins = moving, settings.bins
        self.low, high = moving.min(), moving.max()
        self.scale = (settings.bins - 4) / (high - self.low).clamp(min=1e-6)
        values = (fixed - fixed.min()) / (fixed.max() - fixed.min()).clamp(min=1e-6)
        self.row = (values * (settings.bins - 1)).round_().long().flatten() * settings.bins

    def _spline(self, moved: Tensor, derivative: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Index of the first of four histogram cells of each voxel, and the B-spline weights of the four."""
        position = ((moved - self.low) * self.scale).clamp_(0, self.bins - 4).flatten() + 1.5
        first = position.floor() - 1
        t = position - first - 1  # 0 .. 1
        if derivative:
            weights = [-((1 - t) ** 2) / 2, 1.5 * t**2 - 2 * t, -1.5 * t**2 + t + 0.5, t**2 / 2]
        else:
            weights = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
        return self.row + first.long(), weights

    def _tables(self, moved: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The share of every histogram cell in the loss, its derivative by the cell's probability; both (bins * bins,)."""
        first, weights = self._spline(moved)
        joint = torch.zeros(self.bins**2, dtype=torch.float64, device=moved.device)
        for offset, weight in enumerate(weights):
            joint.index_add_(0, first + offset, weight.double())
        joint = joint.view(self.bins, self.bins) / first.numel()
        log = lambda p: p.clamp(min=1e-12).log()  # noqa: E731
        rows, columns = log(joint.sum(1, keepdim=True)), log(joint.sum(0, keepdim=True))
        entropy = -(joint * log(joint)).sum().clamp(max=-1e-12)
        single = -(joint * (rows + columns)).sum()
        share = 2 + (rows + columns) / entropy
        slope = (rows + columns) / entropy - single / entropy.square() * log(joint)
        return first, share.flatten().to(moved.dtype), slope.flatten().to(moved.dtype), weights

    def map(self, moved: Tensor) -> Tensor:
        first, share, _, weights = self._tables(moved)
        return sum(share[first + offset] * weight for offset, weight in enumerate(weights)).view_as(moved)

    def gradient(self, moved: Tensor) -> Tensor:
        first, _, slope, _ = self._tables(moved)
        _, weights = self._spline(moved, derivative=True)
        inside = (moved > self.low) & (moved < self.low + (self.bins - 4) / self.scale)
        return sum(slope[first + offset] * weight for offset, weight in enumerate(weights)).view_as(moved) * self.scale * inside


# --- modality independent neighborhood descriptor


def mind_features(image: Tensor, distance: int = 2, radius: int = 1) -> Tensor:
    """MIND-SSC (Heinrich et al., MICCAI 2013): self-similarities of the neighbors of each voxel, 0 to 1.

    image (1, 1, *grid) -> (1, 12, X, Y, Z) or (1, 4, X, Y): the pairs of neighbors that are not opposite each other.
    Neighbors outside the image are taken at its border.
    """
    size, padding = image.ndim - 2, [distance] * (2 * (image.ndim - 2))
    padded = F.pad(image, padding, mode="replicate")
    steps = [tuple(sign * distance * (axis == k) for k in range(size)) for axis in range(size) for sign in (-1, 1)]

    def shifted(step: tuple[int, ...]) -> Tensor:
        return padded[(..., *(slice(distance + s, distance + s + n) for s, n in zip(step, image.shape[2:], strict=True)))]

    pairs = [(a, b) for a, b in combinations(steps, 2) if any(x + y for x, y in zip(a, b, strict=True))]
    distances = torch.cat([box((shifted(a) - shifted(b)).square_(), radius) for a, b in pairs], 1)
    distances -= distances.min(1, keepdim=True)[0]
    variance = distances.mean(1, keepdim=True)
    mean = variance.mean()
    return torch.exp(-distances / (variance.clamp(mean * 1e-3, mean * 1e3) + 1e-12))


def mind(fixed: Tensor, moved: Tensor) -> Tensor:
    """Mean squared difference of the MIND-SSC descriptors of two images of any modality."""
    return mse(mind_features(fixed), mind_features(moved))


def _mind_term(fixed: Tensor, moving: Tensor, settings: Settings) -> Term:
    return SquaredError(mind_features(fixed), mind_features(moving))


# --- deep features


def deepsim(fixed: list[Tensor], moved: list[Tensor]) -> Tensor:
    """1 - DeepSim of two feature pyramids (Czolbe et al., paper 1, eq. 12): cosine over channels, mean over space and levels."""
    return torch.stack([cosine_map(a, b).mean() for a, b in zip(fixed, moved, strict=True)]).mean()


def cosine_map(fixed: Tensor, moved: Tensor) -> Tensor:
    """1 - cosine of the channel vectors, (1, 1, *grid)."""
    return 1 - F.cosine_similarity(fixed, moved, dim=1, eps=1e-6)[:, None]


class FeatureCosine:
    """DeepSim, the image warped first and then its features extracted; the gradient goes back through the network."""

    def __init__(self, fixed: Tensor, moving: Tensor, settings: Settings) -> None:
        self.extract, self.moving = (lambda image: choose_levels(image, settings)), moving
        with torch.no_grad():
            self.fixed = self.extract(fixed)

    def map(self, moved: Tensor) -> Tensor:
        maps = [cosine_map(a, b) for a, b in zip(self.fixed, self.extract(moved), strict=True)]
        return sum(_resize(level, moved.shape[2:]) for level in maps) / len(maps)

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
        parts = []
        for fixed, part in zip(self.fixed, moved.split(self.sizes, 1), strict=True):
            length = part.norm(dim=1, keepdim=True).clamp_(min=1e-6)
            cosine = (fixed * part).sum(1, keepdim=True) / length
            parts.append((part * (cosine / length) - fixed) / length)
        return torch.cat(parts, 1) / len(parts)


def warpable_features(fixed: Tensor, moving: Tensor, settings: Settings, components: int = 8) -> tuple[Tensor, Tensor, list[int]]:
    """Encoder levels of both images at full size, side by side (1, C, *grid), and the number of channels of each.

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
    """The encoder levels of an image that the settings name."""
    if settings.features is None:
        raise InputError("deepsim needs a feature extractor: give --features a file of weights, or the name of shipped ones.")
    levels = settings.features(image)
    if bad := [level for level in settings.levels if not 1 <= level <= len(levels)]:
        raise InputError(f"--deepsim-levels {bad[0]}: the extractor has the levels 1 to {len(levels)}.")
    return [levels[number - 1] for number in settings.levels] if settings.levels else levels


def _resize(level: Tensor, shape: torch.Size) -> Tensor:
    return F.interpolate(level, size=shape, mode="trilinear" if len(shape) == 3 else "bilinear", align_corners=False)


def _deepsim_term(fixed: Tensor, moving: Tensor, settings: Settings) -> Term:
    if settings.extract_first:
        return WarpedFeatureCosine(*warpable_features(fixed, moving, settings))
    return FeatureCosine(fixed, moving, settings)


# --- labels as well


class SupervisedCorrelation:
    """ncc of the first channel plus the mean squared difference of the others, one-hot labels (ncc_sup of paper 1)."""

    def __init__(self, fixed: Tensor, moving: Tensor, settings: Settings = Settings()) -> None:
        self.image = PatchCorrelation(fixed[:, :1], moving[:, :1], settings)
        self.labels = SquaredError(fixed[:, 1:], moving[:, 1:])
        self.moving = moving

    def map(self, moved: Tensor) -> Tensor:
        return self.image.map(moved[:, :1]) + self.labels.map(moved[:, 1:])

    def gradient(self, moved: Tensor) -> Tensor:
        return torch.cat([self.image.gradient(moved[:, :1]), self.labels.gradient(moved[:, 1:])], 1)


SIMILARITIES: dict[str, Callable[[Tensor, Tensor, Settings], Term]] = {
    "mse": SquaredError,
    "ncc": PatchCorrelation,
    "nmi": MutualInformation,
    "mind": _mind_term,
    "ncc_sup": SupervisedCorrelation,
    "deepsim_ae": _deepsim_term,
    "deepsim_seg": _deepsim_term,
}


def similarity_map(name: str, fixed: Tensor, moved: Tensor, settings: Settings = Settings()) -> Tensor:
    """Where two images differ by a similarity, (1, 1, *grid): 0 is a perfect match."""
    term = SIMILARITIES[name](fixed, moved, settings)
    return term.map(term.moving)

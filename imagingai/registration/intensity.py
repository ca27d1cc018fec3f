"""Similarities of gray values: mse, ncc, nmi, mind, ncc_sup. Lower is better; tensors (1, C, X, Y, Z) or (1, C, X, Y).

Each is a differentiable function for training (batches are welcome, windows and histograms as well) and a `Term` for
the optimizer (see similarity.py), whose gradient is in closed form and costs a fraction of automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.errors import InputError
from imagingai.registration.filters import box

EPSILON = 1e-3  # added to local variances and the size of covariances: noise of 3 % of bright tissue; gray values are about 0 to 1
SLAB = 1 << 20  # voxels that are worked on at once: bounds the memory and stays near the cache
LEAST = 1e-12  # probability of what never happens


class _Mean(torch.autograd.Function):
    """Mean of the map of a term, differentiated by the term itself; `build(fixed, moved)` makes it, either way round."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, fixed: Tensor, moved: Tensor, build: Callable) -> Tensor:
        ctx.save_for_backward(fixed, moved)
        ctx.build = build
        return build(fixed, moved).map(moved).mean()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        fixed, moved = ctx.saved_tensors
        scale = scale / moved[:, :1].numel()
        pairs = zip(ctx.needs_input_grad, ((moved, fixed), (fixed, moved)), strict=False)
        first, second = (ctx.build(a, b).gradient(b) * scale if needed else None for needed, (a, b) in pairs)
        return first, second, None


# --- mean squared error


def mse(fixed: Tensor, moved: Tensor) -> Tensor:
    """Mean squared difference."""
    return (fixed - moved).square().mean()


class SquaredError:
    """Squared difference, averaged over channels."""

    def __init__(self, fixed: Tensor, moving: Tensor) -> None:
        self.fixed, self.moving = fixed, moving

    def map(self, moved: Tensor) -> Tensor:
        return (self.fixed - moved).square_().mean(1, keepdim=True)

    def gradient(self, moved: Tensor) -> Tensor:
        return (moved - self.fixed).mul_(2 / moved.shape[1])


# --- normalized cross correlation of patches


def ncc(fixed: Tensor, moved: Tensor, radius: int = 2) -> Tensor:
    """1 - mean squared correlation of windows: 0 for images that are linear functions of each other, whatever the sign."""
    return _Mean.apply(fixed, moved, lambda a, b: PatchCorrelation(a, b, radius))


class PatchCorrelation:
    """1 - squared correlation in a window (Avants et al., Medical Image Analysis 2008), with its exact gradient.

    With c, v, w the local covariance and the variances of fixed f and moved m, a = c / (v w) and b = a c / w, the
    derivative of sum c^2 / (v w) with respect to m is 2 (f S(a) - m S(b) + S(b mean(m) - a mean(f))), S the adjoint of
    the window mean. Identical images have no gradient, because the covariance is regularized as the variances are. At
    the border only the part of the window inside the image counts. Channels are averaged. All is done slab by slab.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, radius: int = 2) -> None:
        self.fixed, self.moving, self.radius = fixed, moving, radius
        self.inside = [self._profile(axis) for axis in range(2, fixed.ndim)]
        self.mean, self.variance = torch.empty_like(fixed), torch.empty_like(fixed)
        for begin, end in self._slabs():
            f, mean = self._window(fixed, begin, end), self.mean[:, :, begin:end]
            mean.copy_(self._averaged(f, begin, end))
            self.variance[:, :, begin:end] = self._averaged(f * f, begin, end).sub_(mean.square()).clamp_(min=0).add_(EPSILON)

    def map(self, moved: Tensor) -> Tensor:
        out = torch.empty_like(moved)
        for begin, end in self._slabs():
            _, variance, covariance = self._moments(moved, begin, end)
            torch.sub(1, covariance.square_().div_(variance).div_(self.variance[:, :, begin:end]), out=out[:, :, begin:end])
        return out.mean(1, keepdim=True)

    def gradient(self, moved: Tensor) -> Tensor:
        out = torch.empty_like(moved)
        for begin, end in self._slabs():
            low, high = self._reach(begin, end)
            mean, variance, covariance = self._moments(moved, low, high)
            a = (covariance / self.variance[:, :, low:high]).div_(variance).mul_(self._share(low, high))
            b = covariance.mul_(a).div_(variance)
            rest = mean.mul_(b).addcmul_(a, self.mean[:, :, low:high], value=-1)
            a, b, rest = (box(x, self.radius).narrow(2, begin - low, end - begin) for x in (a, b, rest))
            rest.neg_().addcmul_(moved[:, :, begin:end], b).addcmul_(self.fixed[:, :, begin:end], a, value=-1)
            torch.mul(rest, 2 / moved.shape[1], out=out[:, :, begin:end])
        return out

    def _slabs(self) -> Iterator[tuple[int, int]]:
        size = self.fixed.shape[2]
        thickness = max(1, SLAB // self.fixed[:, :, 0].numel()) if self.fixed.device.type == "cpu" else size
        return ((begin, min(size, begin + thickness)) for begin in range(0, size, thickness))

    def _reach(self, begin: int, end: int) -> tuple[int, int]:
        """The slab with what its windows see."""
        return max(0, begin - self.radius), min(self.fixed.shape[2], end + self.radius)

    def _window(self, image: Tensor, begin: int, end: int) -> Tensor:
        low, high = self._reach(begin, end)
        return image[:, :, low:high]

    def _moments(self, moved: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Window mean and variance of the moved image, covariance with the fixed one."""
        f, m = self._window(self.fixed, begin, end), self._window(moved, begin, end)
        mean = self._averaged(m, begin, end)
        variance = self._averaged(m * m, begin, end).addcmul_(mean, mean, value=-1).clamp_(min=0).add_(EPSILON)
        covariance = self._averaged(f * m, begin, end).addcmul_(self.mean[:, :, begin:end], mean, value=-1)
        return mean, variance, covariance.add_(torch.copysign(covariance.new_tensor(EPSILON), covariance))

    def _averaged(self, image: Tensor, begin: int, end: int) -> Tensor:
        """Mean over the part of the window inside the image, from the planes that the slab sees."""
        return box(image, self.radius).narrow(2, begin - self._reach(begin, end)[0], end - begin).mul_(self._share(begin, end))

    def _share(self, begin: int, end: int) -> Tensor:
        """Voxels of a whole window by those inside the image."""
        share = self.inside[0][:, :, begin:end]
        for profile in self.inside[1:]:
            share = share * profile
        return share

    def _profile(self, axis: int) -> Tensor:
        size = self.fixed.shape[axis]
        shape = [size if k == axis else 1 for k in range(self.fixed.ndim)]
        return 1 / box(self.fixed.new_ones(1, 1, size), self.radius).view(shape)


# --- normalized mutual information


def nmi(fixed: Tensor, moved: Tensor, bins: int = 32) -> Tensor:
    """2 - normalized mutual information (Studholme 1999): 0 if one image tells the other, 1 if they are independent.

    Differentiable with respect to `moved` only, whose range of gray values counts as given.
    """
    return _Mean.apply(fixed.detach(), moved, lambda a, b: MutualInformation(a, b, bins))


class MutualInformation:
    """2 - (H(f) + H(m)) / H(f, m) of a Parzen histogram: plain bins for the fixed image, a smooth window for the moved one.

    The window is a cubic B-spline, tabulated at the bins and linear between them: counting is linear, then the histogram
    is smoothed by 1 4 1. So the gradient of a voxel is one look-up: the difference of two cells of a table. The map is
    -(log p(f | m) + log p(m | f)) / H(f, m): how little the two gray values of a voxel tell of each other.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, bins: int = 32) -> None:
        self.moving, self.bins = moving, bins
        self.low = moving.min()
        self.scale = (bins - 3) / (moving.max() - self.low).clamp(min=1e-6)
        values = (fixed - fixed.min()) / (fixed.max() - fixed.min()).clamp(min=1e-6)
        self.row = values.mul_(bins - 1).round_().int().flatten() * bins
        beside = torch.full((bins - 1,), 1 / 6, dtype=torch.float64, device=fixed.device)
        self.window = torch.diag(beside, -1) + torch.diag(beside, 1) + torch.eye(bins).to(beside) * (4 / 6)

    def map(self, moved: Tensor) -> Tensor:
        joint, rows, columns = self._histogram(moved)
        entropy = (joint * joint.log()).sum().neg().clamp(min=LEAST)
        table = self._spread((rows + columns - 2 * joint.log()) / entropy, moved)
        out = torch.empty_like(moved).flatten()
        for part, cell, rest in self._cells(moved):
            torch.lerp(table.index_select(0, cell), table.index_select(0, cell + 1), rest, out=out[part])
        return out.view_as(moved).mean(1, keepdim=True)

    def gradient(self, moved: Tensor) -> Tensor:
        joint, rows, columns = self._histogram(moved)
        log = joint.log()
        entropy = (joint * log).sum().neg().clamp(min=LEAST)
        both = -(joint * (rows + columns)).sum()
        table = self._spread((rows + columns) / entropy - log * (both / entropy.square()), moved)
        slope = F.pad(table.diff(), [0, 1]) * (self.scale / moved.shape[1])
        out = torch.empty_like(moved).flatten()
        for part, cell, _ in self._cells(moved):
            torch.index_select(slope, 0, cell, out=out[part])
        high = self.low + (self.bins - 3) / self.scale
        return out.view_as(moved).mul_((moved > self.low) & (moved < high))

    def _cells(self, moved: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Part by part: the histogram cell of every voxel, and how far it is from there to the next one (0 to 1)."""
        flat = moved.flatten()
        for begin in range(0, len(flat), SLAB):
            part = slice(begin, begin + SLAB)
            position = (flat[part] - self.low).mul_(self.scale).clamp_(0, self.bins - 3).add_(1)
            first = position.floor().clamp_(max=self.bins - 3)
            yield part, self.row[part] + first.int(), position.sub_(first)

    def _histogram(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joint probability (bins, bins), logarithms of those of the rows and columns; in double precision.

        Whole numbers are counted: their sum does not depend on the order, so it is the same on every run, on a GPU too.
        """
        whole = 2**30
        count = torch.zeros(self.bins**2, dtype=torch.float64, device=moved.device)
        for _, cell, rest in self._cells(moved):
            rest = (rest.double() * whole).round_()
            count[1:] += torch.bincount(cell, rest, len(count))[:-1]
            count += torch.bincount(cell, rest.neg_().add_(whole), len(count))
        joint = (count.view(self.bins, self.bins) @ self.window / (whole * moved.numel())).clamp_(min=LEAST)
        return joint, joint.sum(1, keepdim=True).log(), joint.sum(0, keepdim=True).log()

    def _spread(self, table: Tensor, like: Tensor) -> Tensor:
        """What a voxel finds in a table of the cells, through its window."""
        return (table @ self.window).flatten().to(like.dtype)


# --- modality independent neighborhood descriptor


def mind(fixed: Tensor, moved: Tensor) -> Tensor:
    """Mean squared difference of the MIND-SSC descriptors of two images of any modality."""
    return mse(mind_features(fixed), mind_features(moved))


def mind_features(image: Tensor, distance: int = 2, radius: int = 1) -> Tensor:
    """MIND-SSC (Heinrich et al., MICCAI 2013): self-similarities of the neighbors of each voxel, 0 to 1.

    image (1, C, *grid) -> (1, 12, X, Y, Z) or (1, 4, X, Y): the pairs of neighbors that are not opposite each other.
    Neighbors outside the image are taken at its border.
    """
    shape, size = image.shape[2:], image.ndim - 2
    padded = F.pad(image, [distance] * (2 * size), mode="replicate")
    shifts = [[sign * distance * (k == axis) for k in range(size)] for axis in range(size) for sign in (-1, 1)]
    neighbors = [padded[(..., *(slice(distance + s, distance + s + n) for s, n in zip(x, shape, strict=True)))] for x in shifts]
    pairs = [(a, b) for a, b in combinations(range(2 * size), 2) if a // 2 != b // 2]
    distances = image.new_empty(len(image), len(pairs), *shape)
    variance = image.new_empty(len(image), 1, *shape)
    thickness = max(8, SLAB // distances[:, :, 0].numel())
    for begin in range(0, shape[0], thickness):
        end, low = min(shape[0], begin + thickness), max(0, begin - radius)
        near = [neighbor[:, :, low : end + radius] for neighbor in neighbors]
        squares = ((near[a] - near[b]).square_().mean(1, keepdim=True) for a, b in pairs)
        slab = torch.cat([box(square, radius).narrow(2, begin - low, end - begin) for square in squares], 1)
        slab = slab - slab.amin(1, keepdim=True)
        distances[:, :, begin:end], variance[:, :, begin:end] = slab, slab.mean(1, keepdim=True)
    mean = variance.mean()
    variance = variance.clamp(mean * 1e-3, mean * 1e3) + LEAST
    return torch.exp(-distances / variance) if distances.requires_grad else distances.div_(variance.neg_()).exp_()


# --- labels as well


def ncc_sup(fixed: Tensor, moved: Tensor, radius: int = 2) -> Tensor:
    """ncc of the first channel, plus the share of voxels whose labels, the other channels (one-hot), differ."""
    return ncc(fixed[:, :1], moved[:, :1], radius) + mse(fixed[:, 1:], moved[:, 1:]) * ((fixed.shape[1] - 1) / 2)


class SupervisedCorrelation:
    """NCC + mean squared difference of one-hot labels: ncc_sup of paper 1 (eq. 10).

    The labels have half their number for a weight: however many there are, their part then is the share of voxels with
    different labels, 0 to 1 as that of ncc.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, radius: int = 2) -> None:
        if not 1 < fixed.shape[1] == moving.shape[1]:
            raise InputError(
                f"ncc_sup compares an image and a channel for each label: the fixed image has {fixed.shape[1]} channels, "
                f"the moving one {moving.shape[1]}. Give the labels of both, or choose ncc."
            )
        self.image = PatchCorrelation(fixed[:, :1], moving[:, :1], radius)
        self.labels, self.weight = SquaredError(fixed[:, 1:], moving[:, 1:]), (fixed.shape[1] - 1) / 2
        self.moving = moving

    def map(self, moved: Tensor) -> Tensor:
        return self.image.map(moved[:, :1]).add_(self.labels.map(moved[:, 1:]), alpha=self.weight)

    def gradient(self, moved: Tensor) -> Tensor:
        return torch.cat([self.image.gradient(moved[:, :1]), self.labels.gradient(moved[:, 1:]).mul_(self.weight)], 1)

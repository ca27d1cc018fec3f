"""Numbers of segmentation with uncertainty: entropy, distance of distributions, agreement, border band, volumes, correlation.

Label arrays hold class indices, 0 is the background; a stack of samples or readers comes first: (S, X, Y, Z). Equations
are those of Czolbe et al. (2021), "Is segmentation uncertainty useful?".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from imagingai.errors import InputError

# --- entropy


def entropy(probability: np.ndarray, axis: int = 0) -> np.ndarray:
    """Entropy in bits over the classes along `axis`, with 0 log 0 = 0 (section 4.3). probability: sums to 1 along the axis."""
    from scipy.special import entr

    return sum(map(entr, np.moveaxis(probability, axis, 0))) / np.log(2, dtype=probability.dtype)  # class by class: less memory


def expected_entropy(probability: np.ndarray) -> np.ndarray:
    """Mean entropy of the samples in bits, (...): what the image does not tell. probability: (S, K, ...)."""
    return np.mean([entropy(sample) for sample in probability], axis=0)


def mutual_information(probability: np.ndarray) -> np.ndarray:
    """Entropy of the mean minus mean entropy, in bits, (...): what the model does not know. probability: (S, K, ...).

    Houlsby et al. (2011), "Bayesian active learning for classification and preference learning", eq. 2.
    """
    return np.maximum(entropy(probability.mean(0)) - expected_entropy(probability), 0)


# --- distance of segmentations and of their distributions


def iou_distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - intersection over union of two masks of one shape: 0 for the same mask (two empty ones too), 1 without overlap."""
    union = np.count_nonzero(a | b)
    return 1 - np.count_nonzero(a & b) / union if union else 0.0


def iou_distances(p: np.ndarray, q: np.ndarray, classes: int) -> np.ndarray:
    """The distance d of eq. 3 for all pairs, (A, B): mean of 1 - IoU over the structures that any of the arrays has.

    p: (A, ...), q: (B, ...) class indices; classes: how many there are, with the background. The structures are the same
    for all pairs, so that energy distances cannot become negative.
    """
    intersections, unions = (np.stack(part) for part in zip(*_counts(p, q, classes), strict=True))
    present = unions.any((1, 2))
    if not present.any():
        return np.zeros((len(p), len(q)))
    shared = np.divide(intersections, unions, out=np.ones_like(unions), where=unions > 0)
    return (1 - shared[present]).mean(0)


def pairwise_dice(p: np.ndarray, q: np.ndarray, classes: int) -> np.ndarray:
    """Dice of every structure for all pairs, (K - 1, A, B); NaN where both lack the structure. Arguments as in iou_distances."""
    found = [(intersection, intersection + union) for intersection, union in _counts(p, q, classes)]
    with np.errstate(invalid="ignore"):
        return np.stack([2 * intersection / total for intersection, total in found])


def _counts(p: np.ndarray, q: np.ndarray, classes: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Voxels in the intersection and in the union of all pairs, (A, B) each, of structure 1, 2 ...

    Only voxels where the arrays differ are multiplied: few, even of large volumes.
    """
    p, q = p.reshape(len(p), -1), q.reshape(len(q), -1)
    for k in range(1, classes):
        a, b = p == k, q == k
        everywhere = a.all(0) & b.all(0)
        differ = (a.any(0) | b.any(0)) & ~everywhere
        a, b = a[:, differ].astype(np.float32), b[:, differ].astype(np.float32)  # exact up to 2^24 voxels
        intersection = (a @ b.T).astype(float) + np.count_nonzero(everywhere)
        yield intersection, a.sum(1)[:, None] + b.sum(1) + 2.0 * np.count_nonzero(everywhere) - intersection


def ged(p: np.ndarray, q: np.ndarray, classes: int) -> float:
    """Squared generalized energy distance of two sets of segmentations (eq. 3) with d = 1 - IoU; 0 is the same distribution.

    p: (A, ...), q: (B, ...) class indices. The expectations are exact over all pairs, those of a segmentation with itself
    included: what drawing with replacement, as the paper does, tends to.
    """
    return _ged(_all_pairs(p, q, classes), np.arange(len(p)), np.arange(len(q)))


def ged_curve(
    p: np.ndarray, q: np.ndarray, classes: int, counts: Sequence[int] = tuple(range(1, 17)), *, draws: int = 100, seed: int = 0
) -> np.ndarray:
    """The distance when only n segmentations are drawn from both sides with replacement (figure 6): (len(counts), draws)."""
    pairs, random = _all_pairs(p, q, classes), np.random.default_rng(seed)
    return np.array([[_ged(pairs, random.integers(len(p), size=n), random.integers(len(q), size=n)) for _ in range(draws)] for n in counts])


def diversity(samples: np.ndarray, classes: int) -> float:
    """Mean distance of two samples drawn with replacement, the last term of eq. 3: 0 if all are the same. samples: (S, ...)."""
    return float(iou_distances(samples, samples, classes).mean())


def _all_pairs(p: np.ndarray, q: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances (A, B), (A, A), (B, B), over the same structures."""
    both, count = np.concatenate([p, q]), len(p)
    distances = iou_distances(both, both, classes)
    return distances[:count, count:], distances[:count, :count], distances[count:, count:]


def _ged(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], i: np.ndarray, j: np.ndarray) -> float:
    between, among_p, among_q = pairs[0][np.ix_(i, j)], pairs[1][np.ix_(i, i)], pairs[2][np.ix_(j, j)]
    return float(2 * between.mean() - among_p.mean() - among_q.mean())


# --- several readers


def agreement(labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of the readers that chose the most frequent class of a voxel, (...) float32: 1 if all agree. labels: (R, ...)."""
    most = np.zeros(labels.shape[1:], np.float32)
    for k in range(classes):
        np.maximum(most, (labels == k).mean(0, dtype=np.float32), out=most)
    return most


def reader_entropy(labels: np.ndarray, classes: int) -> np.ndarray:
    """Entropy of the votes of the readers in bits, (...) float32: 0 if all agree (figure 5). labels: (R, ...) class indices."""
    total = np.zeros(labels.shape[1:], np.float32)
    for k in range(classes):
        total += entropy((labels == k).mean(0, dtype=np.float32)[None])
    return total


# --- the border band


def border_band(samples: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Where the samples of one structure disagree: the local width of that band in mm, (X, Y, Z) float32, 0 outside of it.

    The band lies between the intersection and the union of the samples. Its width at a voxel is the way from the border of
    the intersection through the voxel to the border of the union. A part that some samples lack altogether has no
    inner border; its width is that of the thickest place, because all of it is in doubt. samples: (S, X, Y, Z) bool.
    """
    union, core = samples.any(0), samples.all(0)
    width = np.zeros(union.shape, np.float32)
    if not np.any(union & ~core):
        return width
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(union))
    real = tuple(axis for axis, n in enumerate(union.shape) if n > 1)  # a slice has no border above and below
    steps = np.asarray(spacing, float)[list(real)]
    pad = [(1, 1) if axis in real else (0, 0) for axis in range(union.ndim)]
    union, core = (np.squeeze(np.pad(mask[box], pad), tuple(set(range(3)) - set(real))) for mask in (union, core))
    found = _width(union, core, steps)[(slice(1, -1),) * len(real)]
    width[box] = found.reshape(width[box].shape)
    return width


def _width(union: np.ndarray, core: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Width of the band in mm on an array with a margin and without single slices. steps: mm between voxels."""
    from scipy.ndimage import label, maximum

    outer = _to_border(union, steps)
    parts, count = label(union, np.ones((3,) * union.ndim))
    index = np.arange(count + 1)
    certain = np.isin(parts, np.unique(parts[core]))
    through = outer + _to_border(~core, steps) if core.any() else outer
    thickest = 2 * maximum(outer, parts, index)[parts]
    return np.where(union & ~core, np.where(certain, through, thickest), 0)


def _to_border(mask: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """mm from the center of each voxel of the mask to its border, which is half a voxel before the next center outside."""
    from scipy.ndimage import distance_transform_edt

    distance, nearest = distance_transform_edt(mask, sampling=steps, return_indices=True)
    offset = (nearest - np.indices(mask.shape)) * steps.reshape(-1, *[1] * mask.ndim)
    voxel = np.sqrt(((offset / np.maximum(distance, 1e-9)) ** 2 * (steps**2).reshape(-1, *[1] * mask.ndim)).sum(0))
    return np.where(mask, distance - voxel / 2, 0)


def band_summary(width: np.ndarray) -> dict[str, float]:
    """Mean, 95th percentile and largest width in mm over the voxels of a band (0 outside), all 0 if there is none."""
    inside = width[width > 0]
    if not inside.size:
        return {"mean_mm": 0.0, "p95_mm": 0.0, "largest_mm": 0.0}
    return {"mean_mm": float(inside.mean()), "p95_mm": float(np.percentile(inside, 95)), "largest_mm": float(inside.max())}


# --- volumes


def volumes(samples: np.ndarray, voxel_ml: float, classes: Sequence[str], level: float = 0.9) -> dict[str, dict[str, Any]]:
    """Volume of every structure in ml with the central interval that holds `level` of the samples.

    samples: (S, X, Y, Z) class indices; classes: names, the background first. A 2-D image counts with the thickness
    of its slice. Returns {structure: {ml (mean), low, high, level, samples, unit}}.
    """
    found = np.array([np.bincount(sample.ravel(), minlength=len(classes)) for sample in samples]) * voxel_ml
    ends = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: {
            "ml": float(found[:, k].mean()),
            "low": float(ends[0, k]),
            "high": float(ends[1, k]),
            "level": level,
            "samples": found[:, k].tolist(),
            "unit": "ml",
        }
        for k, name in enumerate(classes)
        if k
    }


# --- correlation


class Correlation(NamedTuple):
    """r: -1 to 1; dof: degrees of freedom; p: two-sided."""

    r: float
    dof: int
    p: float


def repeated_measures_correlation(x: np.ndarray, y: np.ndarray, subject: np.ndarray) -> Correlation:
    """Correlation within subjects: one slope for all, an intercept for each (Bakdash & Marusich 2017, Frontiers in Psychology 8:456).

    x, y: (N,) numbers, subject: (N,) whose they are. Raises InputError if x or y does not vary within any subject, or too few.
    """
    from scipy.stats import t as student

    x, y = np.asarray(x, float), np.asarray(y, float)
    _, index, count = np.unique(subject, return_inverse=True, return_counts=True)
    dof = len(x) - len(count) - 1
    a, b = (values - (np.bincount(index, values) / count)[index] for values in (x, y))
    spread = np.sqrt((a @ a) * (b @ b))
    if dof < 1 or not spread > 1e-12 * np.sqrt((x @ x) * (y @ y)):
        raise InputError(
            f"There is no correlation within {len(count)} subjects of {len(x)} measurements: "
            "it needs finite values that vary within subjects, and two more measurements than subjects."
        )
    r = float(np.clip(a @ b / spread, -1, 1))
    with np.errstate(divide="ignore"):
        return Correlation(r, dof, float(2 * student.sf(abs(r) * np.sqrt(dof / np.float64(1 - r**2)), dof)))

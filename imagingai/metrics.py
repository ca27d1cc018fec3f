"""What tells a good registration from a bad one: overlap, surface distance, landmark error, smoothness, folding.

Label arrays are (X, Y) or (X, Y, Z) integers with 0 as background, on one grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imagingai.errors import InputError
from imagingai.jacobian import non_diffeomorphic_volume
from imagingai.transform import DisplacementField, Transform, apply_to_points, inverse_consistency


def common_labels(fixed: np.ndarray, moving: np.ndarray) -> list[int]:
    """The labels above 0 that both images have. Raises InputError if there is none."""
    found = [set(np.flatnonzero(_counts(labels)).tolist()) - {0} for labels in (fixed, moving)]
    if not (common := sorted(found[0] & found[1])):
        sets = [", ".join(map(str, sorted(labels)[:8])) or "none" for labels in found]
        raise InputError(
            f"The fixed labels ({sets[0]}) and the moving labels ({sets[1]}) have no value in common. "
            "Give the same structure the same value in both."
        )
    return common


def dice(fixed: np.ndarray, moved: np.ndarray, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Overlap 2 |A and B| / (|A| + |B|) of each label, 0 to 1; by default of the labels that both have."""
    labels = common_labels(fixed, moved) if labels is None else labels
    size = max([int(fixed.max(initial=0)), int(moved.max(initial=0)), *labels]) + 1
    both = _counts(fixed[fixed == moved], size)
    total = _counts(fixed, size) + _counts(moved, size)
    return {int(label): float(2 * both[label] / max(total[label], 1)) for label in labels}


def hd95(fixed: np.ndarray, moved: np.ndarray, spacing: Sequence[float], labels: Sequence[int] | None = None) -> dict[int, float]:
    """95 % Hausdorff distance of each label in mm: the larger of the two directed 95th percentiles between surfaces.

    A label that only one image has gets the length of the diagonal of the image, the worst there is.
    """
    from scipy.ndimage import find_objects
    from scipy.spatial import cKDTree

    labels = common_labels(fixed, moved) if labels is None else labels
    steps = np.array([step for step, count in zip(spacing, fixed.shape, strict=False) if count > 1])
    images = [np.squeeze(image).astype(np.int32, copy=False) for image in (fixed, moved)]
    boxes = [dict(enumerate(find_objects(image), 1)) for image in images]
    worst = float(np.linalg.norm(steps * images[0].shape))
    found = {}
    for label in labels:
        pair = [_surface(image, box.get(label), label) * steps for image, box in zip(images, boxes, strict=True)]
        if not all(map(len, pair)):
            found[int(label)] = worst
            continue
        directed = [cKDTree(pair[1 - k]).query(pair[k])[0] for k in (0, 1)]
        found[int(label)] = float(max(np.percentile(distances, 95) for distances in directed))
    return found


def tre(transform: Transform, fixed_points: np.ndarray, moving_points: np.ndarray) -> np.ndarray:
    """Target registration error (N,) in mm: how far each fixed landmark (N, 3) lands from its moving partner."""
    return np.linalg.norm(apply_to_points(transform, fixed_points) - moving_points, axis=1)


def tre_by_displacement(errors: np.ndarray, displacements: np.ndarray, bins: int = 5) -> list[dict[str, float]]:
    """Mean error as a function of how far the landmarks were apart before: (N,) mm both.

    Bins hold about the same number of landmarks, with a 95 % confidence interval of the mean (low, high), as in
    Czolbe et al., paper 2, figure 2. Fewer landmarks than `bins` give fewer bins.
    """
    rows = []
    for part in np.array_split(np.argsort(displacements, kind="stable"), max(1, min(bins, len(errors)))):
        mean, spread = errors[part].mean(), errors[part].std(ddof=1) / np.sqrt(len(part)) if len(part) > 1 else 0.0
        ends = {"from": displacements[part].min(), "to": displacements[part].max(), "count": len(part)}
        rows.append({k: float(v) for k, v in {**ends, "mean": mean, "low": mean - 1.96 * spread, "high": mean + 1.96 * spread}.items()})
    return rows


def sdlogj(jacobian: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Standard deviation of log det J (clipped to 1e-3 .. 1e3) inside the mask: 0 is rigid, larger is rougher."""
    values = jacobian if mask is None else jacobian[np.broadcast_to(mask > 0, jacobian.shape)]
    return float(np.log(np.clip(values, 1e-3, 1e3)).std())


def sdlogj_l2r(jacobian: np.ndarray) -> float:
    """The SDlogJ of the Learn2Reg challenge, std log clip(det J + 3), two voxels off the border: only for comparison."""
    inner = tuple(slice(2, -2) if n > 4 else slice(None) for n in jacobian.shape)
    return float(np.log(np.clip(jacobian[inner] + 3, 1e-9, 1e9)).std())


def folding_percent(jacobian: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Percent of voxels (in the mask) with det J <= 0."""
    values = jacobian if mask is None else jacobian[np.broadcast_to(mask > 0, jacobian.shape)]
    return float(100 * (values <= 0).mean())


def ndv_percent(field: DisplacementField, mask: np.ndarray | None = None) -> float:
    """Non-diffeomorphic volume (Liu et al., IJCV 2024) in percent of the grid, or of the cells wholly in the mask (X, Y, Z)."""
    cells = non_diffeomorphic_volume(field.data, field.affine)
    if mask is None:
        return float(100 * cells.mean())
    inside = mask.reshape(mask.shape[-3:]) > 0
    for axis, n in enumerate(inside.shape):
        if n > 1:
            inside = inside.take(range(n - 1), axis) & inside.take(range(1, n), axis)
    return float(100 * cells[inside].mean()) if inside.any() else 0.0


@dataclass(frozen=True)
class Metric:
    """A row of `METRICS`: the function, the unit of its values, which direction is better, and what it says."""

    function: Callable[..., Any]
    unit: str
    better: str
    help: str


METRICS: dict[str, Metric] = {
    "dice": Metric(dice, "", "higher", "Overlap of the labels"),
    "hd95": Metric(hd95, "mm", "lower", "Distance of the label surfaces, 95th percentile"),
    "tre": Metric(tre, "mm", "lower", "Distance of the landmarks"),
    "tre_by_displacement": Metric(tre_by_displacement, "mm", "lower", "Distance of the landmarks by how far they were apart"),
    "sdlogj": Metric(sdlogj, "", "lower", "Roughness: standard deviation of the log Jacobian"),
    "sdlogj_l2r": Metric(sdlogj_l2r, "", "lower", "Roughness as the Learn2Reg challenge defines it"),
    "folding_percent": Metric(folding_percent, "%", "lower", "Voxels that fold"),
    "ndv_percent": Metric(ndv_percent, "%", "lower", "Volume that folds, by all finite differences"),
    "inverse_consistency": Metric(inverse_consistency, "mm", "lower", "There and back again: distance from the start"),
}


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two methods: means, mean difference (a - b), Wilcoxon p (two-sided), Cohen's d of the differences."""

    n: int
    mean_a: float
    mean_b: float
    difference: float
    p: float
    cohens_d: float


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Compare two methods on the same cases: Wilcoxon signed-rank test and Cohen's d (mean / std of the differences).

    Raises InputError if the cases do not pair, are fewer than two or hold NaN.
    """
    from scipy.stats import wilcoxon

    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(f"The two methods have {first.size} and {second.size} results. Compare them on the same cases.")
    if first.size < 2 or not np.all(np.isfinite([first, second])):
        raise InputError(f"A paired comparison needs at least two finite results of each method; there are {first.size}.")
    change = first - second
    p = float(wilcoxon(change).pvalue) if np.any(change) else 1.0
    with np.errstate(divide="ignore"):
        effect = float(change.mean() / change.std(ddof=1)) if np.any(change) else 0.0
    return Comparison(first.size, float(first.mean()), float(second.mean()), float(change.mean()), p, effect)


def _counts(labels: np.ndarray, size: int = 0) -> np.ndarray:
    flat = labels.ravel().astype(np.int64, copy=False)
    if flat.size and flat.min() < 0:
        raise InputError(f"Labels are 0 or larger, not {flat.min()}. Renumber them.")
    return np.bincount(flat, minlength=size)


def _surface(image: np.ndarray, box: tuple[slice, ...] | None, label: int) -> np.ndarray:
    """Indices (N, D) of the voxels of a label that touch another one or the border."""
    from scipy.ndimage import binary_erosion

    if box is None:
        return np.empty((0, image.ndim))
    region = image[box] == label
    return np.argwhere(region & ~binary_erosion(region)) + [side.start for side in box]

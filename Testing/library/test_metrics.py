"""Metrics against MONAI, scipy and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grids import GRIDS, labeled, smooth_field
from scipy.stats import ttest_rel, wilcoxon

from imagingai.errors import InputError
from imagingai.metrics import (
    METRICS,
    common_labels,
    compare,
    dice,
    folding_percent,
    hd95,
    ndv_percent,
    sdlogj,
    sdlogj_l2r,
    tre,
    tre_by_displacement,
)
from imagingai.transform import Affine, DisplacementField, jacobian_determinant


@pytest.fixture(params=["oblique", "slice"])
def pair(request):
    """Two label images of one grid that overlap in part, and its spacing."""
    grid = GRIDS[request.param]
    return labeled(grid).data[0], np.roll(labeled(grid).data[0], (2, 1), (0, 1)), grid.spacing


def one_hot(labels: np.ndarray) -> torch.Tensor:
    """(1, 4, X, Y[, Z]) of the labels 1 to 4."""
    return torch.stack([torch.from_numpy(np.squeeze(labels) == label) for label in (1, 2, 3, 4)])[None].float()


def test_dice_equals_monai(pair):
    from monai.metrics import compute_dice

    fixed, moved, _ = pair
    expected = compute_dice(one_hot(moved), one_hot(fixed))[0].tolist()
    found = dice(fixed, moved, labels=[1, 2, 3, 4])
    assert list(found) == [1, 2, 3, 4] and 0.5 < np.max(list(found.values())) < 0.9
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-6)


def test_hd95_equals_monai(pair):
    from monai.metrics import compute_hausdorff_distance

    fixed, moved, spacing = pair
    size = 2 if fixed.shape[2] == 1 else 3
    expected = compute_hausdorff_distance(
        one_hot(moved), one_hot(fixed), include_background=True, percentile=95, spacing=spacing[:size].tolist()
    )
    np.testing.assert_allclose(list(hd95(fixed, moved, spacing).values()), expected[0].tolist(), rtol=1e-5)


def test_a_shifted_box():
    """10 x 10 x 10 voxels, moved by 2 along x: overlap 0.8, and 2 voxels of 3 mm between the ends."""
    fixed, moved = np.zeros((2, 20, 20, 20), np.uint8)
    fixed[4:14, 5:15, 5:15] = moved[6:16, 5:15, 5:15] = 1
    assert dice(fixed, moved) == {1: pytest.approx(0.8)}
    assert hd95(fixed, moved, (3, 1, 1)) == {1: 6.0}
    assert dice(fixed, fixed) == {1: 1.0} and hd95(fixed, fixed, (3, 1, 1)) == {1: 0.0}


def test_a_label_that_is_lost_counts_as_the_worst():
    fixed = np.zeros((4, 5, 1), np.uint8)
    fixed[1, 1] = 7
    assert dice(fixed, np.zeros_like(fixed), labels=[7]) == {7: 0.0}
    assert hd95(fixed, np.zeros_like(fixed), (3.0, 4.0, 9.0), labels=[7]) == {7: pytest.approx(np.hypot(12, 20))}


def test_label_sets():
    assert common_labels(np.array([0, 1, 2, 5]), np.array([5, 2, 9])) == [2, 5]
    with pytest.raises(InputError, match=r"fixed labels \(1, 2\) and the moving labels \(3\) have no value in common\. Give the same"):
        common_labels(np.array([0, 1, 2]), np.array([0, 3]))
    with pytest.raises(InputError, match=r"fixed labels \(none\)"):
        dice(np.array([0]), np.array([3]))
    with pytest.raises(InputError, match="Labels are 0 or larger, not -1"):
        dice(np.array([-1]), np.array([3]))


# --- landmarks


def test_landmark_error():
    moved = np.eye(4)
    moved[:3, 3] = [1, 0, 0]
    fixed = np.array([[0.0, 0, 0], [1, 1, 1]])
    assert tre(Affine(moved), fixed, fixed + np.array([1, 3, 4])).tolist() == [5, 5]


def test_landmark_error_by_displacement():
    apart = np.array([9.0, 1, 2, 10, 5, 6])
    rows = tre_by_displacement(apart / 10, apart, bins=3)
    assert [(row["from"], row["to"], row["count"]) for row in rows] == [(1, 2, 2), (5, 6, 2), (9, 10, 2)]
    assert [row["mean"] for row in rows] == pytest.approx([0.15, 0.55, 0.95])
    spread = 1.96 * np.std([0.1, 0.2], ddof=1) / np.sqrt(2)
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx((0.15 - spread, 0.15 + spread))
    assert len(tre_by_displacement(np.ones(2), np.ones(2), bins=5)) == 2


# --- smoothness and folding


def test_smoothness_and_folding_by_hand():
    jacobian = np.array([np.exp(1), np.exp(-1), 1.0, -0.5]).reshape(2, 2, 1)
    mask = np.array([1, 1, 0, 0]).reshape(2, 2, 1)
    assert sdlogj(jacobian, mask) == pytest.approx(1)
    assert folding_percent(jacobian) == 25 and folding_percent(jacobian, mask) == 0
    assert sdlogj(jacobian) == pytest.approx(np.std([1, -1, 0, np.log(1e-3)]))
    assert sdlogj_l2r(jacobian) == pytest.approx(np.std(np.log(jacobian + 3)))


def test_the_border_does_not_count_in_the_challenge_value():
    jacobian = np.ones((8, 8, 8))
    jacobian[:2] = 5
    assert sdlogj_l2r(jacobian) == 0


def test_a_fold_is_found_inside_the_mask_only():
    grid = GRIDS["RAS"]
    field = smooth_field(grid, 0.3, 4.0)
    assert ndv_percent(field) == 0
    data = field.data.copy()
    data[0, 10, 10, 10] += 6
    folded = DisplacementField(data, field.affine)
    assert folding_percent(jacobian_determinant(folded, grid).data) > 0
    mask = np.zeros(grid.shape)
    mask[5:15, 5:15, 5:15] = 1
    assert ndv_percent(folded, mask) > ndv_percent(folded) > 0
    assert ndv_percent(folded, mask[::-1]) == 0 == ndv_percent(folded, 0 * mask)


# --- two methods


def test_two_methods_on_the_same_cases():
    random = np.random.default_rng(0)
    a, b = random.normal(0.7, 0.1, 20), random.normal(0.65, 0.1, 20)
    found = compare(a, b)
    assert found.n == 20 and found.difference == pytest.approx(a.mean() - b.mean())
    assert found.p == wilcoxon(a, b).pvalue
    assert found.cohens_d == pytest.approx(ttest_rel(a, b).statistic / np.sqrt(20))
    same = compare(a, a)
    assert (same.p, same.cohens_d, same.difference) == (1, 0, 0)


def test_methods_that_cannot_be_compared():
    with pytest.raises(InputError, match=r"have 2 and 3 results\. Compare them on the same cases"):
        compare([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="at least two finite results of each method; there are 1"):
        compare([1], [2])
    with pytest.raises(InputError, match="at least two finite results"):
        compare([1, np.nan], [2, 3])


def test_the_table_says_what_is_better():
    assert {"dice", "hd95", "tre", "sdlogj", "folding_percent", "ndv_percent", "inverse_consistency"} <= METRICS.keys()
    assert all(callable(row.function) and row.better in ("higher", "lower") and row.help for row in METRICS.values())

"""Measures of uncertainty against MONAI, scipy, numbers of torch-uncertainty and pingouin, and values worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import pearsonr

from imagingai.errors import InputError
from imagingai.uncertainty import measures

RANDOM = np.random.default_rng(0)
READERS = RANDOM.integers(0, 3, (4, 6, 5, 3))  # class indices of four readers
SAMPLES = RANDOM.integers(0, 3, (5, 6, 5, 3))
# two voxels, three samples, three classes
PROBABILITY = np.array([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.6, 0.3]], [[1, 0, 0], [1, 0, 0], [0.2, 0.3, 0.5]]]).transpose(1, 2, 0)


def squares(*starts: int, width: int = 4) -> np.ndarray:
    """Masks (S, 16, 12, 1) of a square that starts at different rows."""
    masks = np.zeros((len(starts), 16, 12, 1), bool)
    for mask, start in zip(masks, starts, strict=True):
        mask[start : start + width, 3:9] = True
    return masks


# --- entropy


def test_entropy_of_certain_and_of_even_odds():
    assert measures.entropy(np.array([[1.0, 0.5, 0.25], [0.0, 0.5, 0.25], [0.0, 0.0, 0.5]])).tolist() == [0, 1, 1.5]


def test_entropy_equals_scipy_along_any_axis_and_keeps_the_type():
    probability = RANDOM.dirichlet(np.ones(4), (3, 5))
    np.testing.assert_allclose(measures.entropy(probability, axis=2), scipy_entropy(probability, base=2, axis=2))
    assert measures.entropy(probability.astype(np.float32), axis=2).dtype == np.float32


def test_the_parts_of_the_entropy_equal_torch_uncertainty():
    """Numbers in nats of torch-uncertainty 0.13.0: Entropy, MutualInformation of PROBABILITY; benchmarks/uncertainty/peers.py."""
    np.testing.assert_allclose(measures.entropy(PROBABILITY.mean(0)) * np.log(2), [1.0611808518076415, 0.7563320394176045])
    np.testing.assert_allclose(measures.expected_entropy(PROBABILITY) * np.log(2), [0.9131616841253528, 0.343217672770795])
    np.testing.assert_allclose(measures.mutual_information(PROBABILITY) * np.log(2), [0.14801916768228873, 0.4131143666468095])


def test_samples_that_agree_have_no_mutual_information():
    same = np.repeat(RANDOM.dirichlet(np.ones(3), 50).T[None], 7, 0).astype(np.float32)
    assert np.all(measures.mutual_information(same) >= 0) and measures.mutual_information(same).max() < 1e-6


# --- distance


def test_distance_of_masks_by_hand():
    a, b = squares(2, 4)
    assert measures.iou_distance(a, b) == pytest.approx(1 - 2 / 6)
    assert measures.iou_distance(a, a) == 0 == measures.iou_distance(a & ~a, b & ~b)
    assert measures.iou_distance(a, a & ~a) == 1


def test_distances_of_all_pairs_equal_those_of_the_masks():
    found = measures.iou_distances(READERS, SAMPLES, 3)
    expected = [[np.mean([measures.iou_distance(p == k, q == k) for k in (1, 2)]) for q in SAMPLES] for p in READERS]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_overlap_of_all_pairs_equals_monai():
    from monai.metrics import compute_dice, compute_iou

    hot = [torch.from_numpy(np.stack([labels == k for k in range(3)], 1)).float() for labels in (READERS, SAMPLES)]
    pairs = list(product(range(4), range(5)))
    p, q = hot[0][[i for i, _ in pairs]], hot[1][[j for _, j in pairs]]
    dice = compute_dice(p, q, include_background=False).reshape(4, 5, 2).permute(2, 0, 1).numpy()
    iou = compute_iou(p, q, include_background=False).mean(1).reshape(4, 5).numpy()
    np.testing.assert_allclose(measures.pairwise_dice(READERS, SAMPLES, 3), dice, atol=1e-6)
    np.testing.assert_allclose(measures.iou_distances(READERS, SAMPLES, 3), 1 - iou, atol=1e-6)


def test_a_structure_that_nobody_has_does_not_count():
    few = np.where(READERS == 1, 1, 0)
    np.testing.assert_array_equal(measures.iou_distances(few, few, 2), measures.iou_distances(few, few, 9))
    assert np.isnan(measures.pairwise_dice(few, few, 9)[5]).all()


def test_energy_distance_by_hand():
    """One reader marks a square, the other nothing; the model always marks it: 2 * 1/2 - 1/2 - 0."""
    square, empty = squares(3)[0].astype(int), np.zeros((16, 12, 1), int)
    assert measures.ged(np.stack([square, empty]), np.stack([square]), 2) == pytest.approx(0.5)
    assert measures.ged(np.stack([square, empty]), np.stack([empty, square]), 2) == 0
    assert measures.ged(np.stack([square]), np.stack([empty]), 2) == 2


def test_energy_distance_is_the_mean_over_all_pairs():
    d = measures.iou_distances
    expected = 2 * d(READERS, SAMPLES, 3).mean() - d(READERS, READERS, 3).mean() - d(SAMPLES, SAMPLES, 3).mean()
    assert measures.ged(READERS, SAMPLES, 3) == pytest.approx(expected) and expected > 0
    assert measures.ged(READERS, SAMPLES, 3) == pytest.approx(measures.ged(SAMPLES, np.concatenate([READERS, READERS]), 3))


@pytest.mark.parametrize("seed", range(20))
def test_energy_distance_is_never_negative(seed):
    """Also if only some of the segmentations have a structure."""
    random = np.random.default_rng(seed)
    p, q = (random.integers(0, 4, (3, 4, 4, 1)) * (random.random((3, 4, 4, 1)) < 0.2) for _ in range(2))
    assert measures.ged(p, q, 4) > -1e-12


def test_the_curve_tends_to_the_exact_distance():
    curve = measures.ged_curve(READERS, SAMPLES, 3, (1, 4, 400), draws=20, seed=1)
    assert curve.shape == (3, 20)
    assert curve[2].mean() == pytest.approx(measures.ged(READERS, SAMPLES, 3), abs=0.01)
    assert curve[0].mean() > curve[1].mean() > curve[2].mean(), "a few draws look further apart"
    np.testing.assert_array_equal(curve, measures.ged_curve(READERS, SAMPLES, 3, (1, 4, 400), draws=20, seed=1))


def test_diversity_by_hand():
    """Two of three samples are the same: 4 of 9 pairs differ, by 1 - 2/6."""
    assert measures.diversity(squares(2, 2, 4).astype(int), 2) == pytest.approx(4 / 9 * 4 / 6)
    assert measures.diversity(squares(2, 2).astype(int), 2) == 0


# --- readers


def test_agreement_of_four_readers():
    labels = np.array([[0, 1, 1, 2], [0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 3]])[..., None, None]
    assert measures.agreement(labels, 4).ravel().tolist() == [1, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(measures.reader_entropy(labels, 4).ravel(), [0, scipy_entropy([3, 1], base=2), 1, 2], atol=1e-6)


# --- the border band


def test_the_width_of_a_band_by_hand():
    """Rows 4 to 7 are in all samples, rows 8 and 9 in one: two voxels of 1.5 mm."""
    masks = squares(4, 4)
    masks[1, 8:10, 3:9] = True
    width = measures.border_band(masks, (1.5, 4.0, 9.0))
    assert np.array_equal(width > 0, masks.any(0) & ~masks.all(0))
    np.testing.assert_allclose(width[8:10, 6], 3.0, rtol=1e-6)
    assert width.dtype == np.float32 and width.shape == (16, 12, 1)


def test_the_width_between_two_balls_is_the_difference_of_their_radii():
    spacing = np.array([1.0, 1.0, 2.0])
    distance = np.linalg.norm((np.indices((41, 41, 21)).T - [20, 20, 10]) * spacing, axis=-1).T
    width = measures.border_band(np.stack([distance < 9, distance < 14, distance < 16]), spacing)
    assert measures.band_summary(width)["mean_mm"] == pytest.approx(7, abs=0.5)


def test_a_part_that_one_sample_lacks_is_as_wide_as_it_is_thick():
    masks = squares(2, 2, width=3)
    masks[0, 9:14, 2:11] = True
    width = measures.border_band(masks, (1.0, 1.0, 1.0))
    assert set(width[2:5, 3:9].ravel()) == {0} and set(width[9:14, 2:11].ravel()) == {5.0}


def test_a_structure_up_to_the_border_of_the_image():
    masks = np.ones((2, 5, 5, 1), bool)
    masks[1, 3:] = False
    assert measures.border_band(masks, (2.0, 2.0, 2.0))[3:].max() == pytest.approx(4.0)
    assert measures.border_band(np.stack([masks[0], ~masks[0]]), (1.0, 1.0, 1.0)).max() == 5


def test_the_summary_of_a_band():
    assert measures.band_summary(np.array([0, 0, 1.0, 3.0])) == {"mean_mm": 2.0, "p95_mm": pytest.approx(2.9), "largest_mm": 3.0}
    same = measures.border_band(squares(3, 3), (1.0, 1.0, 1.0))
    assert measures.band_summary(same) == {"mean_mm": 0.0, "p95_mm": 0.0, "largest_mm": 0.0}
    assert not measures.border_band(np.zeros((3, 4, 4, 4), bool), (1, 1, 1)).any()


# --- volumes


def test_volumes_and_their_interval():
    samples = np.zeros((11, 10, 10, 1), np.uint8)
    for k, sample in enumerate(samples):
        sample.ravel()[:k] = 1
    found = measures.volumes(samples, 0.5, ("background", "lesion", "liver"), level=0.8)
    assert list(found) == ["lesion", "liver"]
    assert found["lesion"] | {"samples": 0} == {"ml": 2.5, "low": pytest.approx(0.5), "high": 4.5, "level": 0.8, "samples": 0, "unit": "ml"}
    assert found["lesion"]["samples"] == [k / 2 for k in range(11)] and found["liver"]["high"] == 0


# --- correlation


PH = [6.68, 6.53, 6.43, 6.33, 6.85, 7.06, 7.13, 7.17, 7.40, 7.42, 7.41, 7.37]
CO2 = [3.97, 4.12, 4.09, 3.97, 5.27, 5.37, 5.41, 5.44, 5.67, 3.64, 4.32, 4.73]


def test_repeated_measures_correlation_equals_pingouin():
    """pingouin 0.7.0, rm_corr of three subjects (part of its data set rm_corr)."""
    found = measures.repeated_measures_correlation(PH, CO2, np.repeat(["a", "b", "c"], 4))
    assert found == (pytest.approx(0.007134537821747935), 8, pytest.approx(0.9843939929023009))


def test_correlation_within_is_not_that_between():
    """Each subject has a slope of -1, but subjects with more of x have more of y."""
    subject = np.repeat(np.arange(5), 6)
    x = RANDOM.normal(size=30) + 10 * subject
    y = 20 * subject - x + RANDOM.normal(0, 0.1, 30)
    assert pearsonr(x, y).statistic > 0.9 and measures.repeated_measures_correlation(x, y, subject).r < -0.9
    assert measures.repeated_measures_correlation(x, -x, subject) == (pytest.approx(-1), 24, pytest.approx(0, abs=1e-30))


@pytest.mark.parametrize("x", [np.repeat([1.0, 2.0, 3.0], 4), np.full(12, np.nan)])
def test_no_correlation_without_variation(x):
    with pytest.raises(InputError, match=r"no correlation within 3 subjects of 12 measurements: it needs finite values that vary"):
        measures.repeated_measures_correlation(x, CO2, np.repeat([1, 2, 3], 4))
    with pytest.raises(InputError, match="two more measurements than subjects"):
        measures.repeated_measures_correlation(PH, CO2, np.arange(12))

"""Which sites lose their weight, and which must not."""

from __future__ import annotations

import numpy as np
import pytest

from imagingai.federated.outliers import copod, distances, suppress_outliers


def honest(sites: int, noise: float, seed: int = 0, parameters: int = 200) -> list[np.ndarray]:
    """Updates of length near 1 with a common part."""
    random = np.random.default_rng(seed)
    common = random.normal(size=parameters)
    return [(common + noise * random.normal(size=parameters)) / np.sqrt(parameters) for _ in range(sites)]


def test_copod_by_hand():
    """Of 1, 2, 9 the 9 is in the right tail, where the skewness points: -log(1/3); 1: the mean of both tails, (log 3 + 0) / 2."""
    scores = copod(np.array([[1.0], [2.0], [9.0]]))
    assert scores == pytest.approx([np.log(3) / 2, np.log(3 / 2), np.log(3)])


def test_distances_by_hand():
    euclidean, cosine, lengths = distances([np.array([3.0, 0.0]), np.array([0.0, 4.0]), np.zeros(2)])
    np.testing.assert_allclose(euclidean, [[0, 5, 3], [5, 0, 4], [3, 4, 0]])
    np.testing.assert_allclose(cosine, [[0, 1, 1], [1, 0, 1], [1, 1, 1]], atol=1e-12)
    assert lengths.tolist() == [3, 4, 0]


@pytest.mark.parametrize("sites", [3, 4, 6, 10])
@pytest.mark.parametrize("noise", [0.2, 1.0, 3.0])
def test_a_site_that_sends_its_update_times_minus_20_has_no_weight(sites, noise):
    updates = honest(sites, noise)
    updates[-1] = -20 * updates[-1]
    weights = suppress_outliers(updates)
    assert weights[-1] < 1e-9
    assert weights[:-1].tolist() == [1.0] * (sites - 1)


@pytest.mark.parametrize("sites", [3, 4, 6, 10])
@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0, 3.0])
def test_an_honest_site_with_other_data_keeps_its_weight(sites, noise):
    """Its update has another direction, and twice the length."""
    updates = honest(sites, noise)
    updates[0] = 2 * honest(1, 0.0, seed=1)[0]
    assert suppress_outliers(updates).tolist() == [1.0] * sites


def test_two_poisoned_sites_of_six_that_agree_with_each_other():
    updates = honest(6, 0.5)
    updates[0], updates[1] = -20 * updates[0], -20 * updates[1]
    weights = suppress_outliers(updates)
    assert weights[:2].max() < 1e-9
    assert weights[2:].tolist() == [1.0] * 4


def test_nobody_is_suppressed_where_it_cannot_be_known():
    one, other = honest(2, 0.1)
    assert suppress_outliers([one, -20 * other]).tolist() == [1.0, 1.0]  # of two
    assert suppress_outliers([np.zeros(3)] * 4).tolist() == [1.0] * 4  # nobody has learned anything

"""Calibration against numbers of torch-uncertainty, values worked out by hand, and the coverage that is promised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from imagingai.errors import InputError
from imagingai.uncertainty.calibration import (
    conformal_quantile,
    ece,
    fit_temperature,
    interval_scores,
    merge,
    reliability,
    widen,
)

CONFIDENCE = np.array([0.7, 0.5, 0.6, 0.9, 0.4, 0.8])
CORRECT = np.array([True, False, True, True, True, False])


def drawn(temperature: float, count: int = 20_000, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) of a model that is too sure by the given temperature, and labels (N,)."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (count, classes))
    return logits * temperature, np.argmax(logits + random.gumbel(size=logits.shape), 1)


# --- reliability


def test_a_reliability_table_by_hand():
    table = reliability(CONFIDENCE, CORRECT, bins=2)
    assert table == [
        {"from": 0.0, "to": 0.5, "count": 1, "confidence": 0.4, "accuracy": 1.0},
        {"from": 0.5, "to": 1.0, "count": 5, "confidence": pytest.approx(0.7), "accuracy": 0.6},
    ]
    assert ece(table) == pytest.approx((0.6 + 5 * 0.1) / 6)


def test_ece_equals_torch_uncertainty():
    """CalibrationError(num_bins=5) of torch-uncertainty 0.13.0; see benchmarks/uncertainty/peers.py."""
    confidence = np.array([0.05, 0.1, 0.31, 0.42, 0.58, 0.63, 0.77, 0.86, 0.91, 0.97])
    truth = np.array([0, 0, 1, 0, 0, 1, 1, 0, 1, 1])
    assert ece(reliability(confidence, truth, 5)) == pytest.approx(0.3179999887943268, abs=1e-7)
    assert ece(reliability(CONFIDENCE, CORRECT, 5)) == pytest.approx(0.25)


def test_the_end_of_the_scale_and_bins_without_predictions():
    table = reliability(np.array([0.0, 1.0, 1.0]), np.array([False, True, True]), bins=4)
    assert [row["count"] for row in table] == [1, 0, 0, 2] and ece(table) == 0
    assert ece(reliability(np.empty(0), np.empty(0, bool))) == 0


def test_tables_of_cases_add_up():
    random = np.random.default_rng(1)
    confidence, correct = random.random(900), random.random(900) < 0.6
    whole, parts = reliability(confidence, correct), [reliability(confidence[k::3], correct[k::3]) for k in range(3)]
    for found, expected in zip(merge(parts), whole, strict=True):
        assert found == pytest.approx(expected)
    assert ece(merge(parts)) == pytest.approx(ece(whole)) != pytest.approx(np.mean([ece(part) for part in parts]))


# --- temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)
    assert fit_temperature(log_softmax(logits, 1), labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-4)


def test_the_temperature_is_the_minimum_and_lowers_the_ece():
    logits, labels = drawn(4.0, 2000)

    def loss(t):
        return -log_softmax(logits / t, 1)[np.arange(2000), labels].mean()

    def error(t):
        probability = np.exp(log_softmax(logits / t, 1))
        return ece(reliability(probability.max(1), probability.argmax(1) == labels))

    found = fit_temperature(logits, labels)
    assert found == pytest.approx(float(minimize(lambda t: loss(t[0]), [2.0], method="Nelder-Mead").x[0]), rel=1e-3)
    assert error(found) < 0.03 < error(1.0)


def test_labels_that_are_never_wrong_end_at_the_limit():
    assert fit_temperature(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == pytest.approx(0.05, rel=1e-3)


# --- conformal


def test_the_conformal_quantile_by_hand():
    scores = [0.3, 0.1, 0.9, 0.5, 0.7, 0.2, 0.4, 0.8, 0.6]
    assert conformal_quantile(scores, 0.9) == 0.9 and conformal_quantile(scores, 0.5) == 0.5
    assert conformal_quantile(scores, 0.95) == float("inf") == conformal_quantile([], 0.9)
    with pytest.raises(InputError, match="need finite scores"):
        conformal_quantile([0.1, np.nan], 0.5)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_new_cases_are_covered_as_promised(coverage):
    scores = np.random.default_rng(2).exponential(size=(3000, 31))
    covered = np.mean([row[30] <= conformal_quantile(row[:30], coverage) for row in scores])
    assert coverage - 0.02 < covered < coverage + 1 / 31 + 0.02


def test_volume_intervals_are_widened_until_they_cover():
    random = np.random.default_rng(3)
    volume = random.uniform(5, 50, 4000)
    truth = volume * random.normal(1, 0.2, 4000)
    low, high = 0.95 * volume, 1.05 * volume
    quantile = conformal_quantile(interval_scores(low, high, truth, volume)[:2000], 0.9)
    ends = np.array([widen(*row, quantile, row[0] / 0.95) for row in zip(low[2000:], high[2000:], strict=True)])
    assert np.mean((ends[:, 0] <= truth[2000:]) & (truth[2000:] <= ends[:, 1])) == pytest.approx(0.9, abs=0.02)


def test_widened_intervals_by_hand():
    scores = interval_scores(np.array([8.0, 8.0]), np.array([12.0, 12.0]), np.array([7.0, 11.0]), np.array([10.0, 10.0]))
    assert scores.tolist() == [pytest.approx(0.1), pytest.approx(-0.1)]
    assert widen(8.0, 12.0, 0.1, 10.0) == (7.0, 13.0)
    assert widen(1.0, 3.0, 0.5, 4.0) == (0.0, 5.0), "no volume is below 0"
    assert widen(8.0, 12.0, -0.5, 10.0) == (10.0, 10.0), "an interval does not turn over"


def test_the_temperature_of_samples_is_that_of_their_mean():
    """Samples that disagree for certain: their mean is right half of the time whatever the temperature; noise on them is not."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 4000)
    right = np.where(random.random(4000) < 0.8, truth, 1 - truth)
    logits = np.stack([4.0 * np.eye(2)[right]] * 3)  # far too sure: 98 % for 80 %
    assert fit_temperature(logits, truth) == pytest.approx(fit_temperature(logits[0], truth), rel=1e-3)
    assert fit_temperature(logits, truth) == pytest.approx(4 / np.log(4), rel=0.05)

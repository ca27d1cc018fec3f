"""Mutual information and correlation against analytic values, their derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imagingai.registration import information as module
from imagingai.registration.information import MEASURES, correlation, mutual_information


def related(count: int, r: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two normal variables with correlation r, scaled into 0..1."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, count))).float()
    return (0.5 + noise[0] / 10).clamp(0, 1), (0.5 + (r * noise[0] + (1 - r * r) ** 0.5 * noise[1]) / 10).clamp(0, 1)[None]


@pytest.mark.parametrize("r", [0.3, 0.6, -0.8])
def test_a_normal_distribution_has_its_analytic_information(r):
    fixed, moving = related(100_000, r)
    expected = -0.5 * np.log(1 - r * r)
    assert correlation(fixed, moving, torch.ones_like(moving)).value.item() == pytest.approx(np.sign(r) * expected, abs=0.01)
    assert mutual_information(fixed, moving, torch.ones_like(moving)).value.item() == pytest.approx(expected, rel=0.15)


def test_independent_samples_tell_nothing_and_a_reversed_contrast_all():
    fixed, moving = related(100_000, 0.0)
    weight = torch.ones_like(moving)
    assert mutual_information(fixed, moving, weight).value.item() < 0.02
    same = mutual_information(fixed, fixed[None], weight).value.item()
    assert same > 1.0
    assert mutual_information(fixed, 1 - fixed[None], weight).value.item() == pytest.approx(same, abs=0.01)


def test_what_has_no_weight_does_not_count():
    fixed, moving = related(40_000, 0.7)
    weight = torch.ones_like(moving)
    weight[:, 20_000:] = 0
    moving[:, 20_000:] = 0.9
    for measure in MEASURES.values():
        half = measure(fixed[:20_000], moving[:, :20_000], weight[:, :20_000]).value
        assert torch.allclose(measure(fixed, moving, weight).value, half, atol=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("count", [4_000, 20_000])  # few and many bins
def test_slope_and_worth_are_the_derivatives(name, count):
    fixed, moving = related(count, 0.6, seed=1)
    chance = np.random.default_rng(2)
    weight = torch.from_numpy(chance.uniform(0.2, 1, moving.shape)).float()
    measure, share = MEASURES[name], weight / weight.sum()
    _, slope, worth = measure(fixed, moving, weight)
    direction = torch.sin(40 * moving) * 0.01  # moves some hundred samples across bins, which the smooth window allows
    ahead, behind = (measure(fixed, moving + step * direction, weight).value for step in (0.1, -0.1))
    assert ((ahead - behind) / 0.2).item() == pytest.approx((slope * share * direction).sum().item(), rel=0.05)
    direction = torch.cos(30 * moving) * weight
    ahead, behind = (measure(fixed, moving, weight + step * direction).value for step in (0.01, -0.01))
    assert ((ahead - behind) / 0.02).item() == pytest.approx((worth * direction).sum().item() / weight.sum().item(), rel=0.05)


def test_every_candidate_of_a_batch_is_measured_alone():
    fixed, moving = related(5_000, 0.5)
    both = torch.cat([moving, 1 - moving.square()])
    for measure in MEASURES.values():
        alone = torch.cat([measure(fixed, row[None], torch.ones(1, 5_000)).value for row in both])
        assert torch.allclose(measure(fixed, both, torch.ones_like(both)).value, alone)


def test_smoothing_keeps_the_sum():
    for bins in (module.FEW_BINS, module.MANY_BINS):
        assert torch.allclose(module._smoothing(bins, torch.device("cpu")).sum(0), torch.ones(bins, dtype=torch.float64))

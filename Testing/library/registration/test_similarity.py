"""Every similarity against an independent value, every gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imagingai.errors import InputError
from imagingai.registration import config
from imagingai.registration.similarity import (
    SIMILARITIES,
    Settings,
    deepsim,
    mind,
    mind_features,
    mse,
    ncc,
    nmi,
    similarity_map,
)

SHAPES = [(9, 8), (7, 6, 8)]


def random_pair(shape, channels=1, seed=0):
    """Two images that have something in common."""
    random = np.random.default_rng(seed)
    a, b = random.random((2, 1, channels, *shape))
    return torch.from_numpy(a), torch.from_numpy(0.5 * a + 0.5 * b)


def features(image):
    """A small pyramid: fixed random convolutions of stride 2 and 4."""
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 1, *[2] * (image.ndim - 2))))
    conv = torch.nn.functional.conv3d if image.ndim == 5 else torch.nn.functional.conv2d
    fine = torch.tanh(conv(image, weights.to(image.dtype), stride=2))
    return [fine, torch.tanh(conv(fine[:, :1], weights.to(image.dtype)))]


CASES = {name: Settings(bins=12, features=features) for name in SIMILARITIES}
CASES["deepsim_seg"] = Settings(features=features, extract_first=True, levels=(2,))


def test_the_choices_of_the_config_are_the_rows_of_the_table():
    assert tuple(SIMILARITIES) == config.SIMILARITIES


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_gradient_equals_finite_differences(name, shape):
    fixed, moving = random_pair(shape, 3 if name == "ncc_sup" else 1)
    term = SIMILARITIES[name](fixed, moving, CASES[name])
    moved = 0.9 * term.moving + 0.05 * term.moving.mean()  # inside the range of gray values, where nmi is smooth
    gradient = term.gradient(moved.clone())
    random, step = np.random.default_rng(2), 1e-5
    for _ in range(12):
        where = (0, *(random.integers(n) for n in moved.shape[1:]))
        values = []
        for sign in (1, -1):
            shifted = moved.clone()
            shifted[where] += sign * step
            values.append(term.map(shifted).mean() * fixed[0, 0].numel())
        expected = (values[0] - values[1]) / (2 * step)
        assert torch.isclose(gradient[where], expected, rtol=2e-3, atol=2e-5), (where, float(gradient[where]), float(expected))


def test_mse_is_the_mean_squared_difference():
    fixed, moved = random_pair((5, 6))
    assert float(mse(fixed, moved)) == pytest.approx(((fixed - moved).numpy() ** 2).mean())


def test_ncc_is_one_minus_the_squared_correlation_of_windows():
    fixed, moved = random_pair((9, 9))
    a, b = (image[0, 0, 2:7, 2:7].numpy().ravel() for image in (fixed, moved))
    found = similarity_map("ncc", fixed, moved, Settings(radius=2))[0, 0, 4, 4]
    assert float(found) == pytest.approx(1 - np.corrcoef(a, b)[0, 1] ** 2, abs=5e-3)  # epsilon in the variances


def test_ncc_equals_monai_inside():
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    fixed, moved = (image.float() for image in random_pair((12, 12, 12)))
    theirs = LocalNormalizedCrossCorrelationLoss(kernel_size=5, reduction="none", smooth_nr=0, smooth_dr=1e-8)(moved, fixed)
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    ours = similarity_map("ncc", fixed, moved, Settings(radius=2)) - 1
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=5e-3)


def test_nmi_equals_a_histogram():
    """Gray values at the bins' centers: the B-spline histogram of the moved image is a known blur of the plain one."""
    random = np.random.default_rng(0)
    a = random.integers(0, 10, 4000)
    b = np.where(random.random(4000) < 0.7, a, random.integers(0, 10, 4000))
    b[:2] = 0, 9
    a[:2] = 0, 9
    joint = np.zeros((10, 13))
    for k, weight in ((0, 1 / 48), (1, 23 / 48), (2, 23 / 48), (3, 1 / 48)):  # the B-spline half way between two bins
        np.add.at(joint, (a, b + k), weight / 4000)
    entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()  # noqa: E731
    expected = 2 - (entropy(joint.sum(1)) + entropy(joint.sum(0))) / entropy(joint)
    # 13 bins: 9 intervals between the moved values 0 and 9; the fixed values 0 to 9 fall into 10 of the 13 bins
    found = nmi(torch.from_numpy(a / 9.0).view(1, 1, 40, 100), torch.from_numpy(b / 9.0).view(1, 1, 40, 100), bins=13)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_nmi_is_one_for_independent_images_and_small_for_identical_ones():
    a, b = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    assert float(nmi(a, b, 8)) == pytest.approx(1, abs=0.02)
    assert float(nmi(a, a, 32)) < 0.6 < float(nmi(a, b, 32))


def test_mind_of_a_voxel_by_hand():
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[0, 0, 6, 4] = 1.0  # the neighbor two below the center; radius 0 compares single voxels
    descriptor = mind_features(image, distance=2, radius=0)[0, :, 4, 4]
    # Pairs (up, left), (up, right), (down, left), (down, right): squared differences 0, 0, 1, 1; their mean is 0.5.
    np.testing.assert_allclose(descriptor, np.exp([0, 0, -2, -2]), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_does_not_matter_to_ncc_nmi_mind(shape):
    fixed, moved = random_pair(shape)
    inverted = 3 - 2 * moved
    assert float(ncc(fixed, moved)) == pytest.approx(float(ncc(fixed, inverted)), abs=0.02)
    assert float(mind(fixed, moved)) == pytest.approx(float(mind(fixed, inverted)), abs=1e-6)
    a, b = (torch.rand(2, 1, 1, 40, 40, generator=torch.Generator().manual_seed(0)).double()) ** 2
    assert float(nmi(a, a + b)) == pytest.approx(float(nmi(a, 3 - 2 * (a + b))), abs=1e-6)


def test_mind_has_twelve_channels_in_3d_and_four_in_2d():
    assert mind_features(torch.rand(1, 1, 6, 6, 6)).shape == (1, 12, 6, 6, 6)
    assert mind_features(torch.rand(1, 1, 6, 6)).shape == (1, 4, 6, 6)


def test_deepsim_is_zero_for_identical_and_one_for_orthogonal_features():
    a = torch.zeros(1, 2, 4, 4)
    b = a.clone()
    a[:, 0], b[:, 1] = 2, 3
    assert float(deepsim([a, a], [5 * a, a])) == pytest.approx(0, abs=1e-6)
    assert float(deepsim([a], [b])) == pytest.approx(1)
    assert float(deepsim([a, a], [a, b])) == pytest.approx(0.5, abs=1e-6), "the mean over levels, paper 1 eq. 12"


@pytest.mark.parametrize("name", SIMILARITIES)
def test_constant_images_give_finite_values_and_no_gradient(name):
    image = torch.full((1, 2 if name == "ncc_sup" else 1, 8, 8), 0.5)
    term = SIMILARITIES[name](image, image.clone(), CASES[name])
    assert torch.isfinite(term.map(term.moving)).all()
    assert term.gradient(term.moving).abs().max() < 1e-5


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_map_has_the_shape_of_the_image_and_is_smallest_for_a_match(name):
    fixed, moving = random_pair((8, 8), 2 if name == "ncc_sup" else 1)
    different = similarity_map(name, fixed, moving, CASES[name])
    same = similarity_map(name, fixed, fixed.clone(), CASES[name])
    assert different.shape == (1, 1, 8, 8)
    assert same.mean() < different.mean()


def test_errors():
    image = torch.rand(1, 1, 8, 8)
    with pytest.raises(InputError, match="deepsim needs a feature extractor: give --features"):
        SIMILARITIES["deepsim_seg"](image, image, Settings())
    with pytest.raises(InputError, match="--deepsim-levels 3: the extractor has the levels 1 to 2"):
        SIMILARITIES["deepsim_seg"](image, image, Settings(features=features, levels=(1, 3)))

"""The filters against scipy, in 2-D and 3-D."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, gaussian_filter, uniform_filter

from imagingai.registration.filters import box, derivative, gaussian, second_derivative

SHAPES = [(13, 11), (9, 8, 10)]


def random_image(shape):
    return torch.from_numpy(np.random.default_rng(0).random((1, 2, *shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_box_is_the_mean_of_a_window_with_zeros_outside(shape):
    image = random_image(shape)
    expected = np.stack([uniform_filter(channel, 5, mode="constant") for channel in image[0].numpy()])
    np.testing.assert_allclose(box(image, 2)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_box_is_its_own_adjoint(shape):
    a, b = random_image(shape)[:, :1], random_image(shape)[:, 1:]
    assert torch.isclose((box(a, 2) * b).sum(), (a * box(b, 2)).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_gaussian_equals_scipy(shape, sigma):
    image = random_image(shape)
    radius = int(np.ceil(2.5 * sigma))
    expected = np.stack([gaussian_filter(channel, sigma, mode="nearest", radius=radius) for channel in image[0].numpy()])
    np.testing.assert_allclose(gaussian(image, sigma)[0].numpy(), expected, atol=1e-10)


def test_no_smoothing_changes_nothing():
    image = random_image((4, 5))
    assert gaussian(image, 0) is image


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("function", "weights"), [(derivative, [-0.5, 0, 0.5]), (second_derivative, [1, -2, 1])])
def test_derivatives_are_central_differences_and_zero_at_the_border(shape, function, weights):
    image = random_image(shape)
    for axis in range(len(shape)):
        expected = correlate1d(image[0, 0].numpy(), weights, axis)
        for border in (0, -1):
            np.moveaxis(expected, axis, 0)[border] = 0
        np.testing.assert_allclose(function(image, 2 + axis)[0, 0].numpy(), expected, atol=1e-12)


def test_axes_shorter_than_the_filter():
    image = random_image((3, 20))
    expected = gaussian_filter(image[0, 0].numpy(), 2.0, mode="nearest", radius=5)
    np.testing.assert_allclose(gaussian(image, 2.0)[0, 0].numpy(), expected, atol=1e-10)
    expected = uniform_filter(np.pad(image[0, 0].numpy(), ((9, 9), (0, 0))), 9, mode="constant")[9:-9]
    np.testing.assert_allclose(box(image, 4)[0, 0].numpy(), expected, atol=1e-12)

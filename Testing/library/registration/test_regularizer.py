"""What the regularizers damp and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imagingai.registration.filters import derivative
from imagingai.registration.regularizer import bend, diffuse, resist_volume_change

SHAPES = [(24, 20), (18, 16, 20)]


def grid(shape):
    return torch.stack(torch.meshgrid(*[torch.arange(n).double() for n in shape], indexing="ij"))


def inner(shape, margin):
    return (..., *(slice(margin, -margin) for _ in shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusion_damps_a_wave_by_its_frequency(shape):
    wave = torch.cos(grid(shape)[:1] * 0.5)[None]
    damped = diffuse(wave, 1.0)[inner(shape, 4)]
    torch.testing.assert_close(damped, wave[inner(shape, 4)] * np.exp(-0.125), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_leaves_linear_fields_and_damps_by_the_fourth_power(shape):
    linear = torch.tensordot(torch.eye(len(shape)).double() * 0.3, grid(shape), 1)[None]
    torch.testing.assert_close(bend(linear, 1.0)[inner(shape, 7)], linear[inner(shape, 7)])
    wave = torch.cos(grid(shape)[:1] * 0.5)[None]
    response = 1 - (1 - np.exp(-0.125)) ** 2
    torch.testing.assert_close(bend(wave, 1.0)[inner(shape, 7)], wave[inner(shape, 7)] * response, atol=0.01, rtol=0)


def divergence(field):
    return sum(derivative(field[:, axis : axis + 1], 2 + axis) for axis in range(field.shape[1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_only_change_of_volume_is_resisted(shape):
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, len(shape), *shape)))
    assert divergence(resist_volume_change(diffuse(noise, 1.0), 0.3)).std() < 0.95 * divergence(diffuse(noise, 1.0)).std()
    shear = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
    shear[0, 0] = torch.sin(grid(shape)[1] * 0.7)  # x moves with y: no volume changes
    torch.testing.assert_close(resist_volume_change(shear.clone(), 0.3)[inner(shape, 2)], shear[inner(shape, 2)])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_strongest_resistance_is_stable_even_for_a_checkerboard(shape):
    field = (1 - 2 * (grid(shape).sum(0) % 2)).expand(1, len(shape), *shape).clone()
    for _ in range(50):
        field = diffuse(resist_volume_change(field, 0.5), 0.5)
    assert field.abs().max() < 1

"""Folds are found, and taken out without touching the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imagingai.jacobian import determinant
from imagingai.registration.filters import gaussian
from imagingai.registration.folding import smallest_volume, unfold

SHAPES = [(40, 30), (24, 20, 22)]


def rough_field(shape, amplitude):
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, len(shape), *shape))).float()
    return gaussian(noise, 2.0) * amplitude


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_field_has_its_determinant_everywhere(shape):
    matrix = torch.diag(torch.tensor([1.2, 0.5, 1.5][: len(shape)]))
    matrix[0, 1] = 0.3
    points = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in shape], indexing="ij"))
    field = torch.tensordot(matrix - torch.eye(len(shape)), points, 1)[None]
    volume = smallest_volume(field)
    assert volume.shape[2:] == tuple(n - 1 for n in shape)
    torch.testing.assert_close(volume, torch.full_like(volume, float(torch.linalg.det(matrix))), atol=1e-4, rtol=0)


def test_a_swap_of_two_voxels_is_a_fold():
    field = torch.zeros(1, 2, 8, 8)
    field[0, 0, 3, 4], field[0, 0, 4, 4] = 1.2, -1.2
    folded = smallest_volume(field)[0, 0] < 0
    assert folded[3, 3] and folded[3, 4] and folded.sum() == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_folds_are_taken_out(shape):
    field = rough_field(shape, 6.0)
    assert (smallest_volume(field) < 0).any()
    smooth = unfold(field)
    assert smallest_volume(smooth).min() >= 0.01
    world = np.concatenate([smooth[0].numpy(), np.zeros((3 - len(shape), *shape), np.float32)]).reshape(3, *shape, *[1] * (3 - len(shape)))
    assert determinant(world, np.eye(4)).min() > 0


def test_what_does_not_fold_stays_as_it_is():
    field = rough_field((24, 20, 22), 0.5)
    assert unfold(field) is field
    field[0, 0, 10, 10, 10] += 3.0
    change = (unfold(field) - field).abs().amax(1)[0]
    assert change[10, 10, 10] > 0.5 and change[:4].max() == 0 and change[17:].max() == 0


def test_a_fold_that_cannot_be_taken_out_is_reported(caplog):
    field = torch.zeros(1, 2, 6, 6)
    assert unfold(field, smallest=1.5) is not None
    assert "still folds" in caplog.text

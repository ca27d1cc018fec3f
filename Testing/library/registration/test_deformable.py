"""Make a flow you know, warp, find it again: in voxels, in 2-D and 3-D."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imagingai.registration.config import RegistrationConfig
from imagingai.registration.deformable import (
    Comparison,
    Grid,
    Limits,
    compose,
    deform,
    exponential,
    pyramid,
    resize_field,
    sample,
)
from imagingai.registration.filters import gaussian
from imagingai.registration.folding import smallest_volume
from imagingai.registration.similarity import SIMILARITIES, Settings

SHAPES = [(72, 64), (40, 36, 44)]
SPACING = 2.0  # mm


def noise(shape, channels, sigma, seed):
    """Smooth random channels of standard deviation 1."""
    raw = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, channels, *shape))).float()
    smooth = gaussian(raw, sigma)
    return smooth / smooth.std()


def interior(shape, margin=8):
    """1 inside, falling to 0 at the border, so that nothing comes from outside the image."""
    mask = torch.zeros(1, 1, *shape)
    mask[(..., *(slice(margin, n - margin) for n in shape))] = 1
    return gaussian(mask, margin / 4)


def warp(image, displacement):
    return sample(image, Grid(displacement.shape[2:]).points(displacement))


def pair(shape, seed=0):
    """A fixed and a moving image with fixed(x) = moving(x + u(x)), and u."""
    moving = (noise(shape, 1, 2.0, seed) + noise(shape, 1, 4.0, seed + 1)) * 0.15 + 0.5
    truth = noise(shape, len(shape), 7.0, seed + 2) * interior(shape) * 1.5
    return warp(moving, truth), moving, truth


def comparison(fixed, moving, name="ncc"):
    return [Comparison(1.0, lambda a, b, radius: SIMILARITIES[name](a, b, Settings(radius=radius)), fixed, moving)]


def run(fixed, moving, limits=Limits(), **settings):
    return deform(comparison(fixed, moving), RegistrationConfig(**settings), SPACING, limits)


def error(displacement, truth):
    """Mean distance to the true displacement in voxels, where there is one."""
    inside = interior(truth.shape[2:])[0, 0] > 0.9
    return float((displacement - truth).norm(dim=1)[0][inside].mean())


@pytest.mark.parametrize("model", ["displacement", "velocity"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_known_flow_is_found_without_folds(shape, model):
    fixed, moving, truth = pair(shape)
    found = run(fixed, moving, deformation=model).displacement
    assert error(found, truth) < 0.25 * error(0 * truth, truth)
    assert smallest_volume(found).min() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_inverted_gray_values_do_not_matter(shape):
    fixed, moving, truth = pair(shape)
    assert error(run(fixed, 1 - moving).displacement, truth) < 0.25 * error(0 * truth, truth)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_inverse_of_a_velocity_undoes_it(shape):
    fixed, moving, _ = pair(shape)
    found = run(fixed, moving, deformation="velocity")
    there_and_back = found.displacement + warp(found.inverse, found.displacement)
    assert float(there_and_back.norm(dim=1).mean()) < 0.02


def test_symmetric_registration_does_not_depend_on_which_image_is_fixed():
    fixed, moving, _ = pair(SHAPES[0])

    def inconsistency(**settings):
        there, back = (run(a, b, deformation="velocity", **settings).displacement for a, b in ((fixed, moving), (moving, fixed)))
        return float((there + warp(back, there)).norm(dim=1).mean())

    assert inconsistency(symmetric=True) < 0.25 * inconsistency()


@pytest.mark.parametrize("which", ["fixed_mask", "moving_mask"])
def test_nothing_pulls_outside_a_mask(which):
    shape = SHAPES[0]
    fixed, moving, truth = pair(shape)
    mask = torch.zeros(1, 1, *shape)
    mask[:, :, : shape[0] // 2] = 1
    spoiled = [fixed.clone(), moving.clone()]
    image = spoiled[0 if which == "fixed_mask" else 1]
    image[:, :, shape[0] // 2 + 6 :] = noise(shape, 1, 1.0, 9)[:, :, shape[0] // 2 + 6 :]
    far = (..., slice(shape[0] // 2 + 16, None), slice(None))
    with_mask, without = run(*spoiled, Limits(**{which: mask})).displacement, run(*spoiled).displacement
    assert with_mask[far].abs().mean() < 0.5 * without[far].abs().mean()
    near = (..., slice(10, shape[0] // 2 - 6), slice(10, -10))
    assert (with_mask - truth)[near].norm(dim=1).mean() < 0.4 * truth[near].norm(dim=1).mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rigid_region_moves_rigidly_to_the_end(shape):
    fixed, moving, _ = pair(shape)
    labels = torch.zeros(1, 1, *shape)
    labels[(..., *(slice(12, 24) for _ in shape))] = 3
    found = run(fixed, moving, Limits(rigid_labels=labels)).displacement
    voxels = torch.nonzero(labels[0, 0] == 3).float()
    moved = voxels + found[0][:, labels[0, 0] == 3].T
    assert float((moved - voxels).norm(dim=1).max()) > 0.05  # it does move
    assert float((torch.pdist(moved[::7]) - torch.pdist(voxels[::7])).abs().max()) < 2e-3  # and keeps every distance


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_images_stay_in_place(shape):
    fixed, _, _ = pair(shape)
    assert float(run(fixed, fixed.clone()).displacement.abs().max()) < 0.02


def test_two_scans_of_one_thing_hardly_move():
    """Independent noise leaves the forces with little lasting direction; with coherence=0 the same noise moves more."""
    image = pair(SHAPES[1])[0]
    scans = [image + 0.01 * noise(SHAPES[1], 1, 0.0, seed) for seed in (20, 21)]
    motion, loose = (float(run(*scans, **settings).displacement.norm(dim=1).mean()) for settings in ({}, {"coherence": 0.0}))
    assert motion < 0.2
    assert motion < 0.85 * loose


def test_a_stiffer_material_changes_its_volume_less():
    fixed, moving, _ = pair(SHAPES[1])

    def roughness(**settings):
        return float(smallest_volume(run(fixed, moving, **settings).displacement).log().std())

    assert roughness(stiffness=0.5, coarse_stiffness=0.5) < 0.9 * roughness(stiffness=0.0, coarse_stiffness=0.0)


# --- the parts


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    shape, center = (41, 41), 20.0
    matrix = torch.tensor([[0.05, -0.2], [0.2, -0.1]])
    points = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in shape], indexing="ij")) - center
    velocity = torch.tensordot(matrix, points, 1)[None]
    expected = torch.tensordot(torch.linalg.matrix_exp(matrix) - torch.eye(2), points, 1)[None]
    inner = (..., slice(10, 31), slice(10, 31))
    torch.testing.assert_close(exponential(velocity, 10)[inner], expected[inner], atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_compose_is_right_to_first_order(shape):
    field, step = noise(shape, len(shape), 5.0, 0) * 2, noise(shape, len(shape), 5.0, 1) * 0.1
    exact = warp(field, step) + step
    inner = (..., *(slice(4, -4) for _ in shape))
    assert float((compose(field, step) - exact)[inner].abs().mean()) < 0.2 * float((field + step - exact)[inner].abs().mean())


@pytest.mark.parametrize(
    ("shape", "factors"), [((16, 16), [1]), ((84, 104, 84), [4, 2, 1]), ((168, 208, 168), [8, 4, 2, 1]), ((2000, 2000), [16, 8, 4, 2, 1])]
)
def test_the_pyramid_starts_at_about_16_voxels(shape, factors):
    assert pyramid(shape) == factors


def test_a_resized_field_moves_points_by_the_same_share_of_the_image():
    field = torch.ones(1, 2, 11, 21)
    large = resize_field(field, (21, 61))
    assert large.shape == (1, 2, 21, 61)
    torch.testing.assert_close(large[0, :, 5, 5], torch.tensor([2.0, 3.0]))

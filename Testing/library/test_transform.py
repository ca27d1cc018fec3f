"""Transforms against SimpleITK and against maps whose answer is known, on every kind of grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from grids import GRIDS, PAIRS, labeled, mild_affine, placed, smooth_field, textured, turned
from scipy.ndimage import gaussian_filter

from imagingai.errors import InputError
from imagingai.transform import (
    Affine,
    Composite,
    DisplacementField,
    apply_to_points,
    compose,
    inverse_consistency,
    invert,
    invert_points,
    jacobian_determinant,
    to_displacement,
    voxel_to_world_displacement,
    warp,
    world_to_voxel_displacement,
)
from imagingai.transform_io import save_transform, to_itk
from imagingai.volume import Volume, from_sitk, same_grid, to_sitk

ITK_METHODS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "cubic": sitk.sitkBSpline3}


def transforms(fixed: Volume, moving: Volume) -> dict:
    """One of every kind: also a field that lies on another grid than the image."""
    affine, field = mild_affine(fixed), smooth_field(fixed)
    return {
        "affine": affine,
        "displacement": field,
        "displacement, affine": Composite((field, affine)),
        "affine, displacement elsewhere": Composite((affine, smooth_field(moving, seed=2))),
    }


KINDS = ["affine", "displacement", "displacement, affine", "affine, displacement elsewhere"]


@pytest.fixture(params=PAIRS, ids=" <- ".join)
def grids(request) -> tuple[Volume, Volume]:
    return GRIDS[request.param[0]], GRIDS[request.param[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interpolation", ITK_METHODS)
def test_warp_equals_sitk_reading_the_transform_file(grids, kind, interpolation, tmp_path):
    fixed, moving = grids
    moving = textured(moving) if interpolation != "nearest" else labeled(moving)
    transform = transforms(fixed, moving)[kind]
    ours = warp(moving, transform, fixed, interpolation=interpolation, fill=-7)
    save_transform(transform, tmp_path / "t.h5")
    theirs = sitk.Resample(to_sitk(moving), to_sitk(fixed), sitk.ReadTransform(tmp_path / "t.h5"), ITK_METHODS[interpolation], -7.0)
    different = np.abs(ours.data - from_sitk(theirs).data.astype(float)) > 1e-4 * np.ptp(moving.data)
    assert (ours.data != -7).mean() > 0.3  # the images do overlap
    assert different.mean() < (1e-4 if interpolation == "nearest" else 1e-9)  # a tie may go either way
    assert ours.data.dtype == (np.int16 if interpolation == "nearest" else np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_points_equal_sitk(grids, kind):
    transform = transforms(*grids)[kind]
    points = np.random.default_rng(0).uniform(-1, 1, (200, 3)) @ (0.6 * grids[0].affine[:3, :3] * grids[0].shape).T
    if grids[0].ndim == 2:
        points -= np.outer(points @ grids[0].direction[:, 2], grids[0].direction[:, 2])
    flip, itk = np.array([-1, -1, 1]), to_itk(transform)
    theirs = np.array([itk.TransformPoint(point.tolist()) for point in points * flip]) * flip
    np.testing.assert_allclose(apply_to_points(transform, points), theirs, atol=1e-4)


def test_a_whole_transform_becomes_one_displacement(grids):
    fixed, moving = grids
    transform = Composite((smooth_field(fixed), mild_affine(fixed)))
    one = to_displacement(transform, fixed)
    assert same_grid(one.volume, fixed)
    np.testing.assert_allclose(
        warp(textured(moving), one, fixed, fill=500).data, warp(textured(moving), transform, fixed, fill=500).data, atol=0.05
    )


def test_a_displacement_is_zero_half_a_voxel_beyond_its_grid():
    field = DisplacementField(np.full((3, 10, 10, 10), 2, np.float32), np.eye(4))
    points = np.array([[4.0, 4, 4], [9.4, 4, 4], [9.6, 4, 4], [-0.4, 4, 4], [-0.6, 4, 4]])
    np.testing.assert_allclose(apply_to_points(field, points) - points, np.array([[2], [2], [0], [2], [0]]) * np.ones(3), atol=1e-6)


def test_voxels_and_world_agree(grids):
    fixed = grids[0]
    voxels = torch.randn(1, fixed.ndim, *fixed.shape[: fixed.ndim])
    field = voxel_to_world_displacement(voxels, fixed.affine)
    assert field.data.shape == (3, *fixed.shape)
    torch.testing.assert_close(world_to_voxel_displacement(field), voxels, atol=1e-5, rtol=1e-5)
    index = np.array([5, 7, 0 if fixed.ndim == 2 else 3])
    at = fixed.affine[:3, :3] @ index + fixed.origin
    moved = np.linalg.inv(fixed.affine) @ [*apply_to_points(field, at[None])[0], 1]
    expected = index.astype(float)
    expected[: fixed.ndim] += voxels[(0, slice(None), *index[: fixed.ndim])].numpy()
    np.testing.assert_allclose(moved[:3], expected, atol=1e-4)


def test_compose_merges_neighboring_affines():
    one, two = mild_affine(GRIDS["RAS"]), Affine(np.diag([2, 1, 1, 1.0]))
    field = smooth_field(GRIDS["RAS"])
    assert np.allclose(compose(one, two).matrix, two.matrix @ one.matrix)
    assert [type(part) for part in compose(one, two, Composite((field, one))).parts] == [Affine, DisplacementField, Affine]
    assert np.allclose(compose().matrix, np.eye(4))


# --- inverse


def flow(grid: Volume, strength: float, width: float) -> DisplacementField:
    """A strong smooth displacement without folds: the flow of a random velocity."""
    field = smooth_field(grid, 1.0, width).data
    inner = [np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / 5, 0, 1) if n > 1 else np.ones(1) for n in grid.shape]
    field = field * np.einsum("i,j,k->ijk", *inner).astype(np.float32) * strength / np.abs(field).max() / 2**7
    for _ in range(7):
        step = DisplacementField(field, grid.affine)
        field = to_displacement(Composite((step, step)), grid).data
    return DisplacementField(field, grid.affine)


@pytest.mark.parametrize("name", ["RAS", "oblique", "slice"])
def test_inverse_of_a_strong_smooth_field(name):
    grid = GRIDS[name]
    field = flow(grid, 12.0, 5.0)
    jacobian = jacobian_determinant(field, grid).data
    assert jacobian.max() > 1.7 and 0 < jacobian.min() < 0.6 and np.abs(field.data).max() > 3.5  # strong, without folds
    inverse, error = invert(field, grid)
    assert error["mean"] < 0.05 * grid.spacing.min()
    assert error["mean"] <= error["p95"] <= error["max"] < 0.8 * grid.spacing.min()
    again = inverse_consistency(inverse, field, grid, grid)
    assert again["mean"] < 0.05 * grid.spacing.min()


def test_points_go_there_and_back_even_where_expansion_is_extreme():
    grid = placed((40, 40, 40), np.eye(3), (1, 1, 1))
    field = flow(grid, 22.0, 5.0)
    jacobian = jacobian_determinant(field, grid).data
    assert jacobian.max() > 4 and 0 < jacobian.min() < 0.2
    transform = Composite((field, mild_affine(grid)))
    points = np.random.default_rng(0).uniform(-19, 19, (5000, 3))
    back = invert_points(transform, apply_to_points(transform, points))
    np.testing.assert_allclose(back, points, atol=0.02)


@pytest.mark.parametrize("degrees", [60, 90, 143, 180])
def test_a_field_that_holds_a_large_turn_goes_there_and_back(degrees):
    grid = placed((40, 40, 40), np.eye(3), (1, 1, 1))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a := np.deg2rad(degrees)), -np.sin(a)], [np.sin(a), np.cos(a)]]
    field = to_displacement(Composite((flow(grid, 12.0, 5.0), Affine(turn))), grid)
    points = np.random.default_rng(0).uniform(-18, 18, (5000, 3))
    np.testing.assert_allclose(invert_points(field, apply_to_points(field, points)), points, atol=0.02)


def test_inverse_of_a_composite_lies_on_the_moving_grid(grids):
    fixed, moving = grids
    transform = Composite((smooth_field(fixed, 1.0, 5.0), mild_affine(fixed)))
    inverse, error = invert(transform, fixed, moving)
    assert same_grid(inverse.volume, moving) and error["mean"] < 0.05 * moving.spacing[: moving.ndim].min()
    image = gaussian_filter(textured(fixed).data, [0, 2, 2, 2 if fixed.ndim == 3 else 0])
    there = warp(fixed.with_data(image), inverse, moving, fill=np.nan)
    back = warp(there, transform, fixed, fill=np.nan).data
    inside = np.isfinite(back)
    assert inside.mean() > 0.2
    assert np.corrcoef(back[inside], image[inside])[0, 1] > 0.99


def test_inverse_of_an_affine_is_exact():
    affine = mild_affine(GRIDS["RAS"])
    inverse, error = invert(Composite((affine, affine)), GRIDS["RAS"], GRIDS["oblique"])
    np.testing.assert_allclose(inverse.matrix @ affine.matrix @ affine.matrix, np.eye(4), atol=1e-12)
    assert error["max"] < 1e-5


def test_outside_its_grid_a_point_keeps_its_place_there_and_back():
    field = DisplacementField(np.full((3, 10, 10, 10), 2, np.float32), np.eye(4))
    points = np.array([[30.0, 4, 4], [-20, -5, 3]])
    np.testing.assert_allclose(invert_points(field, apply_to_points(field, points)), points)


def test_inverse_without_overlap_says_so():
    far = np.eye(4)
    far[0, 3] = 1e4
    with pytest.raises(InputError, match="maps no voxel of the fixed image into the moving image"):
        invert(Affine(far), GRIDS["RAS"], GRIDS["LAS"])


# --- Jacobian


@pytest.mark.parametrize("name", GRIDS)
def test_jacobian_of_an_affine_is_its_determinant(name):
    affine = mild_affine(GRIDS[name])
    found = jacobian_determinant(affine, GRIDS[name]).data
    np.testing.assert_allclose(found, np.linalg.det(affine.matrix[:3, :3]), rtol=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_jacobian_of_a_wave(name):
    """p + n sin(w.p) has the determinant 1 + (n.w) cos(w.p)."""
    grid = GRIDS[name]
    plane = grid.direction.copy()
    wave, along = plane @ [0.08, 0.05, 0.06 * (grid.ndim == 3)], plane @ [2.0, 3.0, 1.5 * (grid.ndim == 3)]
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    phase = (index @ grid.affine[:3, :3].T + grid.origin) @ wave
    field = DisplacementField(np.moveaxis(along * np.sin(phase)[..., None], -1, 0).astype(np.float32), grid.affine)
    inner = tuple(slice(1, -1) if n > 1 else slice(None) for n in grid.shape)
    found, expected = jacobian_determinant(field, grid).data[0][inner], 1 + (along @ wave) * np.cos(phase)[inner]
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_jacobian_of_a_slice_whose_plane_turns_is_the_change_of_area():
    turn = np.eye(4)
    turn[:3, :3] = turned(30, 40, 10) * 1.5
    np.testing.assert_allclose(jacobian_determinant(Affine(turn), GRIDS["slice"]).data, 1.5**2, rtol=1e-4)
    mirror = GRIDS["slice"].direction @ np.diag([-1, 1, 1]) @ GRIDS["slice"].direction.T
    turn[:3, :3] = mirror
    np.testing.assert_allclose(jacobian_determinant(Affine(turn), GRIDS["slice"]).data, -1, rtol=1e-4)


# --- what cannot be


def test_a_singular_affine_is_refused_with_its_determinant():
    with pytest.raises(InputError, match=r"cannot be inverted: its determinant is 0\. Use another"):
        Affine(np.diag([1, 1, 0, 1.0]))


def test_an_affine_must_be_a_finite_matrix():
    with pytest.raises(InputError, match="needs a finite 4x4 matrix"):
        Affine(np.full((4, 4), np.nan))
    with pytest.raises(InputError, match="needs a finite 4x4 matrix"):
        Affine(np.eye(3))


def test_a_field_needs_three_channels():
    with pytest.raises(InputError, match=r"needs data \(3, X, Y, Z\), not \(2, 4, 4, 4\)"):
        DisplacementField(np.zeros((2, 4, 4, 4)), np.eye(4))


def test_an_unknown_interpolation_is_named():
    with pytest.raises(InputError, match=r"There is no interpolation 'sinc'\. Choose linear, nearest or cubic"):
        warp(textured(GRIDS["RAS"]), Affine(np.eye(4)), GRIDS["RAS"], interpolation="sinc")

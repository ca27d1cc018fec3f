"""Linear alignment finds known motions of a small head, over orientations, contrasts, masks and fields of view."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import SimpleITK as sitk
from grids import GRIDS, mild_affine, placed, textured, turned

from imagingai.errors import Cancelled, InputError
from imagingai.registration import affine as module
from imagingai.registration.affine import align
from imagingai.registration.config import RegistrationConfig
from imagingai.transform import Affine, warp
from imagingai.volume import Volume, to_sitk

RIGID = RegistrationConfig(alignment="rigid")
AFFINE = RegistrationConfig(alignment="affine")
CLOSE = RegistrationConfig(alignment="affine", alignment_range=0.0)  # no rotation is searched: faster


def ellipsoid(points: np.ndarray, center, radii) -> np.ndarray:
    """1 inside, 0 outside, soft over a few mm."""
    return 1 / (1 + np.exp(8 * (np.linalg.norm((points - center) / radii, axis=-1) - 1)))


def head(grid: Volume, matrix: np.ndarray | None = None, skull: bool = True) -> Volume:
    """A head without symmetry, in mm, seen at matrix p: skin, skull, brain, two ventricles and a few nuclei."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    if matrix is not None:
        points = points @ matrix[:3, :3].T + matrix[:3, 3]
    image = 60 * ellipsoid(points, (0, -5, 0), (78, 92, 82)) - 50 * ellipsoid(points, (0, -5, 0), (72, 86, 76)) if skull else 0
    image = image + 80 * ellipsoid(points, (0, -5, 2), (64, 78, 66)) + 60 * ellipsoid(points, (0, 97, -25), (14, 16, 22)) * skull
    image -= 65 * (ellipsoid(points, (-14, 5, 8), (9, 30, 12)) + ellipsoid(points, (16, -3, 10), (11, 26, 14)))
    parts = [((-25, 10, -6), 12, 40), ((27, 12, -4), 12, 35), ((-30, -50, -35), 20, 30), ((28, -48, -33), 18, 22), ((5, 40, 30), 15, -30)]
    for center, radius, shade in parts:
        image += shade * ellipsoid(points, center, (radius, 1.3 * radius, radius))
    return grid.with_data(image.astype(np.float32))


def motion(degrees=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0), linear=None) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned(*degrees) @ (np.eye(3) if linear is None else linear), shift
    return matrix


def error(found: np.ndarray, known: np.ndarray, radius: float = 60.0) -> float:
    """Mean displacement difference in mm over points around the origin."""
    points = np.random.default_rng(0).uniform(-radius, radius, (500, 3))
    change = found - known
    return float(np.linalg.norm(points @ change[:3, :3].T + change[:3, 3], axis=1).mean())


FIXED = placed((52, 60, 54), np.eye(3), (4.0, 4.0, 4.0))
NEAR = motion((10, -12, 15), (8, -6, 10))
FAR = motion((25, -20, 22), (30, -35, 38))  # about 40 degrees and 60 mm
MOVING_GRIDS = {
    "LPS": placed((76, 80, 44), np.diag([-1, -1, 1]), (3.0, 3.0, 5.0), (30, -35, 38)),
    "sagittal": placed((60, 60, 56), np.eye(3)[:, [1, 2, 0]], (3.5, 4.5, 4.0), (25, -30, 30)),
    "oblique": placed((56, 66, 70), turned(15, -10, 20), (4.0, 3.6, 3.2), (30, -35, 38)),
}


@pytest.mark.parametrize("name", MOVING_GRIDS)
def test_a_far_start_is_found_on_any_grid(name):
    moving = head(MOVING_GRIDS[name], np.linalg.inv(FAR))
    found = align(head(FIXED), moving, RIGID)
    assert error(found, FAR) < 0.4
    assert np.allclose(found[:3, :3].T @ found[:3, :3], np.eye(3), atol=1e-9)


def test_affine_finds_scales_and_shears_exactly():
    known = motion((10, -12, 15), (8, -6, 10), [[1.1, 0.08, 0], [0, 0.92, -0.05], [0.04, 0, 1.05]])
    found = align(head(FIXED), head(placed((70, 70, 70), np.eye(3), (3.4, 3.4, 3.4)), np.linalg.inv(known)), CLOSE)
    assert error(found, known) < 0.3


def test_the_same_image_stays_where_it_is():
    assert error(align(head(FIXED), head(FIXED), CLOSE), np.eye(4)) < 0.3


@pytest.mark.parametrize("similarity", ["mi", "ncc"])
def test_the_inverse_contrast_needs_mutual_information(similarity):
    fixed, moving = head(FIXED), head(MOVING_GRIDS["LPS"], np.linalg.inv(motion((12, 8, -15), (10, 12, -9))))
    inside = moving.data > 5
    moving = moving.with_data(np.where(inside, 160 - moving.data, moving.data))
    found = align(fixed, moving, RegistrationConfig(alignment="rigid", alignment_similarity=similarity, alignment_range=20.0))
    assert (error(found, motion((12, 8, -15), (10, 12, -9))) < 1.0) == (similarity == "mi")


def test_correlation_aligns_equal_contrasts():
    config = RegistrationConfig(alignment="rigid", alignment_similarity="ncc")
    assert error(align(head(FIXED), head(MOVING_GRIDS["oblique"], np.linalg.inv(FAR)), config), FAR) < 0.4


@pytest.mark.parametrize("stripped", ["fixed", "moving"])
def test_a_brain_is_found_in_a_head(stripped):
    known = motion((-20, 15, 12), (15, 20, -18))
    fixed = head(FIXED, skull=stripped == "moving")
    moving = head(MOVING_GRIDS["LPS"], np.linalg.inv(known), skull=stripped == "fixed")
    assert error(align(fixed, moving, RIGID), known) < 1.0


def test_a_part_of_the_head_is_enough():
    known = motion((15, 10, -20), (12, -20, 15))
    lower = placed((60, 66, 30), np.eye(3), (3.5, 3.5, 4.0), (12, -20, -20))
    assert error(align(head(FIXED), head(lower, np.linalg.inv(known)), RIGID), known) < 1.0


def test_what_a_mask_excludes_does_not_count():
    known = motion((8, -6, 5), (6, -5, 4))
    fixed, moving = head(FIXED), head(FIXED, np.linalg.inv(known))
    half, spoiled = np.ones_like(moving.data), moving.data.copy()
    half[..., 27:] = 0
    spoiled[..., 27:] = np.roll(spoiled, 8, axis=1)[..., 27:]  # the upper half moved by 32 mm
    spoiled_volume, mask = moving.with_data(spoiled), moving.with_data(half)
    start = np.eye(4)
    assert error(align(fixed, spoiled_volume, RIGID, initial=start), known) > 1.0
    assert error(align(fixed, spoiled_volume, RIGID, initial=start, moving_mask=mask), known) < 0.5
    back = align(spoiled_volume, fixed, RIGID, initial=start, fixed_mask=mask)
    assert error(back, np.linalg.inv(known)) < 0.5


def test_an_initial_matrix_is_refined_and_not_searched_around():
    flipped = motion((0, 0, 180))  # a wrong optimum that a search would leave
    found = align(head(FIXED), head(FIXED), RIGID, initial=flipped)
    assert error(found, np.eye(4)) > 30
    near = motion((4, -3, 5), (4, 5, -3))
    assert error(align(head(FIXED), head(FIXED), RIGID, initial=near), np.eye(4)) < 0.1


def test_none_and_center():
    fixed, moving = head(FIXED), head(FIXED, np.linalg.inv(motion(shift=(10, -8, 6))))
    assert np.array_equal(align(fixed, moving, RegistrationConfig(alignment="none")), np.eye(4))
    assert np.array_equal(align(fixed, moving, RegistrationConfig(alignment="none"), initial=FAR), FAR)
    centered = align(fixed, moving, RegistrationConfig(alignment="center"))
    assert np.allclose(centered[:3, :3], np.eye(3)) and np.allclose(centered[:3, 3], (10, -8, 6), atol=2.0)


@pytest.mark.parametrize("grids", [("slice", "other slice"), ("other slice", "slice")])
def test_slices_align_within_their_plane(grids):
    """Two grids in one oblique plane: the result turns and stretches the plane and keeps its normal."""
    big = [placed((110, 100, 1), GRIDS[name].direction, (1.2, 1.2, 2.0)) for name in grids]
    texture = textured(placed((160, 150, 1), big[1].direction, (1.2, 1.2, 2.0)))
    window = np.exp(-((np.stack(np.meshgrid(np.linspace(-2, 2, 160), np.linspace(-2, 2, 150), indexing="ij")) ** 2).sum(0) ** 2))
    texture = texture.with_data(texture.data * window[..., None].astype(np.float32))
    known = mild_affine(big[0]).matrix
    plane = np.eye(4)
    plane[:3, :3] = big[0].direction
    known = known @ plane @ motion((0, 0, 20)) @ np.linalg.inv(plane)
    fixed, moving = warp(texture, Affine(known), big[0]), warp(texture, Affine(np.eye(4)), big[1])
    found = align(fixed, moving, AFFINE)
    corners = np.array([[x, y, 0.0] for x in (-40, 40) for y in (-40, 40)]) @ big[0].direction.T
    assert np.abs(corners @ (found - known)[:3, :3].T + (found - known)[:3, 3]).max() < 1.0
    assert np.allclose(found[:3, :3] @ big[0].direction[:, 2], big[0].direction[:, 2], atol=1e-6)


def test_simpleitk_moves_the_image_with_our_matrix():
    """The matrix pulls back: an ITK transform made of it resamples the moving image onto the fixed one."""
    fixed, moving = head(FIXED), head(MOVING_GRIDS["oblique"], np.linalg.inv(FAR))
    flip = np.diag([-1.0, -1, 1, 1])
    matrix = flip @ align(fixed, moving, RIGID) @ flip
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    moved = sitk.GetArrayFromImage(sitk.Resample(to_sitk(moving), to_sitk(fixed), transform, sitk.sitkLinear, 0.0))
    assert np.corrcoef(moved.ravel(), fixed.data[0].transpose(2, 1, 0).ravel())[0, 1] > 0.99


def test_the_same_input_gives_the_same_matrix():
    fixed, moving = head(FIXED), head(MOVING_GRIDS["LPS"], np.linalg.inv(NEAR))
    assert np.array_equal(align(fixed, moving, CLOSE), align(fixed, moving, CLOSE))


def test_an_unbelievable_affine_becomes_rigid(monkeypatch, caplog):
    monkeypatch.setattr(module, "SOUND", (0.99, 1.01))
    known = motion((5, 5, 5), (4, 4, 4), 1.15 * np.eye(3))
    with caplog.at_level(logging.WARNING):
        found = align(head(FIXED), head(placed((60, 70, 60), np.eye(3), (4, 4, 4)), np.linalg.inv(known)), CLOSE)
    assert np.allclose(found[:3, :3].T @ found[:3, :3], np.eye(3), atol=1e-9)
    assert "rigid one is used" in caplog.text


def test_images_that_never_meet_are_an_error():
    with pytest.raises(InputError, match=r"do not overlap"):
        align(head(FIXED), head(FIXED), RIGID, initial=motion(shift=(1000, 0, 0)))


def test_a_mask_that_leaves_too_little_is_an_error():
    mask = np.zeros_like(head(FIXED).data)
    mask[0, 25, 25, 25] = 1
    with pytest.raises(InputError, match=r"too few to align"):
        align(head(FIXED), head(FIXED), RIGID, fixed_mask=FIXED.with_data(mask))


def test_progress_grows_and_can_stop_the_work():
    fractions = []
    align(head(FIXED), head(FIXED), CLOSE, report=lambda fraction, text: fractions.append(fraction))
    assert fractions == sorted(fractions) and fractions[-1] == 1.0

    def stop(fraction: float, text: str) -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        align(head(FIXED), head(FIXED), CLOSE, report=stop)

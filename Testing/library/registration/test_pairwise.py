"""`register` from end to end: images with a known answer, on every kind of grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from grids import placed, turned

from imagingai.errors import Cancelled, InputError, WeightsError
from imagingai.registration import PRESETS, RegistrationConfig, register
from imagingai.transform import Affine, apply_to_points, to_displacement
from imagingai.volume import Volume, to_sitk

FAST = PRESETS["fast"]
NEAR = {**FAST, "alignment": "none"}  # for images that start near each other
GRIDS = {
    "RAS": placed((30, 32, 27), np.eye(3), (3.0, 3.0, 3.0)),
    "LAS": placed((28, 36, 20), np.diag([-1, 1, 1]), (3.2, 2.7, 3.9), (2, -3, 1)),
    "LPS": placed((32, 30, 16), np.diag([-1, -1, 1]), (2.8, 3.1, 5.0), (-1, 2, 4)),
    "oblique": placed((30, 32, 26), turned(20, -15, 35), (3.1, 2.9, 3.2), (1, 1, -2)),
    "slice": placed((60, 56, 1), turned(10, 20, 30), (1.5, 1.7, 4.0)),
    "other slice": placed((52, 70, 1), turned(10, 20, 30) @ turned(0, 0, 25), (1.8, 1.4, 4.0)),
}
PAIRS = [("RAS", "RAS"), ("RAS", "oblique"), ("LAS", "LPS"), ("LPS", "RAS"), ("oblique", "LAS"), ("slice", "other slice")]


def points_of(grid: Volume) -> np.ndarray:
    """(3, X, Y, Z) RAS mm of all voxel centers."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    return np.tensordot(grid.affine[:3, :3], index, 1) + grid.affine[:3, 3].reshape(3, 1, 1, 1)


def scene(points: np.ndarray) -> np.ndarray:
    """An ellipsoid with a texture of waves in all directions, as a function of RAS mm; no symmetry, so that a flip shows."""
    random, texture = np.random.default_rng(3), 0.0
    for _ in range(8):
        wave = random.normal(size=3)
        wave *= random.uniform(0.2, 0.4) / np.linalg.norm(wave)
        texture = texture + np.sin(np.tensordot(wave, points, 1) + random.uniform(0, 6))
    radii = np.array([32, 36, 28]).reshape(3, *[1] * (points.ndim - 1))
    inside = 1 / (1 + np.exp(15 * (np.sqrt(((points / radii) ** 2).sum(0)) - 1)))
    return 100 * inside * (1.5 + 0.25 * texture)


def deform_back(points: np.ndarray, normal: np.ndarray | None = None) -> np.ndarray:
    """Moving space to fixed space: a small rotation and shift, then a smooth wave of 2.5 mm; within a plane for a slice."""
    matrix = turned(4, -3, 5)
    moved = np.tensordot(matrix, points, 1) + np.array([3.0, -2.0, 2.5]).reshape(3, *[1] * (points.ndim - 1))
    x, y, z = moved
    moved = moved + 2.5 * np.stack([np.sin(0.11 * y + 0.3), np.cos(0.1 * z + 0.1 * x), np.sin(0.09 * x - 0.04 * y)])
    if normal is None:
        return moved
    return moved - normal.reshape(3, *[1] * (points.ndim - 1)) * np.tensordot(normal, moved - points, 1)


def make_pair(names):
    fixed, moving = (GRIDS[name] for name in names)
    normal = fixed.direction[:, 2] if fixed.ndim == 2 else None
    moving_data = scene(deform_back(points_of(moving), normal))
    return fixed.with_data(scene(points_of(fixed)).astype(np.float32)), moving.with_data(moving_data.astype(np.float32)), normal


def error_mm(transform, fixed: Volume, normal) -> np.ndarray:
    """How far the found transform takes points of the object from where they belong."""
    points = points_of(fixed)[:, fixed.data[0] > 60]
    return np.linalg.norm(deform_back(apply_to_points(transform, points.T).T, normal) - points, axis=0)


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_a_known_deformation_is_found_on_any_grid(names):
    fixed, moving, normal = make_pair(names)
    result = register(fixed, moving, RegistrationConfig(**FAST))
    start = error_mm(Affine(np.eye(4)), fixed, normal)
    error = error_mm(result.transform, fixed, normal)
    assert np.mean(error) < 0.3 * np.mean(start), f"{np.mean(start):.2f} -> {np.mean(error):.2f} mm"
    assert np.mean(error) < 0.5 * fixed.spacing[:2].max(), "half a voxel"
    assert result.jacobian.data.min() > 0
    again = sitk.Resample(to_sitk(moving), to_sitk(fixed), sitk_transform(result.transform), sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(sitk.GetArrayFromImage(again).T, result.moved.data[0], atol=1e-4 * 200)


def sitk_transform(transform):
    from imagingai.transform_io import to_itk

    return to_itk(transform)


@pytest.mark.parametrize(
    "settings", [{"deformation": "velocity"}, {"deformation": "velocity", "symmetric": True}, {"regularizer": "bending"}], ids=str
)
def test_other_models(settings):
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    result = register(fixed, moving, RegistrationConfig(**{**NEAR, **settings}))
    assert error_mm(result.transform, fixed, None).mean() < 2.0
    error = result.inverse_and_error[1]
    assert error["mean"] < 0.15 and error["p95"] < 0.6  # mm; voxels are 3 mm


@pytest.mark.parametrize("similarity", ["mse", "nmi", "mind", "ncc+0.5*mind"])
def test_other_similarities(similarity):
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    result = register(fixed, moving, RegistrationConfig(**{**NEAR, "similarity": similarity}))
    assert error_mm(result.transform, fixed, None).mean() < 2.0
    assert result.similarity_map.shape == fixed.shape
    start = register(fixed, moving, RegistrationConfig(alignment="none", deformation="none", similarity=similarity))
    assert result.similarity_map.data.mean() < start.similarity_map.data.mean()


def test_another_contrast():
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    other = moving.with_data(np.where(moving.data > 5, 250 - moving.data, moving.data))
    result = register(fixed, other, RegistrationConfig(**NEAR))
    assert error_mm(result.transform, fixed, None).mean() < 2.0


@pytest.mark.parametrize("start", [None, "field"])
def test_what_the_zero_of_the_gray_values_is_does_not_matter(start):
    """Air is -1000 in a CT: where the moving image does not reach is air too, not a bright rim."""
    fixed, moving, _ = make_pair(("LAS", "LPS"))
    initial = to_displacement(Affine(np.eye(4)), fixed) if start else None
    config = RegistrationConfig(**FAST)
    one = register(fixed, moving, config, initial=initial).transform
    fixed_ct, moving_ct = (image.with_data(10 * image.data - 1000) for image in (fixed, moving))
    other = register(fixed_ct, moving_ct, config, initial=initial).transform
    points = points_of(fixed).reshape(3, -1).T
    assert np.linalg.norm(apply_to_points(one, points) - apply_to_points(other, points), axis=1).max() < 0.3


def test_labels_help_with_ncc_sup():
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    labels = [image.with_data((image.data > 120).astype(np.uint8) + 1) for image in (fixed, moving)]
    config = RegistrationConfig(**{**NEAR, "similarity": "ncc_sup"})
    result = register(fixed, moving, config, fixed_labels=labels[0], moving_labels=labels[1])
    assert error_mm(result.transform, fixed, None).mean() < 2.0
    with pytest.raises(InputError, match="--similarity ncc_sup compares labels too"):
        register(fixed, moving, config)


def test_weights_that_are_not_there_are_told_before_the_work():
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    config, reports = RegistrationConfig(similarity="deepsim_seg", features="nowhere.safetensors"), []
    with pytest.raises(WeightsError, match="There are no weights nowhere"):
        register(fixed, moving, config, report=lambda *report: reports.append(report))
    assert not reports


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_what_a_masked_lesion_looks_like_does_not_matter(which):
    images = dict(zip(("fixed", "moving"), make_pair(("RAS", "RAS"))[:2], strict=True))
    image, found = images[which], []
    mask = np.ones(image.data.shape, np.uint8)
    mask[0, 8:17, 11:20, 9:18] = 0
    for value in (0, 500):
        images[which] = image.with_data(np.where(mask, image.data, np.float32(value)))
        result = register(**images, config=RegistrationConfig(**NEAR), **{f"{which}_mask": image.with_data(mask)})
        found.append(apply_to_points(result.transform, points_of(images["fixed"]).reshape(3, -1).T))
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_what_is_masked_out_does_not_count(which):
    """A part that only one image shows (a lesion) distorts its surroundings, unless the mask leaves it out."""
    images = dict(zip(("fixed", "moving"), make_pair(("RAS", "RAS"))[:2], strict=True))
    clean, lesion = images["fixed"], (0, slice(8, 17), slice(11, 20), slice(9, 18))
    data, mask = images[which].data.copy(), np.ones(images[which].data.shape, np.uint8)
    data[lesion], mask[lesion] = 0.0, 0
    images[which] = images[which].with_data(data)
    config = RegistrationConfig(**NEAR)
    around = np.zeros(clean.shape, bool)
    around[6:19, 9:22, 7:20] = True
    near = around[clean.data[0] > 60]
    bad = error_mm(register(**images, config=config).transform, clean, None)[near]
    good = error_mm(register(**images, config=config, **{f"{which}_mask": clean.with_data(mask)}).transform, clean, None)[near]
    assert good.mean() < 0.9 * bad.mean(), f"{bad.mean():.2f} -> {good.mean():.2f} mm"


def test_a_rigid_region_keeps_its_shape():
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    bone = fixed.with_data(np.zeros(fixed.data.shape, np.uint8))
    bone.data[0, 11:17, 12:19, 9:16] = 3
    result = register(fixed, moving, RegistrationConfig(**NEAR), rigid_labels=bone)
    points = points_of(fixed)[:, bone.data[0] > 0].T
    moved = apply_to_points(result.transform, points)
    distance = lambda p: np.linalg.norm(p - p[0], axis=1)  # noqa: E731
    np.testing.assert_allclose(distance(moved), distance(points), atol=0.02)
    assert error_mm(result.transform, fixed, None).mean() < 2.0


def test_a_start_is_used():
    fixed, moving, _ = make_pair(("RAS", "RAS"))
    first = register(fixed, moving, RegistrationConfig(**{**FAST, "deformation": "none"}))
    config = RegistrationConfig(**{**FAST, "alignment": "none"})
    assert error_mm(register(fixed, moving, config, initial=first.transform).transform, fixed, None).mean() < 2.0
    deformed = register(fixed, moving, RegistrationConfig(**FAST)).transform
    again = register(fixed, moving, config, initial=deformed)
    assert error_mm(again.transform, fixed, None).mean() < 1.5, "a deformable start is followed by a small correction"


def test_the_same_images_stay_where_they_are():
    fixed, _, _ = make_pair(("RAS", "RAS"))
    result = register(fixed, fixed, RegistrationConfig(**FAST))
    points = points_of(fixed)[:, fixed.data[0] > 60].T
    assert np.linalg.norm(apply_to_points(result.transform, points) - points, axis=1).max() < 0.2


def test_the_same_input_gives_the_same_result():
    fixed, moving, _ = make_pair(("slice", "slice"))
    first, second = (register(fixed, moving, RegistrationConfig(**FAST)).moved.data for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_progress_comes_and_cancel_stops():
    fixed, moving, _ = make_pair(("slice", "slice"))
    fractions = []
    register(fixed, moving, report=lambda fraction, text: fractions.append(fraction))
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1

    def cancel(fraction, text):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        register(fixed, moving, report=cancel)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"symmetric": True}, "--symmetric needs --deformation velocity"),
        ({"device": "cuda"}, "sees no CUDA GPU"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    import torch

    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    fixed, moving, _ = make_pair(("slice", "slice"))
    with pytest.raises(InputError, match=message):
        register(fixed, moving, RegistrationConfig(**settings))


def test_rigid_regions_need_a_displacement():
    fixed, moving, _ = make_pair(("slice", "slice"))
    with pytest.raises(InputError, match="--rigid-labels need --deformation displacement"):
        register(
            fixed, moving, RegistrationConfig(deformation="velocity"), rigid_labels=fixed.with_data((fixed.data > 100).astype(np.uint8))
        )

"""Images keep their values and their place in the world; what cannot be used is said in one sentence."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from grids import GRIDS, PAIRS, labeled, textured

from imagingai.errors import InputError
from imagingai.volume import (
    Volume,
    as_volume,
    check_image,
    check_labels,
    check_mask,
    check_pair,
    from_sitk,
    load,
    resample_like,
    same_grid,
    save,
    to_sitk,
)

RAS = GRIDS["RAS"]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_keeps_values_and_place(name, suffix, tmp_path):
    image = textured(GRIDS[name])
    save(image, tmp_path / f"a{suffix}")
    again = load(tmp_path / f"a{suffix}")
    assert again.data.dtype == np.float32 and np.array_equal(again.data, image.data)
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)
    assert same_grid(again, image)
    assert [file.name for file in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("name", GRIDS)
def test_nibabel_sees_the_same(name, tmp_path):
    """An independent reader agrees on the axis order and on RAS mm."""
    image = textured(GRIDS[name])
    save(image, tmp_path / "a.nii.gz")
    theirs = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(theirs.affine, image.affine, atol=1e-5)
    assert np.array_equal(np.asarray(theirs.dataobj).reshape(image.shape), image.data[0])
    nibabel.save(nibabel.Nifti1Image(image.data[0], image.affine), tmp_path / "b.nii.gz")
    assert same_grid(load(tmp_path / "b.nii.gz"), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_type_is_kept(dtype, tmp_path):
    save(textured(RAS).as_type(dtype), tmp_path / "a.nii.gz")
    assert load(tmp_path / "a.nii.gz").data.dtype == dtype


def test_grid_properties():
    oblique = GRIDS["oblique"]
    np.testing.assert_allclose(oblique.spacing, (1.7, 1.2, 2.0))
    np.testing.assert_allclose(oblique.direction.T @ oblique.direction, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(oblique.center, (1, 1, -2))
    assert (oblique.ndim, GRIDS["slice"].ndim) == (3, 2)


def test_tensors_and_arrays():
    image = textured(RAS)
    assert image.tensor().shape == (1, 1, *RAS.shape) and image.tensor().dtype == torch.float32
    assert np.array_equal(image.with_data(image.tensor() * 2).data, image.data * 2)
    flat = Volume.from_array(torch.zeros(5, 6), spacing=(2, 3))
    assert flat.shape == (5, 6, 1) and flat.ndim == 2 and flat.spacing.tolist() == [2, 3, 1]
    assert Volume.from_array(np.zeros((2, 4, 5, 6)), spacing=2.0).affine.diagonal().tolist() == [2, 2, 2, 1]
    with pytest.raises(InputError, match=r"Data of shape \(3, 3, 3\) do not fit a grid of \(30, 34, 28\)"):
        image.with_data(np.zeros((3, 3, 3)))
    with pytest.raises(InputError, match="An image has 2 or 3 dimensions, not 1"):
        Volume.from_array(np.zeros(5))
    with pytest.raises(InputError, match=r"needs data \(C, X, Y, Z\) and a 4x4 affine"):
        Volume(np.zeros((5, 5, 5)), np.eye(4))
    with pytest.raises(InputError, match="The grid of an image has no volume"):
        Volume(np.zeros((1, 5, 5, 5)), np.diag([1, 0, 1, 1]))


def test_anything_that_is_an_image(tmp_path):
    image = textured(RAS)
    save(image, tmp_path / "a.nrrd")
    assert as_volume(image) is image
    for form in (to_sitk(image), tmp_path / "a.nrrd", str(tmp_path / "a.nrrd")):
        assert same_grid(as_volume(form), image) and np.array_equal(as_volume(form).data, image.data)
    assert as_volume(np.zeros((4, 5))).shape == (4, 5, 1)


def test_rounding_and_clipping():
    values = Volume.from_array(np.array([[-3.0, 1.6], [254.7, 300]]))
    assert values.as_type(np.uint8).data.ravel().tolist() == [0, 2, 255, 255]


@pytest.mark.parametrize("pair", PAIRS, ids=" <- ".join)
def test_resampling_equals_sitk(pair):
    reference, image = GRIDS[pair[0]], textured(GRIDS[pair[1]])
    for ours, theirs in (("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor), ("cubic", sitk.sitkBSpline3)):
        found = resample_like(image, reference, interpolation=ours, fill=-1)
        expected = sitk.Resample(to_sitk(image), to_sitk(reference), sitk.Transform(3, sitk.sitkIdentity), theirs, -1.0)
        assert same_grid(found, reference) and np.array_equal(found.data, from_sitk(expected).data)
    assert resample_like(labeled(image), reference, interpolation="nearest").data.dtype == np.int16


def test_same_grid_has_a_tolerance():
    moved = RAS.affine.copy()
    moved[0, 3] += 0.001
    assert same_grid(RAS, Volume(RAS.data, moved))
    moved[0, 3] += 0.1
    assert not same_grid(RAS, Volume(RAS.data, moved))
    assert not same_grid(RAS, GRIDS["LAS"])


# --- what a user gives


def with_values(**at: float) -> Volume:
    data = textured(RAS).data.copy()
    data.flat[: len(at)] = list(at.values())
    return RAS.with_data(data)


@pytest.mark.parametrize(
    "image, message",
    [
        (with_values(a=np.nan, b=np.inf), r"The fixed image has 2 voxels \(0\.007 %\) that are NaN or infinite\. Replace them"),
        (RAS.with_data(np.full(RAS.shape, 7.0)), r"The fixed image is constant: every voxel is 7\. Check"),
        (Volume(np.zeros((1, 0, 4, 4)), np.eye(4)), r"The fixed image is empty: its shape is \(0, 4, 4\)"),
    ],
)
def test_images_that_cannot_be_registered(image, message):
    check_image(textured(RAS), "fixed")
    with pytest.raises(InputError, match=message):
        check_image(image, "fixed")


def test_masks_that_cannot_be_used():
    image, mask = textured(RAS), RAS.with_data(textured(RAS).data > 500)
    check_mask(mask, image, "fixed_mask")
    with pytest.raises(InputError, match=r"The fixed mask is empty: no voxel is above 0\. Leave it out"):
        check_mask(RAS, image, "fixed_mask")
    with pytest.raises(InputError, match=r"The fixed mask and the image do not share a grid: \(26, 40, 21\) voxels of .* Resample it"):
        check_mask(GRIDS["LAS"], image, "fixed_mask")
    with pytest.raises(InputError, match=r"The moving mask has 1 voxels .* NaN"):
        check_mask(with_values(a=np.nan), image, "moving_mask")


def test_labels_that_cannot_be_used():
    image = textured(RAS)
    check_labels(labeled(RAS), image, "fixed_labels")
    with pytest.raises(InputError, match=r"The fixed labels holds 0\.5, which is not a whole number"):
        check_labels(RAS.with_data(np.full(RAS.shape, 0.5)), image, "fixed_labels")
    with pytest.raises(InputError, match="The fixed labels hold no label: every voxel is 0"):
        check_labels(RAS, image, "fixed_labels")
    with pytest.raises(InputError, match="do not share a grid"):
        check_labels(labeled(GRIDS["LPS"]), image, "fixed_labels")


def test_a_slice_does_not_go_with_a_volume():
    check_pair(RAS, GRIDS["LAS"])
    with pytest.raises(InputError, match=r"The fixed image is 2-D \(44, 38, 1\) and the moving image 3-D \(30, 34, 28\)"):
        check_pair(GRIDS["slice"], RAS)


def test_label_files_hold_whole_numbers(tmp_path):
    labels = labeled(RAS)
    save(labels.as_type(np.float32), tmp_path / "labels.nii.gz")
    assert load(tmp_path / "labels.nii.gz", label=True).data.dtype == np.int32
    assert np.array_equal(load(tmp_path / "labels.nii.gz", label=True).data, labels.data)
    save(textured(RAS), tmp_path / "image.nii.gz")
    with pytest.raises(InputError, match=r"holds .* which is not a whole number, so it is no label image"):
        load(tmp_path / "image.nii.gz", label=True)

"""Image files: pictures, DICOM, what is no image, folders and disks that cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import SimpleITK as sitk
from disk import full_disk
from grids import GRIDS, labeled, textured

from imagingai import formats
from imagingai.errors import InputError, JobFailed
from imagingai.formats import read_any, replacing
from imagingai.transform import Affine
from imagingai.transform_io import save_transform
from imagingai.volume import Volume, from_sitk, load, same_grid, save, to_sitk

RAS = GRIDS["RAS"]


# --- pictures


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_a_gray_picture(suffix, tmp_path):
    picture = Volume.from_array(np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8))
    save(picture, tmp_path / f"a{suffix}")
    again = load(tmp_path / f"a{suffix}")
    assert again.ndim == 2 and again.data.dtype == np.uint8 and np.array_equal(again.data, picture.data)


@pytest.mark.parametrize("count", [3, 4])
def test_a_color_picture_becomes_luminance(count, tmp_path):
    colors = np.random.default_rng(0).integers(0, 255, (30, 20, count)).astype(np.uint8)  # y, x, color
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), tmp_path / "a.png")
    expected = colors[..., 0] * 0.299 + colors[..., 1] * 0.587 + colors[..., 2] * 0.114
    np.testing.assert_allclose(load(tmp_path / "a.png").data[0, :, :, 0].T, expected, atol=0.51)


def test_jpeg_and_mhd_are_read(tmp_path):
    smooth = textured(GRIDS["slice"]).as_type(np.uint16).as_type(np.uint8)
    sitk.WriteImage(to_sitk(smooth)[:, :, 0], tmp_path / "a.jpg", True, 95)
    assert np.abs(load(tmp_path / "a.jpg").data - smooth.data.astype(float)).mean() < 5
    sitk.WriteImage(to_sitk(textured(RAS)), tmp_path / "a.mhd")
    assert same_grid(load(tmp_path / "a.mhd"), RAS)


def test_a_png_of_fractions_is_rounded(tmp_path):
    save(Volume.from_array(np.array([[0.4, 254.6], [3, 7]])), tmp_path / "a.png")
    assert load(tmp_path / "a.png").data.ravel().tolist() == [0, 255, 3, 7]
    save(Volume.from_array(np.array([[0.4, 999.6], [3, 7]])), tmp_path / "b.png")
    assert load(tmp_path / "b.png").data.ravel().tolist() == [0, 1000, 3, 7]


# --- what is no image


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.nii.gz", None, "There is no file .*missing.nii.gz"),
        ("text.nii.gz", b"not an image", "cannot be read as an image. Readable are NIfTI"),
        ("notes.txt", b"not an image", "cannot be read as an image"),
        ("empty.nrrd", b"", "cannot be read as an image"),
    ],
)
def test_not_an_image(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / name)


def test_vectors_and_time_are_refused(tmp_path):
    save(Volume(np.zeros((3, 4, 5, 6), np.float32), np.eye(4)), tmp_path / "vectors.nii.gz")
    with pytest.raises(InputError, match=r"has 3 values per voxel \(float32\)\. Save one of them"):
        load(tmp_path / "vectors.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((7, 4, 5, 6), np.float32), isVector=False), tmp_path / "time.nii.gz")
    with pytest.raises(InputError, match=r"holds 7 images over time .* Save one of them as a 3-D image"):
        load(tmp_path / "time.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 4, 5, 6), np.float32), isVector=False), tmp_path / "one.nii.gz")
    assert load(tmp_path / "one.nii.gz").shape == (6, 5, 4)


def test_a_sheared_image_is_refused(tmp_path):
    import nibabel

    sheared = np.eye(4)
    sheared[0, 2] = 0.4
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), sheared), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"not at right angles \(sheared\).* Resample it onto a straight grid"):
        load(tmp_path / "a.nii.gz")


def test_a_file_beside_it_is_not_read_instead(tmp_path):
    """ITK reads a.nii when it is asked for a.nii.gz and both are there."""
    save(RAS.with_data(np.ones(RAS.shape)), tmp_path / "a.nii.gz")
    save(RAS, tmp_path / "a.nii")
    assert load(tmp_path / "a.nii.gz").data.min() == 1 and load(tmp_path / "a.nii").data.max() == 0


# --- DICOM


def write_series(folder, volume: Volume, number: int = 1, skip: tuple[int, ...] = (), shear: float = 0.0) -> None:
    """A CT series, one file per slice, named so that the order of names is not that of the slices."""
    folder.mkdir(exist_ok=True)
    image, writer = to_sitk(volume), sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        one = image[:, :, k]
        position = np.add(image.TransformIndexToPhysicalPoint((0, 0, k)), (shear * k, 0, 0))
        axes = np.reshape(image.GetDirection(), (3, 3)).T[:2].ravel()
        tags = {
            "0008|0060": "CT",
            "0008|103e": f"head {number}",
            "0010|0010": "Secret^Name",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.1.{number}",
            "0020|0011": str(number),
            "0020|0013": str(k),
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{number}.{k + 1}",
            "0020|0032": "\\".join(f"{x:.8f}" for x in position),
            "0020|0037": "\\".join(f"{x:.8f}" for x in axes),
        }
        for tag, value in tags.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}-{(k * 7) % 97:03d}.dcm"))
        if k not in skip:
            writer.Execute(one)


@pytest.mark.parametrize("name", ["LPS", "oblique"])
def test_a_dicom_folder(name, tmp_path):
    volume = labeled(GRIDS[name])
    if np.linalg.det(volume.direction) < 0:  # DICOM slices are right-handed: turn the order of the slices around
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = volume.shape[2] - 1
        volume = Volume(volume.data[..., ::-1], volume.affine @ flip)
    write_series(tmp_path / "a", volume)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    for folder in (tmp_path / "a", tmp_path):  # also from the folder above
        again = load(folder)
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
        assert np.array_equal(again.data, volume.data)


def test_of_several_series_the_largest_is_used_with_a_warning(tmp_path, caplog):
    write_series(tmp_path, labeled(GRIDS["LPS"]), 1)
    write_series(tmp_path, Volume(labeled(GRIDS["LPS"]).data[..., :3], GRIDS["LPS"].affine), 2)
    assert load(tmp_path).shape == GRIDS["LPS"].shape
    assert "holds 2 series (series 1 head 1: 16 slices; series 2 head 2: 3 slices); the largest is used" in caplog.text
    assert "Secret" not in caplog.text


def test_dicom_folders_that_cannot_be_used(tmp_path):
    volume = labeled(GRIDS["LPS"])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.dcm").write_bytes(b"not DICOM")
    with pytest.raises(InputError, match="holds no readable DICOM images"):
        load(tmp_path / "none")
    for number in (1, 2):
        write_series(tmp_path / "two", volume, number)
    with pytest.raises(InputError, match=r"holds 2 DICOM series \(series 1 head 1: 16 slices; series 2 .* Put the one to use into its own"):
        load(tmp_path / "two")
    write_series(tmp_path / "gap", volume, skip=(7,))
    with pytest.raises(InputError, match=r"slices in .*gap are missing or uneven: their distance is 3 to 6 mm. Open it in 3D Slicer"):
        load(tmp_path / "gap")
    write_series(tmp_path / "tilt", volume, shear=0.5)
    with pytest.raises(InputError, match=r"slices in .*tilt are tilted against each other \(gantry tilt\)"):
        load(tmp_path / "tilt")


# --- writing


def test_formats_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"Cannot write a\.jpg: choose a name that ends with \.nii\.gz"):
        save(RAS, tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"Cannot write a\.png: a 3-D image \(30, 34, 28\) needs \.nii\.gz"):
        save(textured(RAS).as_type(np.uint8), tmp_path / "a.png")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Cannot write into the folder .*file: Not a directory\. Choose a folder that exists"):
        save(RAS, tmp_path / "file" / "a.nii.gz")
    with pytest.raises(InputError, match=r"Cannot write into the folder .*none: No such file or directory\. Choose"):
        save_transform(Affine(np.eye(4)), tmp_path / "none" / "a.h5")

    def denied(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(formats.Path, "touch", denied)  # the tests may run as root, who may write everywhere
    with pytest.raises(InputError, match=r"Permission denied\. Choose a folder"):
        save(RAS, tmp_path / "a.nrrd")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_full_disk_is_noticed_and_leaves_nothing(suffix, tmp_path):
    image = textured(RAS)
    with full_disk(), pytest.raises(JobFailed, match=r"The disk is full: a\..* could not be written, \d+ MB are left\. Free some space"):
        save(image, tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_older_file(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"older")
    with full_disk(), pytest.raises(JobFailed, match="The disk is full"):
        save(textured(RAS), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == b"older"


def test_too_little_space_is_noticed_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "total used free")(10, 9, 1 << 20))
    with (
        pytest.raises(JobFailed, match=r"The disk is full: a\.h5 could not be written, 1 MB are left"),
        replacing(tmp_path / "a.h5", 2 << 20),
    ):
        pytest.fail("should not write")
    assert not list(tmp_path.iterdir())


def test_any_other_failure_to_write_is_passed_on(tmp_path):
    with pytest.raises(JobFailed, match=r"Could not write a\.h5: what ITK says"), replacing(tmp_path / "a.h5"):
        raise RuntimeError("what ITK says")
    with pytest.raises(OSError, match="other"), replacing(tmp_path / "a.h5"):
        raise OSError(errno.EIO, "other")
    assert not list(tmp_path.iterdir())


def test_sitk_there_and_back():
    vectors = Volume(np.random.default_rng(0).normal(size=(3, *RAS.shape)).astype(np.float32), GRIDS["RAS"].affine)
    again = from_sitk(to_sitk(vectors))
    assert same_grid(again, vectors) and np.array_equal(again.data, vectors.data)
    assert from_sitk(to_sitk(RAS.with_data(RAS.data > -1))).data.dtype == np.uint8


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("dtype", "order"), [("f4", "<"), ("f8", "<"), ("f4", ">")])
def test_nan_in_a_nifti_file_is_not_read_as_zero(tmp_path, ending, dtype, order):
    import nibabel as nib

    data = np.ones((4, 5, 6), order + dtype)
    data[1, 2, 3], data[2, 2, 2] = np.nan, np.inf
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(order + dtype))
    nib.save(nib.Nifti1Image(data, np.eye(4), header), tmp_path / f"a{ending}")
    with pytest.raises(InputError, match=r"has 2 voxels that are NaN or infinite\. Replace them"):
        load(tmp_path / f"a{ending}")


@pytest.mark.parametrize("dtype", ["i2", "f4", "u1"])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd"])
def test_half_a_file_is_not_read_as_half_an_image(tmp_path, name, dtype):
    data = np.random.default_rng(0).integers(1, 200, (1, 20, 20, 20)).astype(dtype)
    save(Volume(data, np.eye(4)), tmp_path / name)
    assert np.array_equal(load(tmp_path / name).data, data)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot be read as an image" if name == "a.nrrd" else r"is cut off or damaged: \d+ bytes"):
        load(tmp_path / name)


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(InputError, match=r"a cannot be read: (Is a directory|Permission denied)\."):
        (tmp_path / "a").mkdir()
        read_any(tmp_path / "a")

"""Transform files: what we write others read, what others write we read, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from disk import full_disk
from grids import GRIDS, mild_affine, smooth_field, textured

from imagingai.errors import InputError, JobFailed
from imagingai.transform import Affine, Composite, DisplacementField, apply_to_points, warp
from imagingai.transform_io import from_itk, load_transform, save_transform
from imagingai.volume import LPS, Volume, from_sitk, load, save, to_sitk

OBLIQUE = GRIDS["oblique"]
AFFINE, FIELD = mild_affine(OBLIQUE), smooth_field(OBLIQUE)
POINTS = np.random.default_rng(0).uniform(-15, 15, (100, 3))
FLIP = np.array([-1, -1, 1])


@pytest.mark.parametrize(
    "transform, suffixes",
    [
        (AFFINE, (".h5", ".hdf5", ".tfm", ".txt", ".mat")),
        (FIELD, (".h5", ".tfm", ".nii.gz", ".nii", ".nrrd", ".mha")),
        (Composite((FIELD, AFFINE)), (".h5", ".tfm")),
        (Composite((AFFINE, FIELD, AFFINE)), (".h5",)),
        (smooth_field(GRIDS["slice"]), (".h5", ".nii.gz")),
    ],
)
def test_a_file_keeps_the_mapping(transform, suffixes, tmp_path):
    for suffix in suffixes:
        save_transform(transform, tmp_path / f"t{suffix}")
        again = load_transform(tmp_path / f"t{suffix}")
        assert type(again) is type(transform)
        np.testing.assert_allclose(apply_to_points(again, POINTS), apply_to_points(transform, POINTS), atol=1e-4)
    assert len(list(tmp_path.iterdir())) == len(suffixes)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_sitk_reproduces_moved_from_a_displacement_image(suffix, tmp_path):
    moving = textured(GRIDS["LAS"])
    save_transform(FIELD, tmp_path / f"t{suffix}")
    field = sitk.ReadImage(tmp_path / f"t{suffix}", sitk.sitkVectorFloat64)
    theirs = sitk.Resample(to_sitk(moving), to_sitk(OBLIQUE), sitk.DisplacementFieldTransform(field), sitk.sitkLinear, 0.0)
    found = warp(moving, FIELD, OBLIQUE).data
    np.testing.assert_allclose(found, from_sitk(theirs).data, atol=1e-4 * np.ptp(moving.data))


def test_a_displacement_nifti_says_that_it_holds_vectors(tmp_path):
    import nibabel

    save_transform(FIELD, tmp_path / "t.nii.gz")
    header = nibabel.load(tmp_path / "t.nii.gz").header
    assert int(header["intent_code"]) == 1007 and header.get_data_shape() == (*OBLIQUE.shape, 1, 3)


def test_the_nifti_intent_for_displacements_means_ras(tmp_path):
    """Slicer writes 1006 with RAS vectors, ITK and ANTs 1007 with LPS vectors."""
    save_transform(FIELD, tmp_path / "t.nii")
    header = bytearray((tmp_path / "t.nii").read_bytes())
    header[68:70] = (1006).to_bytes(2, "little")
    (tmp_path / "ras.nii").write_bytes(header)
    np.testing.assert_allclose(load_transform(tmp_path / "ras.nii").data, FIELD.data * FLIP.reshape(3, 1, 1, 1), rtol=1e-6)


@pytest.mark.parametrize(
    "itk",
    [
        sitk.TranslationTransform(3, (1, 2, 3)),
        sitk.Euler3DTransform((1, 2, 3), 0.1, 0.2, 0.3, (4, 5, 6)),
        sitk.VersorRigid3DTransform((0, 0, 1), 0.4, (1, 2, 3), (7, 8, 9)),
        sitk.Similarity3DTransform(1.2, (1, 0, 0), 0.3, (1, 2, 3)),
        sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
        sitk.AffineTransform([1, 0.1, 0, 0, 1.2, 0, 0.2, 0, 1], [1, 2, 3], [9, 8, 7]),
        sitk.Transform(3, sitk.sitkIdentity),
    ],
    ids=lambda itk: itk.GetName(),
)
def test_every_linear_transform_of_itk_is_an_affine(itk, tmp_path):
    sitk.WriteTransform(itk, str(tmp_path / "t.tfm"))
    found = load_transform(tmp_path / "t.tfm")
    assert isinstance(found, Affine)
    expected = np.array([itk.TransformPoint(point.tolist()) for point in POINTS * FLIP]) * FLIP
    np.testing.assert_allclose(apply_to_points(found, POINTS), expected, atol=1e-9)


def test_two_dimensional_transforms_move_within_the_plane():
    turn = sitk.Euler2DTransform((3, 4), 0.3, (5, 6))
    flat = np.array([turn.TransformPoint(point.tolist()) for point in POINTS[:, :2] * FLIP[:2]]) * FLIP[:2]
    np.testing.assert_allclose(apply_to_points(from_itk(turn), POINTS), np.column_stack([flat, POINTS[:, 2]]), atol=1e-9)
    field = sitk.GetImageFromArray(np.ones((20, 30, 2)) * [1.0, 2.0], isVector=True)
    found = from_itk(sitk.DisplacementFieldTransform(field))
    np.testing.assert_allclose(apply_to_points(found, np.array([[-5.0, -5, 0]])), [[-6, -7, 0]])


def test_a_b_spline_becomes_a_field_on_the_fixed_grid(tmp_path):
    moving = textured(GRIDS["RAS"])
    spline = sitk.BSplineTransformInitializer(to_sitk(OBLIQUE), [4, 4, 4])
    spline.SetParameters(np.random.default_rng(0).normal(0, 3, len(spline.GetParameters())).tolist())
    both = sitk.CompositeTransform([sitk.TranslationTransform(3, (1, 2, 3)), spline])
    sitk.WriteTransform(both, str(tmp_path / "t.h5"))
    with pytest.raises(InputError, match=r"t\.h5 holds a BSplineTransform, which needs the 3-D fixed image"):
        load_transform(tmp_path / "t.h5")
    found = load_transform(tmp_path / "t.h5", OBLIQUE)
    assert [type(part) for part in found.parts] == [DisplacementField, Affine]
    expected = from_sitk(sitk.Resample(to_sitk(moving), to_sitk(OBLIQUE), both, sitk.sitkLinear, 0.0)).data
    np.testing.assert_allclose(warp(moving, found, OBLIQUE).data, expected, atol=1e-4 * np.ptp(moving.data))


def test_the_last_in_the_file_is_applied_first(tmp_path):
    """A composite of ITK stretches after it has moved, if the stretching was added first."""
    both = sitk.CompositeTransform([sitk.ScaleTransform(3, (2, 2, 2)), sitk.TranslationTransform(3, (-1, 0, 0))])
    sitk.WriteTransform(both, str(tmp_path / "t.h5"))
    assert apply_to_points(load_transform(tmp_path / "t.h5"), np.array([[1.0, 0, 0]])).round(6).tolist() == [[4, 0, 0]]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.h5", None, r"There is no file .*t\.h5"),
        ("t.h5", b"not a transform", r"cannot be read as a transform\. Readable are ITK transforms"),
        ("t.mat", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "cannot be read as a transform"),  # as FSL writes it
        ("t.txt", b'(Transform "BSplineTransform")', "cannot be read as a transform"),  # as elastix writes it
        ("t.nii.gz", b"not an image", "cannot be read as an image"),
    ],
)
def test_not_a_transform(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_transform(tmp_path / name)


def test_an_image_is_no_displacement(tmp_path):
    save(textured(OBLIQUE), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz is not a transform: it is a 3-D image \(28, 36, 22\) with 1 value"):
        load_transform(tmp_path / "a.nii.gz")


def test_a_broken_field_is_refused(tmp_path):
    data = FIELD.data.copy()
    data[0, 0, 0, 0] = np.nan
    save_transform(DisplacementField(data, FIELD.affine), tmp_path / "t.nrrd")
    with pytest.raises(InputError, match=r"t\.nrrd holds NaN or infinite values"):
        load_transform(tmp_path / "t.nrrd")


def test_a_singular_affine_in_a_file_is_refused(tmp_path):
    (tmp_path / "t.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(InputError, match=r"determinant is 0\.|cannot be read as a transform"):
        load_transform(tmp_path / "t.tfm")


def test_formats_that_cannot_hold_it(tmp_path):
    with pytest.raises(InputError, match=r"t\.mat can hold a linear transform only\. Choose a name that ends with \.h5"):
        save_transform(FIELD, tmp_path / "t.mat")
    with pytest.raises(InputError, match=r"t\.nii\.gz can hold a displacement field only"):
        save_transform(AFFINE, tmp_path / "t.nii.gz")
    with pytest.raises(InputError, match=r"Cannot write t\.xfm: choose a name that ends with \.h5"):
        save_transform(AFFINE, tmp_path / "t.xfm")


def test_a_full_disk_is_noticed(tmp_path):
    for name in ("t.nii.gz", "t.tfm"):
        with full_disk(), pytest.raises(JobFailed, match="The disk is full: t"):
            save_transform(FIELD, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_lps_is_its_own_inverse_and_files_are_lps(tmp_path):
    assert np.array_equal(LPS @ LPS, np.eye(4))
    shift = Volume(np.zeros((1, 4, 4, 4)), np.eye(4))
    save_transform(DisplacementField(np.ones((3, 4, 4, 4)) * np.array([1, 2, 3]).reshape(3, 1, 1, 1), shift.affine), tmp_path / "t.mha")
    assert sitk.ReadImage(tmp_path / "t.mha")[0, 0, 0] == (-1, -2, 3)
    with pytest.raises(InputError, match="has 3 values per voxel"):
        load(tmp_path / "t.mha")

"""Volumes, landmarks and transforms of a scene are written where they are in the world."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from grids import GRIDS, mild_affine, smooth_field, textured
from parents import rigid, sheared

from imagingai.landmarks import load_landmarks
from imagingai.transform import Affine, Composite, Transform, apply_to_points, invert_points, warp
from imagingai.transform_io import load_transform
from imagingai.volume import Volume, load, same_grid
from ImagingAILib import nodes
from ImagingAILib.nodes import NodeError, writeLandmarks, writeTransform, writeVolume


def same_in_world(written: Volume, expected: Volume) -> bool:
    """Equal voxels at equal places; the order of the slices may differ."""
    back = np.linalg.inv(expected.affine) @ written.affine
    steps = np.diag(back[:3, :3])
    if written.shape != expected.shape or not np.allclose(back[:3, :3], np.diag(np.sign(steps)), atol=1e-4):
        return False
    data = written.data[0][tuple(slice(None, None, int(np.sign(step))) for step in steps)]
    origin = back[:3, 3] + np.minimum(steps, 0) * (np.array(written.shape) - 1)
    return bool(np.allclose(origin, 0, atol=1e-3) and np.array_equal(data, expected.data[0]))


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_volume_without_parents_comes_back_voxel_by_voxel(scene, untouched, tmp_path, name, ending):
    image = textured(GRIDS[name])
    node = scene.volume(image)
    untouched()
    writeVolume(node, tmp_path / f"out{ending}")
    assert same_in_world(load(tmp_path / f"out{ending}"), image)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_the_type_of_the_voxels_stays(scene, tmp_path, kind):
    image = textured(GRIDS["oblique"])
    image = image.with_data((image.data / 10).astype(kind))
    writeVolume(scene.volume(image), tmp_path / "out.nrrd")
    written = load(tmp_path / "out.nrrd")
    assert written.data.dtype == kind and same_in_world(written, image)


@pytest.mark.parametrize("name", GRIDS)
def test_rigid_parents_move_the_grid_and_keep_the_voxels(scene, untouched, tmp_path, name):
    image = textured(GRIDS[name])
    node = scene.volume(image)
    scene.transform(rigid(-3, 0, 5), scene.transform(rigid(10, 20, 30), node))
    untouched()
    writeVolume(node, tmp_path / "out.nrrd")
    assert same_in_world(load(tmp_path / "out.nrrd"), Volume(image.data, rigid(-3, 0, 5) @ rigid(10, 20, 30) @ image.affine))


def test_a_parent_that_scales_and_mirrors_along_the_axes_keeps_the_voxels(scene, tmp_path):
    image, scaling = textured(GRIDS["LPS"]), np.diag([-1, 2, 0.5, 1])
    node = scene.volume(image)
    scene.transform(scaling, node)
    writeVolume(node, tmp_path / "out.nrrd")
    assert same_in_world(load(tmp_path / "out.nrrd"), Volume(image.data, scaling @ image.affine))


def looks_right(written: Volume, original: Volume, to_original: Transform) -> None:
    """The written voxels are those of the original at the places that a transform of ours gives, and none is lost."""
    expected = warp(original, to_original, written, fill=np.nan).data
    outside = np.isnan(expected)
    core = np.zeros(original.shape)
    core[tuple(slice(1, -1) if n > 2 else slice(None) for n in original.shape)] = 1  # its edges are a matter of taste
    inside = (warp(original.with_data(core), to_original, written).data > 0.999) & ~outside
    assert inside.sum() > 0.7 * core.sum()
    assert np.abs(written.data - expected)[inside].max() < 1e-3 * np.ptp(original.data)
    assert (written.data[outside] == original.data.min()).mean() > 0.5  # the rest is as dark as air, whatever its value


@pytest.mark.parametrize("name", ["RAS", "LAS", "oblique"])
def test_a_shearing_parent_resamples_onto_a_grid_that_holds_everything(scene, untouched, tmp_path, name):
    image = textured(GRIDS[name])
    node = scene.volume(image)
    scene.transform(sheared(), node)
    untouched()
    writeVolume(node, tmp_path / "out.nrrd")
    looks_right(load(tmp_path / "out.nrrd"), image, Affine(np.linalg.inv(sheared())))


@pytest.mark.parametrize("name", ["RAS", "LAS", "oblique", "slice"])
def test_a_bending_parent_under_a_rigid_one_resamples(scene, untouched, tmp_path, name):
    image, field = textured(GRIDS[name]), smooth_field(GRIDS[name], 1.0, 6.0)
    node = scene.volume(image)
    inner = scene.transform(field, node)
    inner.GetTransformFromParent().SetInterpolationModeToLinear()  # as the library does
    scene.transform(rigid(100, -50, 20), inner)
    untouched()
    writeVolume(node, tmp_path / "out.nrrd")
    written = load(tmp_path / "out.nrrd")
    looks_right(written, image, Composite((Affine(np.linalg.inv(rigid(100, -50, 20))), field)))
    assert written.ndim == image.ndim


def test_an_output_transform_of_an_earlier_run_is_left_out(scene, untouched, tmp_path):
    image = textured(GRIDS["oblique"])
    node = scene.volume(image)
    own = scene.transform(rigid(1, 2, 3), node)
    output = scene.transform(smooth_field(GRIDS["RAS"]), own)
    untouched()
    writeVolume(node, tmp_path / "out.nrrd", without=output)
    assert same_in_world(load(tmp_path / "out.nrrd"), Volume(image.data, rigid(1, 2, 3) @ image.affine))


def test_volumes_that_cannot_be_used_are_refused_in_one_sentence(scene, untouched, tmp_path):
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    colors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 1)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colors.SetAndObserveImageData(image)
    wild = scene.volume(textured(GRIDS["RAS"]), "wild")
    scene.transform(np.array([[9, 5, 0, 0], [0, 9, 4, 0], [3, 0, 9, 0], [0, 0, 0, 1.0]]), wild)
    slicer.mrmlScene.RemoveNode(empty)
    empty = slicer.vtkMRMLScalarVolumeNode()
    empty.SetName("nothing")
    untouched()
    for node, message in ((empty, "nothing is empty"), (colors, "photo has 3 values per voxel"), (wild, "wild enlarge it more than 8")):
        with pytest.raises(NodeError, match=message):
            writeVolume(node, tmp_path / "out.nrrd")
    assert not (tmp_path / "out.nrrd").exists()


def test_a_place_that_cannot_be_written(scene, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NodeError, match=r"Cannot write .*Check that the disk is not full"):
        writeVolume(scene.volume(textured(GRIDS["RAS"])), tmp_path / "file" / "out.nrrd")


@pytest.mark.parametrize("kind", ["vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsCurveNode", "vtkMRMLMarkupsClosedCurveNode"])
def test_landmarks_are_written_in_the_world(scene, untouched, tmp_path, kind):
    points = np.random.default_rng(0).uniform(-10, 10, (5, 3))
    node = scene.markups(points, ["AC", "PC", "left é", "undefined", "PC"], kind)
    node.UnsetNthControlPointPosition(3)
    field = smooth_field(GRIDS["RAS"], 1.0, 6.0)
    scene.transform(rigid(1, 2, 3), scene.transform(field, node))
    untouched()
    writeLandmarks(node, tmp_path / "points.mrk.json")
    found = load_landmarks(tmp_path / "points.mrk.json")
    assert found.names == ("AC", "PC", "left é", "PC")
    expected = apply_to_points(Affine(rigid(1, 2, 3)), invert_points(field, points[[0, 1, 2, 4]]))
    np.testing.assert_allclose(found.points, expected, atol=0.05)


def test_landmarks_without_points_are_refused(scene, tmp_path):
    with pytest.raises(NodeError, match="points has no points"):
        writeLandmarks(scene.markups([]), tmp_path / "points.mrk.json")


POINTS = np.random.default_rng(1).uniform(-12, 12, (50, 3))


@pytest.mark.parametrize("kind", ["affine", "field", "field, affine"])
def test_a_transform_is_written_as_the_library_knows_it(scene, untouched, tmp_path, kind):
    field, affine = smooth_field(GRIDS["oblique"]), mild_affine(GRIDS["oblique"])
    ours = {"affine": affine, "field": field, "field, affine": Composite((field, affine))}[kind]
    node = scene.transform(ours)
    parent = scene.transform(rigid(5, 6, 7), node)
    untouched()
    writeTransform(node, tmp_path / "out.h5")
    # fixed space -> parent -> node -> moving space
    pulled = Composite((Affine(np.linalg.inv(slicer.util.arrayFromTransformMatrix(parent))), ours))
    np.testing.assert_allclose(apply_to_points(load_transform(tmp_path / "out.h5"), POINTS), apply_to_points(pulled, POINTS), atol=1e-4)


def thinPlate(node) -> None:
    random = np.random.default_rng(2)
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in random.uniform(-20, 20, (8, 3)):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point + random.uniform(-2, 2, 3))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node.SetAndObserveTransformToParent(spline)


def test_a_field_on_a_very_large_reference_is_coarser_but_reaches_as_far(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "LARGEST", 5000)
    node = scene.transform(smooth_field(GRIDS["RAS"], 1.0, 6.0))
    node.Inverse()
    writeTransform(node, tmp_path / "out.h5", scene.volume(textured(GRIDS["RAS"])))
    written = load_transform(tmp_path / "out.h5")
    assert 3000 < written.data[0].size <= 6000
    np.testing.assert_allclose(written.volume.center, GRIDS["RAS"].center, atol=1e-4)
    np.testing.assert_allclose(written.affine[:3, 3], GRIDS["RAS"].origin, atol=1e-4)
    np.testing.assert_allclose(
        apply_to_points(written, POINTS), [node.GetTransformFromParent().TransformPoint(p) for p in POINTS], atol=0.3
    )


def test_a_transform_that_itk_lacks_becomes_a_field_on_the_reference(scene, untouched, tmp_path):
    inverse = scene.transform(smooth_field(GRIDS["RAS"], 1.0, 6.0), name="inverse")
    inverse.Inverse()
    plate = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "plate")
    thinPlate(plate)
    reference = scene.volume(textured(GRIDS["RAS"]))
    untouched()
    for node in (inverse, plate):
        with pytest.raises(NodeError, match=f"{node.GetName()} cannot be written without a reference volume"):
            writeTransform(node, tmp_path / "out.h5")
        writeTransform(node, tmp_path / "out.h5", reference)
        expected = [node.GetTransformFromParent().TransformPoint(point) for point in POINTS]
        np.testing.assert_allclose(apply_to_points(load_transform(tmp_path / "out.h5"), POINTS), expected, atol=0.05)
        assert same_grid(load_transform(tmp_path / "out.h5").volume, GRIDS["RAS"])

"""3D Slicer's own classes load our transform files and then show the moving image where we put it."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from grids import GRIDS, mild_affine, smooth_field, textured
from slicer.util import loadMarkups, loadTransform, loadVolume

from imagingai.landmarks import Landmarks, load_landmarks, save_landmarks
from imagingai.transform import Composite, apply_to_points, invert, warp
from imagingai.transform_io import load_transform, save_transform
from imagingai.volume import Volume, save

pytestmark = pytest.mark.usefixtures("scene")


def values_on(grid: Volume, node) -> np.ndarray:
    """The values (X, Y, Z) of a volume node in the order of our grid: Slicer reverses the slices of left-handed grids."""
    matrix = vtk.vtkMatrix4x4()
    node.GetRASToIJKMatrix(matrix)
    to_theirs = slicer.util.arrayFromVTKMatrix(matrix) @ grid.affine
    steps = to_theirs[:3, :3].diagonal().round().astype(int)
    start = np.where(steps < 0, np.array(grid.shape) - 1, 0)
    np.testing.assert_allclose(to_theirs[:3], np.column_stack([np.diag(steps), start]), atol=1e-3)  # the same voxels of the world
    return slicer.util.arrayFromVolume(node).T[tuple(slice(None, None, step) for step in steps)]


PAIRS = [("RAS", "oblique"), ("oblique", "LAS"), ("LPS", "sagittal")]
KINDS = {
    "affine": lambda grid: mild_affine(grid),
    "displacement": lambda grid: smooth_field(grid),
    "displacement, affine": lambda grid: Composite((smooth_field(grid), mild_affine(grid))),
}


@pytest.mark.parametrize("pair", PAIRS, ids=" <- ".join)
def test_slicer_places_volumes_as_we_do(pair, tmp_path):
    for name in pair:
        save(textured(GRIDS[name]), tmp_path / f"{name}.nii.gz")
        node = loadVolume(str(tmp_path / f"{name}.nii.gz"))
        assert np.array_equal(values_on(GRIDS[name], node), textured(GRIDS[name]).data[0])


FILES = [*((kind, suffix) for kind in KINDS for suffix in (".h5", ".tfm")), ("displacement", ".nrrd"), ("displacement", ".nii.gz")]


@pytest.mark.parametrize("kind, suffix", FILES)
@pytest.mark.parametrize("pair", PAIRS, ids=" <- ".join)
def test_slicer_resamples_as_we_do(pair, kind, suffix, tmp_path):
    fixed, moving = textured(GRIDS[pair[0]]), textured(GRIDS[pair[1]], seed=5)
    transform = KINDS[kind](fixed)
    save(fixed, tmp_path / "fixed.nrrd")
    save(moving, tmp_path / "moving.nrrd")
    save_transform(transform, tmp_path / f"transform{suffix}")
    nodes = [loadVolume(str(tmp_path / f"{name}.nrrd")) for name in ("fixed", "moving")]
    node = loadTransform(str(tmp_path / f"transform{suffix}"))
    nodes[1].SetAndObserveTransformNodeID(node.GetID())
    resampled = values_on(fixed, slicer.modules.volumes.logic().ResampleVolumeToReferenceVolume(nodes[1], nodes[0]))
    ours = warp(moving, transform, fixed, fill=np.nan).data[0]
    # Slicer's resampling has its own idea of the outermost half voxel: compare where the eight neighbors exist.
    inside = warp(Volume(np.ones_like(moving.data), moving.affine), transform, fixed, fill=np.nan).data[0] == 1
    inside &= resampled != 0
    assert inside.mean() > 0.3
    worst = np.abs(resampled - ours)[inside].max() / np.ptp(moving.data)
    assert worst < 1e-4 and np.corrcoef(resampled[inside], ours[inside])[0, 1] > 0.999999


@pytest.mark.parametrize("name", ["RAS", "oblique", "slice"])
def test_slicer_moves_points_as_we_do(name, tmp_path):
    grid = GRIDS[name]
    save_transform(smooth_field(grid), tmp_path / "t.h5")
    mapping = loadTransform(str(tmp_path / "t.h5")).GetTransformFromParent()
    index = np.random.default_rng(0).integers(1, np.maximum(np.array(grid.shape) - 1, 2), (50, 3)) * (np.array(grid.shape) > 1)
    points = index @ grid.affine[:3, :3].T + grid.origin
    theirs = np.array([mapping.TransformPoint(*point) for point in points])
    np.testing.assert_allclose(theirs, apply_to_points(smooth_field(grid), points), atol=1e-3)


def test_our_inverse_is_slicers_inverse(tmp_path):
    grid = GRIDS["oblique"]
    field = smooth_field(grid, 1.0, 6.0)
    save_transform(field, tmp_path / "t.h5")
    mapping = loadTransform(str(tmp_path / "t.h5")).GetTransformToParent()
    inverse, _ = invert(field, grid)
    points = np.array([[8, 9, 10], [14, 20, 11], [20, 12, 6]]) @ grid.affine[:3, :3].T + grid.origin
    theirs = np.array([mapping.TransformPoint(*point) for point in points])
    np.testing.assert_allclose(apply_to_points(inverse, points), theirs, atol=0.1)


@pytest.mark.parametrize("suffix", [".h5", ".nrrd"])
def test_we_read_what_slicer_writes(suffix, tmp_path):
    field = smooth_field(GRIDS["oblique"])
    save_transform(field, tmp_path / "ours.h5")
    node = loadTransform(str(tmp_path / "ours.h5"))
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(tmp_path / f"theirs{suffix}"))
    assert storage.WriteData(node)
    points = np.random.default_rng(0).uniform(-12, 12, (50, 3))
    np.testing.assert_allclose(
        apply_to_points(load_transform(tmp_path / f"theirs{suffix}"), points), apply_to_points(field, points), atol=1e-3
    )


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv"])
def test_slicer_and_we_read_each_others_landmarks(suffix, tmp_path):
    ours = Landmarks(("AC", "PC"), np.array([[1.0, 2, 3], [-4, 5.5, 6]]))
    save_landmarks(ours, tmp_path / f"ours{suffix}")
    node = loadMarkups(str(tmp_path / f"ours{suffix}"))
    found = [list(node.GetNthControlPointPosition(k)) for k in range(node.GetNumberOfControlPoints())]
    np.testing.assert_allclose(found, ours.points, atol=1e-6)
    assert [node.GetNthControlPointLabel(k) for k in range(2)] == list(ours.names)
    storage = slicer.vtkMRMLMarkupsJsonStorageNode() if suffix == ".mrk.json" else slicer.vtkMRMLMarkupsFiducialStorageNode()
    storage.SetFileName(str(tmp_path / f"theirs{suffix}"))
    assert storage.WriteData(node)
    again = load_landmarks(tmp_path / f"theirs{suffix}")
    assert again.names == ours.names
    np.testing.assert_allclose(again.points, ours.points, atol=1e-3)

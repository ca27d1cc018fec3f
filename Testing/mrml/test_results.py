"""What a job wrote becomes nodes: the transform, the moved volume and all that moves with it agree."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from grids import GRIDS, labeled, mild_affine, smooth_field, textured
from parents import rigid

from imagingai import job
from imagingai.landmarks import load_landmarks
from imagingai.transform import Composite, apply_to_points, invert_points, warp
from imagingai.transform_io import load_transform, save_transform
from imagingai.volume import Volume, load, save
from ImagingAILib.nodes import moveWith, readTable, readTransform, readVolume, writeLabels, writeLandmarks, writeTransform, writeVolume
from ImagingAILib.world import chainOf, mapPoints, toWorld

KINDS = {
    "affine": lambda grid: mild_affine(grid),
    "field": lambda grid: smooth_field(grid, 1.0, 6.0),
    "field, affine": lambda grid: Composite((smooth_field(grid, 1.0, 6.0), mild_affine(grid))),
}


def resampled(moving, fixed) -> np.ndarray:
    """The moving volume as Slicer shows it on a volume in the world, k, j, i."""
    return slicer.util.arrayFromVolume(slicer.modules.volumes.logic().ResampleVolumeToReferenceVolume(moving, fixed))


def inner(moving: Volume, transform, grid: Volume) -> np.ndarray:
    """Where all eight neighbors in the moving image exist, k, j, i."""
    return warp(Volume(np.ones_like(moving.data), moving.affine), transform, grid, fill=np.nan).data[0].T == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", [("RAS", "oblique"), ("oblique", "LAS"), ("LPS", "sagittal"), ("slice", "slice")], ids=" <- ".join)
def test_the_moving_volume_goes_onto_the_fixed_one(scene, tmp_path, pair, kind):
    fixed, moving = scene.volume(textured(GRIDS[pair[0]]), "fixed"), scene.volume(textured(GRIDS[pair[1]], seed=5), "moving")
    for node, name in ((fixed, "fixed"), (moving, "moving")):
        writeVolume(node, tmp_path / f"{name}.nrrd")
    images = [load(tmp_path / f"{name}.nrrd") for name in ("fixed", "moving")]
    transform = KINDS[kind](images[0])
    save_transform(transform, tmp_path / "transform.h5")
    save(warp(images[1], transform, images[0]), tmp_path / "moved.nii.gz")
    node = readTransform(tmp_path / "transform.h5", "moving to fixed")
    moved = readVolume(tmp_path / "moved.nii.gz", "moved")
    moveWith(moving, node)
    keep = inner(images[1], transform, images[0])
    shown, expected = resampled(moving, fixed), slicer.util.arrayFromVolume(moved)
    assert slicer.util.arrayFromVolume(fixed).shape == expected.shape
    keep &= shown != 0
    assert keep.mean() > 0.3
    assert np.abs(shown - expected)[keep].max() < 1e-4 * np.ptp(images[1].data)


def test_the_class_and_the_name_of_a_transform_node_say_what_it_is(scene, tmp_path):
    kinds = {"affine": "vtkMRMLLinearTransformNode", "field": "vtkMRMLGridTransformNode", "field, affine": "vtkMRMLTransformNode"}
    for kind, name in kinds.items():
        save_transform(KINDS[kind](GRIDS["RAS"]), tmp_path / "t.h5")
        node = readTransform(tmp_path / "t.h5", "CT to MR")
        assert node.GetClassName() == name and node.GetName().startswith("CT to MR") and node.GetStorageNode() is None


POINTS = np.random.default_rng(4).uniform(-14, 14, (200, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_markups_go_where_apply_brings_them(scene, tmp_path, kind):
    transform = KINDS[kind](GRIDS["RAS"])
    save_transform(transform, tmp_path / "t.h5")
    node = scene.markups(POINTS)
    moveWith(node, readTransform(tmp_path / "t.h5", "t"))
    writeLandmarks(node, tmp_path / "moved.mrk.json")
    found = load_landmarks(tmp_path / "moved.mrk.json").points
    np.testing.assert_allclose(found, invert_points(transform, POINTS), atol=0.01)  # the default settings of VTK: 0.03
    np.testing.assert_allclose(apply_to_points(transform, found), POINTS, atol=0.002)


def register(fixed, moving, folder, alignment: str) -> None:
    """Volume nodes to the files of a finished job."""
    folder.mkdir()
    for name, node in (("fixed", fixed), ("moving", moving)):
        writeVolume(node, folder / f"{name}.nrrd")
    config = {"iterations": [20, 10], "outputs": ["moved", "transform"], "alignment": alignment}
    job.Job("register", {name: str(folder / f"{name}.nrrd") for name in ("fixed", "moving")}, config).write(folder)
    job.run(folder)


def two_studies(scene):
    """A textured ball, and the same bent; with labels and points of the second."""
    grid = GRIDS["RAS"]
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in grid.shape], indexing="ij"))
    image = grid.with_data(textured(grid).data * ((place**2).sum(0) < 0.7))
    fixed = scene.volume(image, "study 1")
    moving = scene.volume(warp(image, smooth_field(grid, 1.0, 6.0), grid), "study 2")
    organs = scene.labelMap(grid.with_data((image.data > 500).astype(np.int16)), name="organs of study 2")
    return fixed, moving, organs, scene.markups(POINTS[:20] / 2, name="points of study 2")


@pytest.mark.parametrize("parents", ["none", "fixed", "moving", "both", "bent moving"])
def test_a_registration_with_parent_transforms_from_nodes_to_nodes(scene, tmp_path, parents):
    fixed, moving, organs, points = two_studies(scene)
    below = {"none": (), "fixed": (fixed,), "both": (fixed, moving, organs, points)}.get(parents, (moving, organs, points))
    parent = scene.transform(smooth_field(GRIDS["RAS"], 0.5, 6.0, seed=9) if parents == "bent moving" else rigid(3, -2, 1), *below)
    before = set(slicer.util.getNodes())
    register(fixed, moving, tmp_path / "job", "none" if parents in ("none", "both") else "rigid")
    transform = readTransform(tmp_path / "job" / "transform.h5", "2 to 1")
    moved = readVolume(tmp_path / "job" / "moved.nii.gz", "2 on 1")
    for node in (moving, organs, points):
        moveWith(node, transform)
    new = [slicer.util.getNode(name) for name in set(slicer.util.getNodes()) - before]
    shows = [node for node in new if not node.IsA("vtkMRMLDisplayNode")]
    assert {node.GetName() for node in shows} == {"2 to 1", "2 on 1", *(["transform - 2 to 1"] if moving in below else [])}

    volume, pull = load(tmp_path / "job" / "moving.nrrd"), load_transform(tmp_path / "job" / "transform.h5")
    grid = load(tmp_path / "job" / "moved.nii.gz")
    shown, expected = resampled(moving, moved), slicer.util.arrayFromVolume(moved)
    assert np.corrcoef(expected.ravel(), slicer.util.arrayFromVolume(fixed).ravel())[0, 1] > 0.9
    keep = inner(volume, pull, grid) & (shown != 0)
    if parents == "bent moving":  # it was resampled to be written, and so was interpolated twice
        assert np.corrcoef(shown[keep], expected[keep])[0, 1] > 0.98
    else:
        assert np.abs(shown - expected)[keep].max() < 1e-4 * np.ptp(expected)
    if moving in below:  # the parent is kept, and what uses it elsewhere is not touched
        assert all(chainOf(node) == [slicer.util.getNode("transform - 2 to 1"), transform] for node in (moving, organs, points))
        assert chainOf(parent) == [] and chainOf(fixed) == ([parent] if parents == "both" else [])


def test_labels_move_with_the_image(scene, tmp_path):
    fixed, moving, organs, _points = two_studies(scene)
    register(fixed, moving, tmp_path / "job", "none")
    writeLabels([organs], [moving], [tmp_path / "organs.nrrd"])
    moveWith(organs, readTransform(tmp_path / "job" / "transform.h5", "2 to 1"))
    writeLabels([organs], [fixed], [tmp_path / "shown.nrrd"])
    pull, grid = load_transform(tmp_path / "job" / "transform.h5"), load(tmp_path / "job" / "moved.nii.gz")
    expected = warp(load(tmp_path / "organs.nrrd"), pull, grid, interpolation="nearest").data
    shown = load(tmp_path / "shown.nrrd").data
    assert (shown == expected).mean() > 0.999 and 0.05 < (expected > 0).mean() < 0.5


def test_a_second_run_starts_from_the_original_place(scene, tmp_path):
    fixed, moving = scene.volume(textured(GRIDS["RAS"])), scene.volume(textured(GRIDS["oblique"]))
    parent = scene.transform(rigid(1, 2, 3), moving)
    save_transform(smooth_field(GRIDS["RAS"], 1.0, 6.0), tmp_path / "t.h5")
    transform = readTransform(tmp_path / "t.h5", "t")
    moveWith(moving, transform)
    writeVolume(moving, tmp_path / "again.nrrd", without=transform)
    moving.SetAndObserveTransformNodeID(parent.GetID())
    writeVolume(moving, tmp_path / "first.nrrd")
    first, again = load(tmp_path / "first.nrrd"), load(tmp_path / "again.nrrd")
    assert np.array_equal(first.data, again.data) and np.allclose(first.affine, again.affine)

    moveWith(moving, transform)
    count = slicer.mrmlScene.GetNumberOfNodes()
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(rigid(4, 5, 6)))
    organs = scene.labelMap(labeled(GRIDS["oblique"]))
    organs.SetAndObserveTransformNodeID(parent.GetID())
    moveWith(organs, transform)
    copy = chainOf(organs)[0]
    np.testing.assert_allclose(slicer.util.arrayFromTransformMatrix(copy), rigid(4, 5, 6))
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode")].count(copy.GetName()) == 1
    moveWith(moving, transform)
    assert chainOf(moving)[-1] is transform and chainOf(fixed) == []
    assert slicer.mrmlScene.GetNumberOfNodes() - count <= 4  # the label map, its display and storage, nothing of ours


def test_nested_parents_are_copied_in_their_order(scene, tmp_path):
    node = scene.markups(POINTS)
    scene.transform(rigid(7, 8, 9), scene.transform(smooth_field(GRIDS["RAS"], 1.0, 6.0), node, name="inner"), name="outer")
    before = mapPoints(toWorld(node), POINTS)
    save_transform(mild_affine(GRIDS["RAS"]), tmp_path / "t.h5")
    transform = readTransform(tmp_path / "t.h5", "t")
    moveWith(node, transform)
    assert [item.GetName() for item in chainOf(node)] == ["inner - t", "outer - t", "t"]
    np.testing.assert_allclose(mapPoints(toWorld(node), POINTS), invert_points(mild_affine(GRIDS["RAS"]), before), atol=1e-3)


def test_results_update_the_nodes_that_are_given_and_keep_their_looks(scene, tmp_path):
    save(textured(GRIDS["oblique"]), tmp_path / "a.nii.gz")
    save(textured(GRIDS["LAS"]), tmp_path / "b.nii.gz")
    node = readVolume(tmp_path / "a.nii.gz", "moved")
    node.SetName("mine")
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(123, 45)
    scene.transform(rigid(1, 2, 3), node)
    count = slicer.mrmlScene.GetNumberOfNodes()
    assert readVolume(tmp_path / "b.nii.gz", "moved", node) is node
    assert node.GetName() == "mine" and node.GetDisplayNode() is display and (display.GetWindow(), display.GetLevel()) == (123, 45)
    assert node.GetParentTransformNode() is None, "results are in the world"
    writeVolume(node, tmp_path / "back.nrrd")
    assert np.isclose(load(tmp_path / "back.nrrd").data.sum(), textured(GRIDS["LAS"]).data.sum())
    save_transform(mild_affine(GRIDS["RAS"]), tmp_path / "t.h5")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "my transform")
    assert readTransform(tmp_path / "t.h5", "t", transform) is transform and transform.GetName() == "my transform"
    assert slicer.mrmlScene.GetNumberOfNodes() == count + 1


def test_a_label_map_has_a_color_table_with_its_names(scene, tmp_path):
    save(labeled(GRIDS["oblique"]), tmp_path / "labels.nii.gz")
    node = readVolume(tmp_path / "labels.nii.gz", "moved labels", labels=True, colors={1: "Liver", 3: "Tumor é", 4: "Bone"})
    colors = node.GetDisplayNode().GetColorNode()
    assert node.IsA("vtkMRMLLabelMapVolumeNode") and colors.GetName() == "moved labels names"
    assert [colors.GetColorName(value) for value in (1, 3, 4)] == ["Liver", "Tumor é", "Bone"]
    names = writeLabels([node], [node], [tmp_path / "again.nrrd"])
    assert names == {1: "Liver", 2: "2", 3: "Tumor é", 4: "Bone"}
    readVolume(tmp_path / "labels.nii.gz", "moved labels", node, labels=True, colors={1: "Spleen"})
    assert node.GetDisplayNode().GetColorNode() is colors and colors.GetColorName(1) == "Spleen"


def test_a_table_keeps_numbers_and_texts_apart(scene):
    rows = [["Liver", 0.5, 3], ["Bone", None, 4]]
    node = readTable(rows, ["Label", "Dice", "Value"], "Registration result")
    table = node.GetTable()
    assert node.GetName() == "Registration result" and [table.GetColumnName(k) for k in range(3)] == ["Label", "Dice", "Value"]
    assert [table.GetColumn(0).GetValue(k) for k in range(2)] == ["Liver", "Bone"]
    assert table.GetColumn(1).GetValue(0) == 0.5 and np.isnan(table.GetColumn(1).GetValue(1)) and table.GetColumn(2).GetValue(1) == 4
    assert readTable([], ["Only"], "other", node) is node and node.GetTable().GetNumberOfColumns() == 1


def test_two_studies_with_the_same_names(scene, untouched, tmp_path):
    volumes = [scene.volume(textured(GRIDS[name], seed), "CT") for seed, name in enumerate(("RAS", "RAS", "oblique"))]
    untouched()
    for number, node in enumerate(volumes):
        writeVolume(node, tmp_path / f"{number}.nrrd")
    sums = [load(tmp_path / f"{number}.nrrd").data.sum() for number in range(3)]
    assert np.allclose(sums, [textured(GRIDS[name], seed).data.sum() for seed, name in enumerate(("RAS", "RAS", "oblique"))])


def test_results_survive_a_saved_scene(scene, tmp_path):
    save(textured(GRIDS["oblique"]), tmp_path / "moved.nii.gz")
    save(labeled(GRIDS["oblique"]), tmp_path / "labels.nii.gz")
    save_transform(KINDS["field, affine"](GRIDS["RAS"]), tmp_path / "t.h5")
    transform = readTransform(tmp_path / "t.h5", "study 2 to 1")
    readVolume(tmp_path / "moved.nii.gz", "moved")
    readVolume(tmp_path / "labels.nii.gz", "organs", labels=True, colors={1: "Liver", 2: "Bone"})
    points = scene.markups(POINTS, name="points")
    scene.transform(rigid(1, 2, 3), points, name="own")
    moveWith(points, transform)
    readTable([["Dice", 0.9]], ["Metric", "Value"], "result")
    places = mapPoints(toWorld(points), POINTS)
    for file in ("moved.nii.gz", "labels.nii.gz", "t.h5"):
        (tmp_path / file).unlink()  # the job folder is not needed any more
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    writeVolume(slicer.util.getNode("moved"), tmp_path / "back.nrrd")
    assert np.isclose(load(tmp_path / "back.nrrd").data.sum(), textured(GRIDS["oblique"]).data.sum())
    assert slicer.util.getNode("organs").GetDisplayNode().GetColorNode().GetColorName(2) == "Bone"
    points = slicer.util.getNode("points")
    assert [node.GetName() for node in chainOf(points)] == ["own - study 2 to 1", "study 2 to 1"]
    np.testing.assert_allclose(mapPoints(toWorld(points), POINTS), places, atol=0.05)  # Slicer reads fields as cubic splines
    writeTransform(slicer.util.getNode("study 2 to 1"), tmp_path / "t.h5")
    expected = apply_to_points(KINDS["field, affine"](GRIDS["RAS"]), POINTS)
    np.testing.assert_allclose(apply_to_points(load_transform(tmp_path / "t.h5"), POINTS), expected, atol=1e-3)
    assert slicer.util.getNode("result").GetTable().GetColumn(1).GetValue(0) in (0.9, "0.9")

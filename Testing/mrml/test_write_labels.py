"""Label maps and segmentations become label files on the grid of their image; equal names get equal values."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import slicer
import vtk
from grids import GRIDS, labeled, smooth_field, textured
from parents import rigid, sheared

from imagingai.datasets import read_label_names
from imagingai.transform import Affine, warp
from imagingai.volume import check_labels, load, resample_like
from ImagingAILib.nodes import NodeError, writeLabels, writeVolume


def masks(node) -> dict[str, np.ndarray]:
    """Three slabs that do not touch, k, j, i."""
    shape = slicer.util.arrayFromVolume(node).shape
    found = {}
    for number, name in enumerate(("Liver", "Tumor é", "Bone")):
        found[name] = np.zeros(shape, bool)
        found[name][:, 3 + 9 * number : 9 + 9 * number, 4:-5] = True
    return found


def write(tmp_path, nodes, references, **options):
    """The names, and the label files as volumes."""
    paths = [tmp_path / f"labels{number}.nrrd" for number in range(len(nodes))]
    names = writeLabels(nodes, references, paths, **options)
    for path, reference in zip(paths, references, strict=True):
        writeVolume(reference, tmp_path / "image.nrrd", **options)
        check_labels(load(path, label=True), load(tmp_path / "image.nrrd"), "labels")  # what the library asks for
        assert read_label_names(path) == names
    return names, [load(path, label=True) for path in paths]


def voxels(volume, value):
    """A label as k, j, i, as Slicer has it."""
    return value == volume.data[0].T


@pytest.mark.parametrize("name", ["RAS", "LAS", "LPS", "oblique", "slice"])
def test_a_segmentation_on_its_own_image(scene, untouched, tmp_path, name):
    reference = scene.volume(textured(GRIDS[name]))
    inside = masks(reference)
    node = scene.segmentation(reference, inside)
    untouched()
    names, (labels,) = write(tmp_path, [node], [reference])
    assert names == {1: "Liver", 2: "Tumor é", 3: "Bone"}
    for value, segment in names.items():
        assert np.array_equal(voxels(labels, value), inside[segment])
    assert labels.data.dtype == np.int16


@pytest.mark.parametrize("parents", ["image", "segmentation", "both", "bent"])
def test_parents_of_image_and_segmentation(scene, untouched, tmp_path, parents):
    grid = GRIDS["oblique"]
    reference = scene.volume(textured(grid))
    inside = masks(reference)
    writeVolume(reference, tmp_path / "plain.nrrd")
    node = scene.segmentation(reference, inside)
    shared = [item for item, moved in ((reference, parents != "segmentation"), (node, parents != "image")) if moved]
    parent = scene.transform(smooth_field(grid, 1.0, 6.0) if parents == "bent" else rigid(2, -1, 1), *shared)
    if parents == "bent":
        parent.GetTransformFromParent().SetInterpolationModeToLinear()  # as the library does
    untouched()
    names, (labels,) = write(tmp_path, [node], [reference])
    if parents == "both":
        assert all(np.array_equal(voxels(labels, value), inside[segment]) for value, segment in names.items())
        return
    # independently: the labels as an image of their own, moved by the library
    own = load(tmp_path / "plain.nrrd").with_data(sum(value * inside[segment].T for value, segment in names.items()).astype(np.int16))
    back = {"image": Affine(np.eye(4)), "segmentation": Affine(np.linalg.inv(rigid(2, -1, 1))), "bent": smooth_field(grid, 1.0, 6.0)}
    expected = warp(own, back[parents], labels, interpolation="nearest")
    known = resample_like(own.with_data(np.ones(own.shape)), labels).data > 0.999  # Slicer continues a field beyond its grid
    assert (expected.data == labels.data)[known].mean() > 0.998 and (labels.data > 0)[known].mean() > 0.1


def test_surfaces_are_drawn_on_the_grid_of_the_image(scene, untouched, tmp_path):
    reference = scene.volume(textured(GRIDS["oblique"]))
    scene.transform(rigid(4, 5, 6), reference)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    center = (rigid(4, 5, 6) @ [*GRIDS["oblique"].center, 1])[:3]
    node.SetSourceRepresentationToClosedSurface()
    middles = {"Left": center - 9 * np.eye(3)[1], "Right": center + 9 * np.eye(3)[1]}
    for name, middle in middles.items():
        sphere = vtk.vtkSphereSource()
        sphere.SetCenter(middle)
        sphere.SetRadius(6)
        sphere.SetThetaResolution(60)
        sphere.SetPhiResolution(60)
        sphere.Update()
        node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), name, (1, 0, 0))
    untouched()
    names, (labels,) = write(tmp_path, [node], [reference])
    volume = abs(np.linalg.det(labels.affine[:3, :3]))
    for value, name in names.items():
        index = np.argwhere(labels.data[0] == value)
        np.testing.assert_allclose(len(index) * volume, 4 / 3 * np.pi * 6**3, rtol=0.05)
        np.testing.assert_allclose(labels.affine[:3, :3] @ index.mean(0) + labels.origin, middles[name], atol=0.3)
    assert not node.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_equal_names_get_equal_values_in_all_files(scene, untouched, tmp_path):
    fixed, moving = scene.volume(textured(GRIDS["RAS"]), "CT"), scene.volume(textured(GRIDS["oblique"]), "CT")
    parts = masks(fixed)
    first = scene.segmentation(fixed, {"Bone": parts["Bone"], "Liver": parts["Liver"]})
    second = labeled(GRIDS["oblique"])
    second = second.with_data(np.array([0, 7, 8, 9, 4])[second.data].astype(np.int16))
    node = scene.labelMap(second, {7: "Liver", 8: "Spleen", 9: "Bone", 4: "Tumor"})
    untouched()
    names, (a, b) = write(tmp_path, [first, node], [fixed, moving])
    assert names == {1: "Bone", 2: "Liver", 8: "Spleen", 4: "Tumor"}
    assert np.array_equal(voxels(a, 1), parts["Bone"])
    for own, value in ((7, 2), (8, 8), (9, 1), (4, 4)):
        assert (b.data == value).sum() == (second.data == own).sum() > 0


def test_values_of_label_maps_without_names_stay(scene, tmp_path):
    references = [scene.volume(textured(GRIDS[name])) for name in ("RAS", "LAS")]
    first = scene.labelMap(labeled(GRIDS["RAS"]))
    second = scene.labelMap(labeled(GRIDS["LAS"]), {1: "Liver", 3: "Bone", 5: "absent"})
    names, (a, b) = write(tmp_path, [first, second], references)
    assert names == {1: "Liver", 2: "2", 3: "Bone", 4: "4"}
    assert np.bincount(a.data.ravel()).tolist() == np.bincount(labeled(GRIDS["RAS"]).data.ravel()).tolist()
    assert np.bincount(b.data.ravel()).tolist() == np.bincount(labeled(GRIDS["LAS"]).data.ravel()).tolist()


def test_a_label_map_on_another_grid_is_brought_to_that_of_the_image(scene, untouched, tmp_path):
    reference = scene.volume(textured(GRIDS["RAS"]))
    node = scene.labelMap(labeled(GRIDS["oblique"]))
    scene.transform(sheared(), node)
    untouched()
    _names, (labels,) = write(tmp_path, [node], [reference])
    expected = warp(labeled(GRIDS["oblique"]), Affine(np.linalg.inv(sheared())), labels, interpolation="nearest")
    assert (expected.data == labels.data).mean() > 0.98  # at the outer half voxel opinions differ


def test_an_output_transform_of_an_earlier_run_is_left_out(scene, tmp_path):
    reference = scene.volume(textured(GRIDS["RAS"]))
    inside = masks(reference)
    node = scene.segmentation(reference, inside)
    output = scene.transform(rigid(30, 20, 10), node)
    _names, (labels,) = write(tmp_path, [node], [reference], without=output)
    assert np.array_equal(voxels(labels, 1), inside["Liver"])


def test_overlapping_segments_are_refused_by_name(scene, untouched, tmp_path):
    reference = scene.volume(textured(GRIDS["RAS"]))
    inside = masks(reference)
    inside["Lesion"] = np.roll(inside["Liver"], 3, axis=1)
    node = scene.segmentation(reference, inside, "organs")
    untouched()
    with pytest.raises(NodeError, match=r"The segments Liver and Lesion of organs overlap\. Use one of them only, or remove the overlap"):
        writeLabels([node], [reference], [tmp_path / "labels.nrrd"])
    assert not list(tmp_path.glob("labels*"))


def test_segments_that_only_touch_are_not_refused(scene, tmp_path):
    reference = scene.volume(textured(GRIDS["RAS"]))
    inside = masks(reference)
    voxel = tuple(np.argwhere(inside["Liver"])[0])
    inside["Bone"][voxel] = True
    names, (labels,) = write(tmp_path, [scene.segmentation(reference, inside)], [reference])
    assert names[labels.data[0].T[voxel]] == "Liver"


def test_what_holds_no_labels_is_refused(scene, tmp_path):
    reference = scene.volume(textured(GRIDS["RAS"]))
    away = scene.segmentation(reference, masks(reference), "far away")
    scene.transform(rigid(500, 0, 0), away)
    twice = scene.segmentation(reference, masks(reference), "twice")
    twice.GetSegmentation().GetNthSegment(2).SetName("Liver")
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "nothing")
    for node, message in (
        (empty, "nothing is empty"),
        (scene.segmentation(reference, {}, "no segments"), "no segments has no label inside the image"),
        (scene.segmentation(reference, {"a": np.zeros_like(masks(reference)["Bone"])}, "blank"), "blank has no label inside"),
        (away, "far away has no label inside the image. Check that it belongs"),
        (scene.labelMap(labeled(GRIDS["RAS"]).with_data(np.zeros(GRIDS["RAS"].shape, np.int16)), name="zeros"), "zeros has no label"),
        (scene.volume(textured(GRIDS["RAS"]), "gray"), "gray has values that are not whole numbers"),
        (twice, "twice has two segments named Liver"),
    ):
        with pytest.raises(NodeError, match=message):
            writeLabels([node], [reference], [tmp_path / "labels.nrrd"])


def test_the_names_are_written_as_a_table_beside_the_labels(scene, tmp_path):
    reference = scene.volume(textured(GRIDS["RAS"]))
    writeLabels([scene.segmentation(reference, masks(reference))], [reference], [tmp_path / "my labels.nii.gz"])
    with (tmp_path / "my labels.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["value", "name"], ["1", "Liver"], ["2", "Tumor é"], ["3", "Bone"]]

"""Results of the segmentation tasks become nodes that lie right, have names, units and colors, and go away without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import fake_jobs
import numpy as np
import pytest
import slicer
from grids import GRIDS
from parents import rigid

from imagingai.datasets import find_cases, read_label_names
from imagingai.volume import Volume, load, save
from ImagingAILib import curves, segmentation
from ImagingAILib.case import CORRECTED, Case
from ImagingAILib.nodes import NodeError


def ball(name: str) -> Volume:
    """A ball in the middle of a grid, bright with some noise."""
    grid = GRIDS[name]
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    middle, size = (np.array(grid.shape) - 1) / 2, max(grid.shape)
    inside = np.linalg.norm(index - middle, axis=-1) < size / 3
    noise = np.random.default_rng(0).normal(0, 1, grid.shape)
    return Volume((100 * inside + noise)[None].astype("f4"), grid.affine)


@pytest.fixture
def case(scene, tmp_path) -> Case:
    image = scene.volume(ball("oblique"), "MR")
    fake_jobs.writeResult(tmp_path / "result", ball("oblique"))
    return Case(tmp_path / "result", image)


def voxels(path) -> np.ndarray:
    """A file as Slicer has it, k j i."""
    return load(path).data[0].T


@pytest.mark.parametrize("name", ["RAS", "LAS", "LPS", "oblique", "slice"])
def test_segmentation_maps_and_samples_lie_where_the_image_is(scene, tmp_path, name):
    image = scene.volume(ball(name), "MR")
    fake_jobs.writeResult(tmp_path, ball(name))
    case = Case(tmp_path, image)
    labels = voxels(tmp_path / "segmentation.nii.gz")
    segments = case.segmentation.GetSegmentation()
    for value, structure in case.names.items():
        number = segments.GetSegmentIdBySegmentName(structure)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(case.segmentation, number, image)
        assert np.array_equal(array > 0, labels == value)
    for key in case.kinds():
        node = case.map(key)
        assert np.array_equal(slicer.util.arrayFromVolume(node), voxels(tmp_path / f"{key}.nii.gz"))
        assert np.allclose(ijkToRas(node), ijkToRas(image), atol=1e-4)
    for number in (3, 1, 4):
        assert np.array_equal(slicer.util.arrayFromVolume(case.sample(number)), voxels(tmp_path / f"sample_{number:02d}.nii.gz"))


def ijkToRas(node) -> np.ndarray:
    matrix = slicer.vtkMRMLScalarVolumeNode.GetIJKToRASMatrix
    found = slicer.util.vtkMatrixFromArray(np.eye(4))
    matrix(node, found)
    return slicer.util.arrayFromVTKMatrix(found)


def test_an_image_under_a_transform_is_segmented_where_it_is_in_the_world(scene, tmp_path):
    image = scene.volume(ball("RAS"), "MR")
    scene.transform(rigid(20, -10, 5), image)
    run = segmentation.SegmentationRun({"image": image}, {}, {}, tmp_path)
    written = load(run.writeInputs()["image"])
    fake_jobs.writeResult(tmp_path, written)
    case = Case(tmp_path, image)
    segment = case.segmentation.GetSegmentation().GetNthSegmentID(1)
    inside = slicer.util.arrayFromSegmentBinaryLabelmap(case.segmentation, segment, image) > 0
    assert inside.any() and slicer.util.arrayFromVolume(image)[inside].min() > 50, "the core lies in the ball"


@pytest.mark.parametrize(
    ("key", "unit", "legend"),
    [
        ("entropy", "bit", "Entropy (bit)"),
        ("border_band", "mm", "Border band (mm)"),
        ("probability_left_ball", "1", "Probability of Left ball"),
    ],
)
def test_maps_have_unit_window_and_legend(case, key, unit, legend):
    node = case.map(key)
    assert node.GetVoxelValueUnits().GetCodeValue() == unit and case.legend(key) == legend
    display = node.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    assert low == 0 and high == pytest.approx(3.0 if key == "border_band" else 1.0)
    assert case.map(key) is node, "read once"


def test_names_and_colors_of_the_structures(case):
    segments = case.segmentation.GetSegmentation()
    assert [segments.GetNthSegment(k).GetName() for k in range(2)] == ["Left ball", "Core"]
    assert segments.GetNthSegment(0).GetColor() != segments.GetNthSegment(1).GetColor()
    assert case.sample(1).GetDisplayNode().GetColorNode().GetColorName(2) == "Core"
    rows = [[case.table.GetCellText(row, column) for column in range(4)] for row in range(2)]
    assert rows[1][0] == "Core" and rows[1][3] == "0.71 (0.65–0.75)"
    volume = case.result["volumes"]["Core"]
    assert rows[1][1].startswith(f"{volume['ml']:.2f}"[:3])


def everything() -> set[str]:
    return {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}


def test_removing_a_result_takes_what_it_made_and_nothing_else(scene, tmp_path):
    image = scene.volume(ball("RAS"), "MR")
    fake_jobs.writeResult(tmp_path, ball("RAS"))
    first = Case(tmp_path, image)
    first.map("entropy")  # with its colors, which all cases share
    before = everything()
    second = Case(tmp_path, image)
    second.sample(2), second.map("entropy")
    assert second.segmentation.GetName() != first.segmentation.GetName()
    second.remove()
    assert everything() == before
    second.remove()
    first.remove()
    assert image.GetScene() and first.segmentation.GetScene() is None


def test_a_result_that_is_loaded_finds_its_image(scene, tmp_path):
    node = scene.volume(ball("RAS"), "MR")
    path = tmp_path / "scan.nrrd"
    slicer.util.saveNode(node, str(path))
    fake_jobs.writeResult(tmp_path / "a", ball("RAS"), imageFile=path)
    case = Case(tmp_path / "a")
    assert case.name == "a" and np.array_equal(slicer.util.arrayFromVolume(case.image), slicer.util.arrayFromVolume(node))
    path.unlink()
    assert Case(tmp_path / "a").image is None


@pytest.mark.parametrize(("content", "reason"), [({"state": "failed", "error": "No memory."}, "No memory."), (None, "it is not finished")])
def test_a_folder_without_a_result(scene, tmp_path, content, reason):
    if content:
        (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(NodeError, match=reason):
        Case(tmp_path)


def test_a_result_whose_files_are_gone_leaves_no_nodes(scene, tmp_path):
    node = scene.volume(ball("RAS"), "MR")
    slicer.util.saveNode(node, str(tmp_path / "scan.nrrd"))
    fake_jobs.writeResult(tmp_path / "a", ball("RAS"), imageFile=tmp_path / "scan.nrrd")
    (tmp_path / "a" / "segmentation.nii.gz").unlink()
    before = everything()
    with pytest.raises(NodeError, match="Cannot read the result"):
        Case(tmp_path / "a")
    assert everything() == before


def test_the_most_uncertain_places_lie_apart(case):
    places = case.places()
    assert 1 < len(places) <= 5
    assert [entropy for _point, entropy in places] == sorted((entropy for _point, entropy in places), reverse=True)
    points = np.array([point for point, _entropy in places])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert distance[~np.eye(len(points), dtype=bool)].min() >= 10


def test_only_a_segmentation_that_was_changed_is_written(case):
    assert case.saveCorrection() is None
    segment = case.segmentation.GetSegmentation().AddEmptySegment("cyst", "Cyst")
    mask = np.zeros_like(slicer.util.arrayFromVolume(case.image), np.uint8)
    mask[0, :3, :3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, case.segmentation, segment, case.image)
    path = case.saveCorrection()
    assert path == case.folder / CORRECTED and read_label_names(path) == {1: "Left ball", 2: "Core", 3: "Cyst"}
    expected = np.where(mask, 3, voxels(case.folder / "segmentation.nii.gz"))
    assert np.array_equal(voxels(path), expected)


def test_a_segmentation_in_which_nothing_was_found(scene, tmp_path):
    volume = ball("RAS")
    image = scene.volume(volume, "MR")
    fake_jobs.writeResult(tmp_path, volume)
    save(volume.with_data(np.zeros_like(volume.data, np.int16)), tmp_path / "segmentation.nii.gz")
    case = Case(tmp_path, image)
    assert case.saveCorrection() is None and case.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    case.remove()


def test_samples_are_saved_with_the_scene(case, tmp_path):
    before = [slicer.util.arrayFromVolume(case.sample(number)).copy() for number in (1, 3)]
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    sequence = slicer.util.getNode("MR samples")
    after = [slicer.util.arrayFromVolume(sequence.GetNthDataNode(number)) for number in (0, 2)]
    assert all(map(np.array_equal, before, after))


# --- inputs


def test_labels_to_compare_with_lie_on_the_grid_of_the_image(scene, tmp_path):
    image = scene.volume(ball("oblique"), "MR")
    inside = slicer.util.arrayFromVolume(image) > 50
    labels = scene.segmentation(image, {"Core": inside})
    where = segmentation.SegmentationRun({"image": image, "labels": labels}, {}, {}, tmp_path).writeInputs()
    assert np.array_equal(voxels(where["labels"]), inside) and read_label_names(tmp_path / "labels.nrrd") == {1: "Core"}


def drawn(scene, names: dict[str, list[tuple[str, str]]]) -> list[tuple]:
    """Pairs of image -> (reader, structure)."""
    for image, readers in names.items():
        node = scene.volume(ball("RAS"), image)
        for reader, structure in readers:
            labels = scene.segmentation(node, {structure: slicer.util.arrayFromVolume(node) > 50}, f"{image} {reader}")
            segmentation.addPair(node, labels, reader)
    return segmentation.pairsOfScene()


@pytest.mark.parametrize("readers", [("",), ("Ann", "Bob")])
def test_pairs_of_the_scene_are_folders_that_training_reads(scene, tmp_path, readers):
    pairs = drawn(scene, {name: [(reader, "Liver") for reader in readers] for name in ("scan_0001", "scan 2/3", "scan 2-3")})
    inputs = segmentation.writePairs(pairs, tmp_path)
    cases = find_cases(Path(inputs["images"]), Path(inputs["labels"]))
    assert sorted(case.name for case in cases) == ["scan-2-3", "scan-2-3-2", "scan_0001"]
    assert all(set(case.labels) == set(readers) and len(case.images) == 1 for case in cases)


def test_equal_names_have_equal_values_in_all_labels(scene, tmp_path):
    pairs = drawn(scene, {"a": [("", "Liver")], "b": [("", "Spleen")], "c": [("", "Liver")]})
    segmentation.writePairs(pairs, tmp_path)
    folder = tmp_path / segmentation.FROM_SCENE / "labels"
    assert [int(load(folder / f"{name}.nrrd").data.max()) for name in "abc"] == [1, 2, 1]
    assert read_label_names(folder / "b.nrrd") == {1: "Liver", 2: "Spleen"}


def test_only_what_is_ours_is_replaced(scene, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.nii.gz").write_bytes(b"precious")
    pairs = drawn(scene, {"a": [("", "Liver")], "b": [("", "Liver")]})
    segmentation.writePairs(pairs, tmp_path)
    segmentation.removePair(pairs[0][1])
    segmentation.writePairs(segmentation.pairsOfScene(), tmp_path)
    assert [path.name for path in (tmp_path / segmentation.FROM_SCENE / "images").iterdir()] == ["b_0000.nrrd"]
    assert (tmp_path / "images" / "mine.nii.gz").read_bytes() == b"precious"


# --- curves


def test_histories_of_a_running_and_of_a_finished_training(tmp_path):
    rows = [{"step": 1, "loss": 2.0, "score": 0.1, "seconds": 3.0, "dice": {"Liver": 0.1}}]
    for member in ("0", "1"):
        (tmp_path / "training" / member).mkdir(parents=True)
        (tmp_path / "training" / member / "history.json").write_text(json.dumps(rows))
    running = curves.readHistories(tmp_path)
    assert running == {"0": rows, "1": rows} and curves.quantities(running) == ["score", "loss"]
    assert curves.quantities({"": [{"step": 1, "score": -1.0, "loss_validation": 1.0, "loss": 2.0, "dice": 0.5, "dice Liver": 0.5}]}) == [
        "dice",
        "loss",
        "loss_validation",
        "dice Liver",
    ]
    for path in (tmp_path / "training").rglob("history.json"):
        path.unlink()
    (tmp_path / "history.json").write_text(json.dumps([rows, rows]))
    assert list(curves.readHistories(tmp_path).values()) == [rows, rows]
    (tmp_path / "history.json").write_text('[{"step"')
    assert curves.readHistories(tmp_path) == {}, "while it is being written"


def test_curves_are_updated_in_place_and_removed(scene):
    before, plot = everything(), curves.Curves("Learning curve")
    rows = [{"step": 1, "score": 0.1}, {"step": 2, "score": None}, {"step": 3, "score": 0.4}]
    plot.show({"a": rows[:1], "b": rows}, "step", "score", ("Step", "Dice"))
    chart = plot.chart
    plot.show({"b": rows, "c": rows[:1]}, "step", "score", ("Step", "Dice"))
    assert plot.chart is chart and chart.GetNumberOfPlotSeriesNodes() == 2
    table = chart.GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    assert [table.GetValue(row, 1).ToDouble() for row in range(table.GetNumberOfRows())] == [0.1, 0.4]
    plot.remove()
    assert everything() == before

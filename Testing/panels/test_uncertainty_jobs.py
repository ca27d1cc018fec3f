"""The UncertaintySeg panel with the real tasks in real child processes: train on the scene, segment, check, choose what is next."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

from imagingai.volume import Volume, save  # noqa: E402

PATIENCE = 300  # seconds, on a machine that is busy with other work
QUICK = {"patch": "32", "batch": "2", "every": "10", "steps": "80", "threads": "1", "held_out": "0.3"}
SHAPE = (1, 40, 44)


def disk(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice with a bright disk, and the disk; k j i."""
    random = np.random.default_rng(number)
    center = random.uniform(14, 26, 2)
    _k, j, i = np.indices(SHAPE)
    inside = np.hypot(j - center[0], i - center[1]) < 8
    return (gaussian_filter(100.0 * inside, 1) + random.normal(0, 8, SHAPE)).astype("f4"), inside.astype("u1")


def addDisk(number: int):
    """A disk in the scene, segmented."""
    array, inside = disk(number)
    image = slicer.util.addVolumeFromArray(array, name=f"scan {number}")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"drawn {number}")
    node.SetReferenceImageGeometryParameterFromVolumeNode(image)
    segment = node.GetSegmentation().AddEmptySegment("disk", "Disk")
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside, node, segment, image)
    return image, node


def run(panel, click, waitUntil) -> None:
    click(panel.ui.applyButton)
    waitUntil(lambda: panel.run is None, PATIENCE)


def test_train_on_the_scene_then_segment_and_decide(host, openModule, click, typeText, waitUntil, tmp_path):
    widget = openModule("UncertaintySeg")
    from ImagingAILib.segmentation import addPair

    for number in range(5):
        addPair(*addDisk(number), "")
    addDisk(5)
    widget.pairs.fill()
    widget.ui.tabs.setCurrentIndex(3)
    train, segmenting = widget.train, widget.segment
    for name, text in QUICK.items():
        train.parameters.setText(name, text)
    typeText(train.ui.outputFile, str(tmp_path / "model"))
    run(train, click, waitUntil)
    assert train.ui.useButton.enabled, train.ui.logText.toPlainText()
    assert [train.ui.quantityBox.itemText(k) for k in range(3)] == ["dice", "loss", "loss_validation"]
    click(train.ui.useButton)
    host.choose(segmenting.ui.imageSelector, "scan 5")
    click(segmenting.ui.moreSection)
    host.choose(segmenting.ui.labelsSelector, "drawn 5")
    typeText(segmenting.ui.samplesOption, "4")
    run(segmenting, click, waitUntil)
    case = widget.view.case
    assert case is not None, segmenting.ui.logText.toPlainText()
    entropy, mutual, expected = (slicer.util.arrayFromVolume(case.map(n)) for n in ("entropy", "mutual_information", "expected_entropy"))
    np.testing.assert_allclose(entropy, mutual + expected, atol=1e-4)
    segment = case.segmentation.GetSegmentation().GetSegmentIdBySegmentName("Disk")
    found = slicer.util.arrayFromSegmentBinaryLabelmap(case.segmentation, segment, case.image)
    assert 2 * (found * disk(5)[1]).sum() / (found.sum() + disk(5)[1].sum()) > 0.6
    assert len(case.sampleFiles()) == 4 and case.result["measured"]["dice"]["Disk"] > 0.6
    rows = {case.columns()[k]: case.rows()[0][k] for k in range(len(case.columns()))}
    assert rows["Structure"] == "Disk" and float(rows["Dice"]) > 0.6
    assert case.sample(4).GetImageData().GetDimensions() == case.image.GetImageData().GetDimensions()
    widget.ui.tabs.setCurrentIndex(1)
    typeText(widget.queue.ui.resultsFile, str(case.folder))
    click(widget.queue.ui.openButton)
    widget.queue.ui.queueTable.selectRow(0)
    assert widget.view.case.folder == case.folder and "●" in widget.ui.lightLabel.text
    click(widget.queue.ui.acceptButton)
    assert widget.queue.rows[0]["decision"] == "accept"


def test_compare_readers(host, openModule, click, waitUntil):
    widget = openModule("UncertaintySeg")
    from ImagingAILib.segmentation import addPair

    image, first = addDisk(0)
    addPair(image, first, "Ann")
    second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn by Bob")
    second.SetReferenceImageGeometryParameterFromVolumeNode(image)
    segment = second.GetSegmentation().AddEmptySegment("disk", "Disk")
    mask = np.roll(disk(0)[1], 2, axis=2)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, second, segment, image)
    widget.ui.tabs.setCurrentIndex(4)
    ui = widget.readers.ui
    host.choose(ui.imageSelector, "scan 0")
    assert ui.applyButton.toolTip == "Add at least two segmentations of the image in the tab Train."
    addPair(image, second, "Bob")
    widget.pairs.fill()
    run(widget.readers, click, waitUntil)
    assert ui.readersTable.rowCount == 1, ui.logText.toPlainText()
    overlap = disk(0)[1] * mask
    assert ui.readersTable.item(0, 1).text() == f"{overlap.sum() / mask.sum():.2f}" and "unanimous" in ui.messageLabel.text
    entropy = widget.readers.results.shown
    assert np.array_equal(slicer.util.arrayFromVolume(entropy) > 0, disk(0)[1] != mask)
    host.screenshot(widget, "uncertainty-readers")
    host.sliceView("uncertainty-view-readers")
    host.choose(ui.mapBox, "Agreement: share of the readers for the most frequent structure")
    assert set(np.unique(slicer.util.arrayFromVolume(widget.readers.results.shown))) == {0.5, 1.0}
    slicer.mrmlScene.Clear(0)
    assert not ui.mapBox.enabled and ui.readersTable.rowCount == 0


def test_choose_what_to_label_next(host, openModule, click, typeText, waitUntil, tmp_path):
    widget = openModule("UncertaintySeg")
    widget.ui.tabs.setCurrentIndex(5)
    for number in range(9):
        image, labels = disk(number)
        where = "validation" if number > 6 else "pool"
        for kind, array in (("images", image), ("labels", labels)):
            folder = tmp_path / f"{where}_{kind}"
            folder.mkdir(exist_ok=True)
            if kind == "images" or number < 3 or number > 6:
                save(Volume(array.T[None], np.eye(4)), folder / f"case{number}.nii.gz")
    active = widget.active
    for name, folder in (("images", "pool_images"), ("labels", "pool_labels")):
        typeText(getattr(active.ui, f"{name}File"), str(tmp_path / folder))
        typeText(getattr(active.ui, f"validation{name.capitalize()}File"), str(tmp_path / f"validation_{name}"))
    for name, text in {**QUICK, "steps": "10", "samples": "2", "count": "2"}.items():
        if name != "held_out":
            active.parameters.setText(name, text)
    typeText(active.ui.outputFile, str(tmp_path / "round1"))
    run(active, click, waitUntil)
    assert active.ui.nextTable.rowCount == 2, active.ui.logText.toPlainText()
    names = {active.ui.nextTable.item(row, column).text() for row in range(2) for column in range(2)}
    assert names <= {f"case{number}" for number in range(3, 7)}, "labeled ones are not chosen"
    active.ui.nextTable.setCurrentCell(0, 1)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[-1].GetName() in names
    host.screenshot(widget, "uncertainty-active")
    campaign = json.loads((tmp_path / "round1" / "campaign.json").read_text())
    assert set(campaign["curves"]) == {"mutual_information", "random"}
    assert active.ui.outputFile.currentPath == str(tmp_path / "round2")

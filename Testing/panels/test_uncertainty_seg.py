"""The UncertaintySeg panel, worked as a person does. The jobs are stand-ins that write what the tasks write (fake_jobs.py)."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from balls import IJK_TO_RAS, PATIENCE, blob

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

import fake_jobs  # noqa: E402

from imagingai.options import from_dict  # noqa: E402
from imagingai.tasks import TASKS, load  # noqa: E402
from imagingai.volume import Volume, save  # noqa: E402

HERE = Path(__file__).parent
TABS = ("Segment", "Queue", "Quality", "Train", "Readers", "Next")


@pytest.fixture
def image(host):
    return slicer.util.addVolumeFromArray(blob((12, 14, 13))[0], IJK_TO_RAS, "MR")


@pytest.fixture
def panel(host, openModule, image, monkeypatch):
    """The panel with an image; its jobs are stand-ins."""
    widget = openModule("UncertaintySeg")
    from ImagingAILib import install

    monkeypatch.setattr(install, "python", lambda: [sys.executable, str(HERE.parent / "fake_jobs.py")])
    host.choose(widget.segment.ui.imageSelector, "MR")
    return widget


@pytest.fixture
def segmented(panel, click, waitUntil):
    click(panel.segment.ui.applyButton)
    finish(panel, "segment", waitUntil)
    return panel


@pytest.fixture
def results(tmp_path):
    """A folder with three results and a case that failed; the images are beside it."""
    volume = Volume(np.moveaxis(blob((12, 14, 13))[0], (0, 1, 2), (2, 1, 0))[None], IJK_TO_RAS)
    save(volume, tmp_path / "scan.nii.gz")
    for name, light in (("anna", "good"), ("berta", "bad"), ("clara", "look")):
        fake_jobs.writeResult(tmp_path / "results" / name, volume, light, tmp_path / "scan.nii.gz")
    failed = tmp_path / "results" / "dora"
    failed.mkdir()
    (failed / "job.json").write_text(json.dumps({"task": "segment", "inputs": {}, "config": {}}))
    (failed / "result.json").write_text(json.dumps({"state": "failed", "error": "The image is empty."}))
    return tmp_path / "results"


def finish(panel, task: str, waitUntil) -> None:
    waitUntil(lambda: panel.panels[task].run is None, PATIENCE)


def tab(panel, name: str) -> None:
    panel.ui.tabs.setCurrentIndex(TABS.index(name))


def composite():
    return slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()


def storable() -> set[str]:
    """Names of the nodes that a user sees in the Data module, and of their displays."""
    kinds = ("vtkMRMLStorableNode", "vtkMRMLDisplayNode", "vtkMRMLPlotChartNode")
    found = {node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(kind) if not node.GetSingletonTag()}
    return {
        re.sub(r"_\d+$", "", name) for name in found if not name.startswith("ImagingAI ")
    }  # color tables of maps, which all cases share


# --- segment


def test_apply_tells_what_is_missing(host, openModule, image):
    widget = openModule("UncertaintySeg")
    host.screenshot(widget, "uncertainty-empty")
    apply = widget.segment.ui.applyButton
    assert apply.text == "Segment" and not apply.enabled and apply.toolTip == "Choose the image volume."
    host.choose(widget.segment.ui.imageSelector, "MR")
    assert apply.enabled


def test_a_segmentation(host, segmented, image):
    ui, case = segmented.ui, segmented.view.case
    assert segmented.segment.ui.statusLabel.text.startswith("Done in 0:")
    assert "Look at it" in ui.lightLabel.text and "controls have 2.4 to 3.9 ml" in ui.reasonsLabel.text
    segments = case.segmentation.GetSegmentation()
    assert [segments.GetNthSegment(k).GetName() for k in range(2)] == ["Left ball", "Core"]
    assert composite().GetBackgroundVolumeID() == image.GetID()
    assert composite().GetForegroundVolumeID() == case.map("entropy").GetID()
    table = ui.volumesTable
    assert [table.horizontalHeaderItem(k).text() for k in range(4)] == ["Structure", "Volume, ml (90%)", "Border, mm", "Predicted Dice"]
    assert table.item(1, 0).text() == "Core" and table.item(1, 3).text() == "0.71 (0.65–0.75)"
    host.screenshot(segmented, "uncertainty-done")
    host.sliceView("uncertainty-view-entropy")


def test_all_maps_have_a_legend_with_their_unit(host, segmented, image):
    box, view = segmented.ui.mapBox, segmented.view
    titles = [box.itemText(k) for k in range(box.count)]
    assert titles[:4] == [kind.title for kind in list(view.case.kinds().values())[:4]] and "Probability of Left ball" in titles
    for title in titles[:-1]:
        host.choose(box, title)
        node = slicer.util.getNode(composite().GetForegroundVolumeID())
        legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(node)
        assert legend.GetVisibility() and legend.GetTitleText().split(" (")[0] in title
        visible = [n for n in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode") if n.GetVisibility()]
        assert visible == [legend], "one legend at a time"
    host.choose(box, "None: the image alone")
    assert composite().GetForegroundVolumeID() is None and composite().GetBackgroundVolumeID() == image.GetID()


def test_flipping_through_the_samples(host, segmented, waitUntil, click, typeText):
    ui, case = segmented.ui, segmented.view.case
    assert ui.sampleSlider.maximum == len(fake_jobs.SHIFTS)
    sizes = []
    for number in range(1, len(fake_jobs.SHIFTS) + 1):
        ui.sampleSlider.value = number
        shown = slicer.util.getNode(composite().GetLabelVolumeID())
        sizes.append(int((slicer.util.arrayFromVolume(shown) > 0).sum()))
        assert not case.segmentation.GetDisplayNode().GetVisibility()
    assert len(set(sizes)) == len(fake_jobs.SHIFTS), "every sample is another one"
    host.sliceView("uncertainty-view-sample")
    ui.sampleSlider.value = 0
    assert composite().GetLabelVolumeID() is None and case.segmentation.GetDisplayNode().GetVisibility()
    seen = set()
    click(ui.flipButton)
    waitUntil(lambda: seen.add(ui.sampleSlider.value) or len(seen) == 3)
    click(ui.flipButton)
    stopped = ui.sampleSlider.value
    host.choose(ui.sampleStyleBox, "areas")
    assert not slicer.util.getNode("vtkMRMLSliceNodeRed").GetUseLabelOutline() and ui.sampleSlider.value == stopped


def test_the_most_uncertain_places(segmented, click):
    ui, case = segmented.ui, segmented.view.case
    seen = []
    for _time in range(len(case.places()) + 1):
        click(ui.placeButton)
        seen.append(ui.placeLabel.text)
    assert seen[0].startswith("Place 1 of ") and " bit at R " in seen[0]
    assert seen[0] == seen[-1] and len(set(seen)) == len(seen) - 1
    (point, entropy), *_others = case.places()
    index = np.rint(np.linalg.inv(IJK_TO_RAS) @ [*point, 1])[:3].astype(int)
    assert slicer.util.arrayFromVolume(case.map("entropy"))[tuple(index[::-1])] == pytest.approx(entropy)


def test_again_makes_new_nodes_and_removing_takes_only_those(segmented, click, waitUntil):
    before, first = storable(), segmented.view.case
    click(segmented.segment.ui.applyButton)
    finish(segmented, "segment", waitUntil)
    second = segmented.view.case
    assert second.segmentation is not first.segmentation and second.segmentation.GetName() == "MR segmentation_1"
    assert [case.segmentation.GetDisplayNode().GetVisibility() for case in (first, second)] == [0, 1]
    second.map("mutual_information"), second.sample(2)
    click(segmented.ui.removeButton)
    assert storable() == before and first.segmentation.GetScene()
    assert not segmented.ui.mapBox.enabled and segmented.ui.resultsSection.text == "Result"


def test_cancel_and_errors(host, panel, click, waitUntil, typeText):
    ui = panel.segment.ui
    typeText(ui.samplesOption, "99")
    click(ui.applyButton)
    assert ui.applyButton.text == "Cancel"
    waitUntil(lambda: ui.progressBar.value > 0, PATIENCE)
    host.screenshot(panel, "uncertainty-running")
    click(ui.applyButton)
    finish(panel, "segment", waitUntil)
    assert ui.statusLabel.text == "Cancelled; nothing was changed." and ui.applyButton.text == "Segment"
    typeText(ui.samplesOption, "98")
    click(ui.applyButton)
    finish(panel, "segment", waitUntil)
    assert "The model has 2 channels and image is one." in host.dialogs[-1].text and panel.view.case is None


def test_inputs_reach_the_job(host, panel, image, click, typeText, waitUntil, tmp_path):
    ui = panel.segment.ui
    slicer.util.addVolumeFromArray(blob((12, 14, 13))[0], IJK_TO_RAS, "FLAIR")
    labels = slicer.util.addVolumeFromArray(blob((12, 14, 13))[1], IJK_TO_RAS, "drawn", "vtkMRMLLabelMapVolumeNode")
    (tmp_path / "model.safetensors").write_bytes(b"")
    typeText(ui.modelFile, str(tmp_path / "model.safetensors"))
    click(ui.moreSection)
    host.choose(ui.image2Selector, "FLAIR")
    host.choose(ui.labelsSelector, "drawn")
    click(ui.dicomOption)
    click(ui.applyButton)
    finish(panel, "segment", waitUntil)
    job = json.loads((panel.view.case.folder / "job.json").read_text())
    assert set(job["inputs"]) == {"image", "image2", "labels", "model"} and job["config"] == {"dicom": True}
    assert all(Path(path).exists() for path in job["inputs"].values())
    typeText(ui.labelsFile, str(tmp_path))
    click(ui.applyButton)
    assert "Choose labels of the scene or a folder of labels, not both." in host.dialogs[-1].text
    assert labels.GetScene()


def test_results_are_kept_side_by_side_for_the_queue(panel, click, typeText, waitUntil, tmp_path):
    typeText(panel.segment.ui.outputFile, str(tmp_path / "kept"))
    for _time in range(2):
        click(panel.segment.ui.applyButton)
        finish(panel, "segment", waitUntil)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["MR", "MR-2"]
    tab(panel, "Queue")
    typeText(panel.queue.ui.resultsFile, str(tmp_path / "kept"))
    click(panel.queue.ui.openButton)
    assert cases(panel) == ["MR", "MR-2"]


def test_closing_the_scene_ends_the_job(panel, click, waitUntil, typeText):
    typeText(panel.segment.ui.samplesOption, "99")
    click(panel.segment.ui.applyButton)
    process = panel.segment.run.run.process
    slicer.mrmlScene.Clear(0)
    assert not process.running and panel.segment.run is None and not panel.segment.ui.applyButton.enabled


def test_closing_the_scene_with_a_result(segmented, click, openModule):
    segmented.ui.sampleSlider.value = 2
    slicer.mrmlScene.Clear(0)
    assert segmented.view.case is None and not segmented.ui.placeButton.enabled and segmented.ui.volumesTable.rowCount == 0


def test_a_result_that_the_user_has_deleted(segmented, click):
    case = segmented.view.case
    for node in (case.segmentation, case.map("entropy"), case.image):
        slicer.mrmlScene.RemoveNode(node)
    segmented.ui.sampleSlider.value = 2
    slicer.mrmlScene.RemoveNode(case.browser)
    segmented.ui.sampleSlider.value = 3
    for button in ("placeButton", "removeButton"):
        click(getattr(segmented.ui, button))


def test_parameters_are_saved_with_the_scene(host, panel, typeText, tmp_path):
    typeText(panel.segment.ui.samplesOption, "7")
    typeText(panel.segment.ui.modelFile, "/models/mine.safetensors")
    panel.train.parameters.setText("steps", "70")
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    assert panel.segment.ui.samplesOption.value == 16 and panel.segment.ui.modelFile.currentPath == ""
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    assert panel.segment.ui.samplesOption.value == 7 and panel.segment.ui.modelFile.currentPath == "/models/mine.safetensors"
    assert panel.train.ui.stepsOption.value == 70 and panel.segment.ui.imageSelector.currentNode().GetName() == "MR"


def test_missing_packages_are_installed_after_consent(host, panel, click, waitUntil):
    host.packages.missing = {"monai", "highdicom"}
    host.dialogs.answers += ["Cancel"]
    click(panel.segment.ui.applyButton)
    assert panel.segment.run is None and "monai" in host.dialogs[-1].text and not host.packages.calls
    host.dialogs.answers += ["Ok"]
    click(panel.segment.ui.applyButton)
    finish(panel, "segment", waitUntil)
    assert len(host.packages.calls) == 1 and panel.view.case


@pytest.mark.slicer(mainWindow=False)
def test_without_a_main_window(segmented, click):
    segmented.ui.sampleSlider.value = 2
    click(segmented.ui.placeButton)
    assert segmented.view.case.segmentation.GetScene()


@pytest.mark.slicer(version="5.10")
def test_in_slicer_5_10(segmented):
    assert segmented.view.case


@pytest.mark.slicer(markTranslated=True)
def test_all_texts_can_be_translated(host, openModule):
    tasks = ("segment", "train-segmentation", "learn-quality", "compare-raters", "select-cases")
    fields = [field for task in tasks for field in load(TASKS[task].config).__dataclass_fields__.values()]
    choices = {str(choice) for field in fields for choice in field.metadata["choices"]}
    assert [text for text in host.untranslated(openModule("UncertaintySeg")) if text not in choices] == []


def test_every_option_and_input_has_a_widget(panel):
    for task, one in panel.panels.items():
        chosenHere = {"labels"} if task == "compare-raters" else set()  # those of the scene
        fields = set(load(TASKS[task].config).__dataclass_fields__) - {"outputs"}
        assert set(one.options) == fields, task
        assert {item.name for item in TASKS[task].inputs} <= set(one.selectors) | set(one.files) | chosenHere, task
        from_dict(load(TASKS[task].config), one.parameters.values())  # what the widgets show is allowed


def test_the_console(panel, image, waitUntil):
    from UncertaintySeg import UncertaintySegLogic

    logic, ended = UncertaintySegLogic(), []
    run = logic.segment(image, samples=8)
    assert run.state == "done" and run.case.map("entropy").GetImageData() and run.case.sample(2).GetImageData()
    assert json.loads((run.folder / "job.json").read_text())["config"] == {"samples": 8}
    logic.segment(image, callback=ended.append)
    waitUntil(lambda: ended, PATIENCE)
    with pytest.raises(RuntimeError, match="2 channels"):
        logic.segment(image, samples=98)


# --- queue


@pytest.fixture
def queue(panel, results, typeText, click):
    tab(panel, "Queue")
    typeText(panel.queue.ui.resultsFile, str(results))
    click(panel.queue.ui.openButton)
    return panel


def cases(panel) -> list[str]:
    table = panel.queue.ui.queueTable
    return [table.item(row, 0).text().removeprefix("● ") for row in range(table.rowCount)]


def decisions(results: Path) -> dict[str, tuple[str, str, str]]:
    with (results / "queue.csv").open(encoding="utf-8") as file:
        return {row["case"]: (row["decision"], row["reader"], row["note"]) for row in csv.DictReader(file)}


def test_the_queue_is_sorted_worst_first_and_loads_a_case(host, queue):
    ui = queue.queue.ui
    assert cases(queue) == ["dora", "berta", "clara", "anna"]
    assert ui.summaryLabel.text == "4 cases: 2 with a problem, 1 to look at, 1 good; 4 not decided."
    ui.queueTable.selectRow(1)
    assert queue.view.case.name == "berta" and "Problem" in queue.ui.lightLabel.text and "unlike all" in queue.ui.lightLabel.text
    assert slicer.util.getNode(composite().GetBackgroundVolumeID()).GetName() == "berta image"
    host.screenshot(queue, "uncertainty-queue")
    before = storable()
    ui.queueTable.selectRow(2)
    assert queue.view.case.name == "clara" and not [name for name in storable() if "berta" in name]
    ui.queueTable.selectRow(1)
    assert storable() == before


def test_decisions_are_in_the_file_at_once_and_survive_a_restart(host, queue, results, click, typeText, waitUntil):
    ui = queue.queue.ui
    typeText(ui.readerEdit, "Dr. Who")
    ui.queueTable.selectRow(1)
    typeText(ui.noteEdit, "leaks into the orbit")
    click(ui.rejectButton)
    assert decisions(results)["berta"] == ("reject", "Dr. Who", "leaks into the orbit")
    assert queue.view.case.name == "clara", "the next case that is not decided"
    click(ui.acceptButton)
    assert decisions(results)["clara"][0] == "accept" and ui.summaryLabel.text.endswith("2 not decided.")
    queue.onReload()
    again = slicer.modules.UncertaintySegWidget
    tab(again, "Queue")
    waitUntil(lambda: again.queue.ui.resultsFile.visible)
    assert again.queue.ui.readerEdit.text == "Dr. Who"
    typeText(again.queue.ui.resultsFile, str(results))
    click(again.queue.ui.openButton)
    assert again.queue.ui.queueTable.item(1, 2).text() == "rejected" and again.queue.ui.summaryLabel.text.endswith("2 not decided.")
    again.queue.ui.queueTable.selectRow(1)
    click(again.queue.ui.undecideButton)
    assert decisions(results)["berta"][0] == "" and again.queue.view.case.name == "berta"


def test_the_end_of_the_queue(queue, results, click):
    ui = queue.queue.ui
    ui.queueTable.selectRow(0)
    assert "The image is empty." in ui.statusLabel.text and queue.view.case is None, "a case that failed has a reason, no nodes"
    for _time in range(4):
        click(ui.acceptButton)
    assert all(decision == "accept" for decision, _reader, _note in decisions(results).values())
    assert ui.statusLabel.text.startswith("All cases are decided.") and not ui.acceptButton.enabled


def test_a_correction_is_kept(queue, results, click):
    ui = queue.queue.ui
    ui.queueTable.selectRow(2)
    case = queue.view.case
    segment = case.segmentation.GetSegmentation().GetNthSegmentID(1)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(case.segmentation, segment, case.image)
    array[:] = 0
    array[12, 14, 13] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, case.segmentation, segment, case.image)
    click(ui.fixButton)
    assert decisions(results)["clara"][0] == "fix" and "corrected.nii.gz" in ui.statusLabel.text
    corrected = slicer.util.loadLabelVolume(str(results / "clara" / "corrected.nii.gz"))
    assert (slicer.util.arrayFromVolume(corrected) == 2).sum() == 1, "the value of the structure stays"
    assert not (results / "anna" / "corrected.nii.gz").exists()


def test_a_folder_without_results(host, panel, tmp_path, typeText, click):
    tab(panel, "Queue")
    (tmp_path / "empty").mkdir()
    typeText(panel.queue.ui.resultsFile, str(tmp_path / "empty"))
    click(panel.queue.ui.openButton)
    assert "holds no result of segment" in host.dialogs[-1].text
    typeText(panel.queue.ui.resultsFile, str(tmp_path / "nowhere"))
    assert not panel.queue.ui.openButton.enabled


def test_a_queue_that_cannot_be_written(host, queue, results, click, monkeypatch):
    from imagingai.uncertainty import queue as module

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    queue.queue.ui.queueTable.selectRow(1)
    monkeypatch.setattr(module.os, "replace", full)
    click(queue.queue.ui.acceptButton)
    assert "cannot be written: No space left on device" in host.dialogs[-1].text
    assert decisions(results)["berta"][0] == "" and queue.queue.ui.queueTable.item(1, 2).text() == ""
    assert queue.view.case.name == "berta", "the case stays for another try"


def test_closing_the_scene_keeps_the_queue(queue, results, click):
    queue.queue.ui.queueTable.selectRow(1)
    slicer.mrmlScene.Clear(0)
    assert cases(queue) == ["dora", "berta", "clara", "anna"] and not queue.queue.ui.acceptButton.enabled
    queue.queue.ui.queueTable.selectRow(2)
    assert queue.view.case.name == "clara"


# --- train, quality, active learning


def addPair(host, panel, click, typeText, image: str, labels: str, reader: str = "") -> None:
    ui = panel.train.ui
    host.choose(ui.pairImageSelector, image)
    host.choose(ui.pairLabelsSelector, labels)
    typeText(ui.pairReaderEdit, reader)
    click(ui.addPairButton)


@pytest.fixture
def drawn(host, panel):
    """Two images with two segmentations each."""
    for number, center in enumerate(((12, 14, 13), (11, 13, 14))):
        name = "ABC"[number]
        volume = slicer.util.addVolumeFromArray(blob(center)[0], IJK_TO_RAS, f"scan {name}")
        for reader in ("x", "y"):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"drawn {name}{reader}")
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            segment = node.GetSegmentation().AddEmptySegment("ball", "Ball")
            slicer.util.updateSegmentBinaryLabelmapFromArray(blob(center)[1], node, segment, volume)
    tab(panel, "Train")
    return panel


def test_training_on_segmentations_of_the_scene(host, drawn, click, typeText, waitUntil, tmp_path):
    ui = drawn.train.ui
    assert ui.applyButton.toolTip == "Add at least two images with their segmentations."
    for name in "AB":
        for reader in ("x", "y"):
            addPair(host, drawn, click, typeText, f"scan {name}", f"drawn {name}{reader}", f"Reader {reader}")
    assert ui.pairsTable.rowCount == 4 and ui.applyButton.toolTip == "Choose a folder for the results."
    typeText(ui.outputFile, str(tmp_path / "model"))
    typeText(ui.stepsOption, "200")
    click(ui.applyButton)
    waitUntil(lambda: drawn.train.results.histories, PATIENCE)
    host.screenshot(drawn, "uncertainty-training")
    finish(drawn, "train-segmentation", waitUntil)
    job = json.loads((tmp_path / "model" / "job.json").read_text())
    assert [path.name for path in sorted(Path(job["inputs"]["images"]).iterdir())] == ["scan-A_0000.nrrd", "scan-B_0000.nrrd"]
    assert sorted(path.name for path in Path(job["inputs"]["labels"]).iterdir()) == ["Reader-x", "Reader-y"]
    assert (Path(job["inputs"]["labels"]) / "Reader-x" / "scan-A.csv").read_text().split() == ["value,name", "1,Ball"]
    assert [ui.quantityBox.itemText(k) for k in range(ui.quantityBox.count)] == ["score", "loss"]
    click(ui.useButton)
    assert drawn.segment.ui.modelFile.currentPath == str(tmp_path / "model" / "model.safetensors") and drawn.ui.tabs.currentIndex == 0


def test_a_stopped_training_goes_on(host, panel, click, typeText, waitUntil, tmp_path):
    ui = panel.train.ui
    tab(panel, "Train")
    host.choose(ui.sourceBox, "folders")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        typeText(getattr(ui, f"{name}File"), str(tmp_path / name))
    typeText(ui.outputFile, str(tmp_path / "model"))
    typeText(ui.stepsOption, "400")
    click(ui.applyButton)
    waitUntil(lambda: panel.train.results.histories, PATIENCE)
    click(ui.applyButton)
    finish(panel, "train-segmentation", waitUntil)
    assert ui.statusLabel.text == "Stopped. Train again with the same settings to go on from the last checkpoint."
    rows = json.loads((tmp_path / "model" / "training" / "history.json").read_text())
    assert 0 < len(rows) < 20 and not ui.useButton.enabled
    click(ui.applyButton)
    finish(panel, "train-segmentation", waitUntil)
    assert json.loads((tmp_path / "model" / "history.json").read_text())[0][: len(rows)] == rows and ui.useButton.enabled


def test_two_segmentations_of_one_reader_are_refused(host, drawn, click, typeText, tmp_path):
    for labels in ("drawn Ax", "drawn Ay"):
        addPair(host, drawn, click, typeText, "scan A", labels, "me")
    typeText(drawn.train.ui.outputFile, str(tmp_path / "model"))
    click(drawn.train.ui.applyButton)
    assert "scan A has two segmentations of the same reader: drawn Ax and drawn Ay" in host.dialogs[-1].text


def test_pairs_are_saved_with_the_scene_and_can_be_removed(host, drawn, click, typeText, tmp_path):
    addPair(host, drawn, click, typeText, "scan A", "drawn Ax", "me")
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    assert drawn.train.ui.pairsTable.rowCount == 0
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    table = drawn.train.ui.pairsTable
    assert [table.item(0, column).text() for column in range(3)] == ["scan A", "drawn Ax", "me"]
    table.selectRow(0)
    click(drawn.train.ui.removePairButton)
    assert table.rowCount == 0 and slicer.util.getNode("drawn Ax")


def test_the_quality_that_was_learned_is_used(host, panel, click, typeText, waitUntil, tmp_path):
    tab(panel, "Quality")
    ui = panel.quality.ui
    host.screenshot(panel, "uncertainty-quality")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        typeText(getattr(ui, f"{name}File"), str(tmp_path / name))
    assert ui.applyButton.toolTip == "Choose a folder for the results."
    typeText(ui.outputFile, str(tmp_path / "quality"))
    click(ui.applyButton)
    finish(panel, "learn-quality", waitUntil)
    assert panel.segment.ui.qualityFile.currentPath == str(tmp_path / "quality" / "quality.json")


def test_choosing_what_to_label_next(host, panel, click, typeText, waitUntil, tmp_path):
    tab(panel, "Next")
    ui, pool = panel.active.ui, tmp_path / "pool"
    pool.mkdir()
    for number in range(5):
        save(Volume(np.random.default_rng(number).random((1, 8, 8, 8)).astype("f4"), np.eye(4)), pool / f"case{number}.nii.gz")
    for name in ("images", "labels", "validationImages", "validationLabels"):
        typeText(getattr(ui, f"{name}File"), str(pool))
    typeText(ui.outputFile, str(tmp_path / "round1"))
    click(ui.applyButton)
    finish(panel, "select-cases", waitUntil)
    table = ui.nextTable
    assert [table.horizontalHeaderItem(k).text() for k in range(2)] == ["By entropy", "By random"]
    assert [table.item(0, k).text() for k in range(2)] == ["case0 k 6", "case3"]
    assert ui.messageLabel.text == "Label the 4 images of next.csv."
    assert ui.previousFile.currentPath == str(tmp_path / "round1") and ui.outputFile.currentPath == str(tmp_path / "round2")
    table.setCurrentCell(0, 1)
    assert slicer.util.getNode(composite().GetBackgroundVolumeID()).GetName() == "case3"
    table.setCurrentCell(1, 0)
    assert slicer.util.getNode(composite().GetBackgroundVolumeID()).GetName() == "case1" and "case3" not in storable()
    assert slicer.util.getNode("vtkMRMLSliceNodeRed").GetSliceOffset() == pytest.approx(6)
    host.screenshot(panel, "uncertainty-active")


def test_a_round_in_which_all_images_are_labeled(panel, tmp_path):
    (tmp_path / "next.csv").write_text("case,arm,rank,score,file,slice\n")
    (tmp_path / "campaign.json").write_text(json.dumps({"curves": {"random": [{"labeled": 9, "score": 0.7}]}}))
    panel.active.results.showRound(tmp_path)
    assert panel.active.ui.nextTable.rowCount == 0 and panel.active.results.plot.curves.chart

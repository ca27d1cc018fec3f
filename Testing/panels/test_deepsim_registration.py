"""The DeepSimRegistration panel, worked as a person does, with real registrations in real child processes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from balls import IJK_TO_RAS, PATIENCE, blob, finish

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

from imagingai.registration.config import PRESETS, RegistrationConfig  # noqa: E402


def test_apply_tells_what_is_missing(host, openModule, pair, click):
    widget = openModule("DeepSimRegistration")
    ui = widget.ui
    host.screenshot(widget, "panel-empty")
    assert not ui.applyButton.enabled and ui.applyButton.toolTip == "Choose the fixed volume."
    host.choose(ui.fixedSelector, "CT before")
    assert ui.applyButton.toolTip == "Choose the moving volume."
    host.choose(ui.movingSelector, "CT before")
    assert ui.applyButton.toolTip == "Choose two different volumes." and not ui.applyButton.enabled
    host.choose(ui.movingSelector, "CT after")
    assert ui.applyButton.enabled
    host.screenshot(widget, "panel-ready")


def test_a_registration(host, panel, pair, click, waitUntil):
    fixed, moving = pair
    texts = []
    host.choose(panel.ui.alignmentOption, "affine")
    click(panel.ui.applyButton)
    assert panel.ui.applyButton.text == "Cancel"
    waitUntil(lambda: texts.append(panel.ui.statusLabel.text) or panel.results.preview is not None or panel.panel.run is None, PATIENCE)
    host.screenshot(panel, "panel-running")
    finish(panel, waitUntil)
    assert any("ligning" in text or "eforming" in text for text in texts), texts
    assert panel.ui.statusLabel.text.startswith("Done in 0:")
    run = panel.results.run
    assert run.volume.GetName() == "CT after to CT before" and run.transform.GetName() == "CT after to CT before transform"
    difference = [np.abs(slicer.util.arrayFromVolume(v) - slicer.util.arrayFromVolume(fixed)).mean() for v in (moving, run.volume)]
    assert difference[1] < difference[0] / 3
    host.screenshot(panel, "panel-done")


def test_the_transform_and_the_volume_agree_voxel_by_voxel(panel, pair, click, waitUntil):
    fixed, moving = pair
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    run = panel.results.run
    assert moving.GetParentTransformNode() is run.transform
    resampled = slicer.modules.volumes.logic().ResampleVolumeToReferenceVolume(moving, fixed)
    np.testing.assert_allclose(slicer.util.arrayFromVolume(resampled), slicer.util.arrayFromVolume(run.volume), atol=0.02)


def test_again_starts_from_where_the_moving_volume_was(panel, pair, click, waitUntil):
    moving, results = pair[1], []
    for _time in range(2):
        click(panel.ui.applyButton)
        finish(panel, waitUntil)
        results.append(slicer.util.arrayFromVolume(panel.results.run.volume).copy())
    np.testing.assert_allclose(*results, atol=1e-3)
    assert moving.GetParentTransformNode() is panel.results.run.transform


def test_cancel_and_apply_again(host, panel, pair, click, waitUntil):
    host.choose(panel.ui.presetOption, "accurate")
    click(panel.ui.applyButton)
    waitUntil(lambda: panel.ui.progressBar.value > 0, PATIENCE)
    click(panel.ui.applyButton)
    assert panel.ui.applyButton.text == "Cancelling..." and not panel.ui.applyButton.enabled
    finish(panel, waitUntil)
    assert panel.ui.statusLabel.text == "Cancelled; nothing was changed." and panel.ui.applyButton.text == "Apply"
    assert pair[1].GetParentTransformNode() is None and not panel.results.run
    host.choose(panel.ui.presetOption, "fast")
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert panel.results.run.state == "done"


def test_evaluation_measures_and_moves_labels_and_landmarks(host, panel, pair, click, waitUntil):
    for which, volume, center in (("fixed", pair[0], (12, 14, 13)), ("moving", pair[1], (13, 12, 15))):
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{which} segmentation")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segmentID = segmentation.GetSegmentation().AddEmptySegment("ball", "Ball")
        slicer.util.updateSegmentBinaryLabelmapFromArray(blob(center)[1], segmentation, segmentID, volume)
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{which} points")
        for shift in ((0, 0, 0), (3, 0, 0), (0, 3, 0), (0, 0, 3)):
            points.AddControlPoint(*(IJK_TO_RAS @ [*(np.array(center) + shift)[::-1], 1])[:3])
    click(panel.ui.evaluationSection)
    for which in ("fixed", "moving"):
        host.choose(getattr(panel.ui, f"{which}LabelsSelector"), f"{which} segmentation")
        host.choose(getattr(panel.ui, f"{which}LandmarksSelector"), f"{which} points")
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    rows = {
        panel.ui.metricsTable.item(row, 0).text(): panel.ui.metricsTable.item(row, 2).text()
        for row in range(panel.ui.metricsTable.rowCount)
    }
    assert float(rows["Dice Ball"]) > 0.9 and float(rows["Landmark error, mean"].split()[0]) < 1
    run = panel.results.run
    for name in ("moving segmentation", "moving points"):
        assert slicer.util.getNode(name).GetParentTransformNode() is run.transform
    host.screenshot(panel, "panel-evaluated")


def test_ways_to_compare(host, done, pair, click, waitUntil):
    ui, fixed, run = done.ui, pair[0], done.results.run
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == fixed.GetID() and composite.GetForegroundVolumeID() == run.volume.GetID()
    host.sliceView("view-blend")
    ui.blendSlider.value = 1.0
    assert composite.GetForegroundOpacity() == 1.0
    click(ui.checkerboardButton)
    assert slicer.util.getNode(composite.GetBackgroundVolumeID()).GetName() == "Checkerboard"
    host.sliceView("view-checkerboard")
    click(ui.jacobianButton)
    assert not ui.checkerboardButton.checked and slicer.mrmlScene.GetFirstNodeByName("Checkerboard") is None
    assert slicer.util.getNode(composite.GetForegroundVolumeID()).GetName() == "Jacobian determinant"
    host.sliceView("view-jacobian")
    click(ui.similarityButton)
    host.sliceView("view-similarity")
    click(ui.flickerButton)
    seen = set()
    waitUntil(lambda: seen.add(composite.GetForegroundOpacity()) or len(seen) == 2)
    click(ui.flickerButton)
    click(ui.latticeButton)
    host.sliceView("view-lattice")
    assert run.transform.GetDisplayNode().GetVisibility2D()
    click(ui.worstButton)
    assert "least similar place at R" in ui.statusLabel.text or "fold" in ui.statusLabel.text


def test_options_presets_and_reset(host, panel, click, typeText):
    ui, parameters = panel.ui, panel.panel.parameters
    click(ui.advancedSection)
    host.screenshot(panel, "panel-advanced")
    smoothing = panel.panel.options["smoothing"]
    typeText(smoothing, "1.7")
    assert parameters.text("smoothing") == "1.7" and ui.resetButton.enabled
    host.choose(ui.presetOption, "smooth")
    assert smoothing.value == 1.2, "a preset takes its options back"
    typeText(smoothing, "1.7")
    click(ui.resetButton)
    assert smoothing.value == 1.2 and not ui.resetButton.enabled
    assert not smoothing.font.bold()
    typeText(panel.panel.options["iterations"], "10 5")
    assert panel.panel.options["iterations"].font.bold(), "what differs from the preset is marked"
    assert parameters.values()["iterations"] == (10, 5)


def test_nothing_is_rewritten_under_the_cursor(panel):
    for typed in ("mind", "min", "mi", "m", "", "n", "nc", "ncc+mind"):
        panel.ui.similarityOption.setCurrentText(typed)
        assert panel.ui.similarityOption.currentText == typed
    assert panel.panel.parameters.text("similarity") == "ncc+mind"


def test_a_bad_option_is_refused_with_the_choices(host, panel, click):
    panel.ui.similarityOption.setCurrentText("ncc+ssd")
    click(panel.ui.applyButton)
    assert "--" not in host.dialogs[-1].text
    assert "similarity has no choice 'ssd'. Choose from mse, ncc" in host.dialogs[-1].text


@pytest.mark.slicer(mainWindow=False)
def test_without_a_main_window(panel, click, waitUntil):
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert panel.results.run.state == "done"


@pytest.mark.slicer(version="5.10")
def test_in_slicer_5_10(done):
    assert done.results.run.state == "done"


@pytest.mark.slicer(markTranslated=True)
def test_all_texts_can_be_translated(host, openModule):
    fields = RegistrationConfig.__dataclass_fields__.values()
    choices = {str(choice) for field in fields for choice in field.metadata["choices"]} | set(PRESETS) | {"0", "ncc"}
    assert [text for text in host.untranslated(openModule("DeepSimRegistration")) if text not in choices] == []


def test_missing_packages_are_installed_after_consent(host, panel, click, waitUntil):
    host.packages.missing = {"safetensors"}
    host.dialogs.answers += ["Cancel"]
    click(panel.ui.applyButton)
    assert panel.panel.run is None and "safetensors" in host.dialogs[-1].text and not host.packages.calls
    host.dialogs.answers += ["Ok"]
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert len(host.packages.calls) == 1 and panel.results.run.state == "done"


def test_another_python(host, panel, click, typeText, waitUntil):
    click(panel.ui.environmentSection)
    typeText(panel.ui.pythonPath, "/no/such/python")
    click(panel.ui.applyButton)
    assert "/no/such/python cannot be started" in host.dialogs[-1].text
    typeText(panel.ui.pythonPath, sys.executable)
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert panel.results.run.state == "done"
    host.screenshot(panel, "panel-environment")
    typeText(panel.ui.pythonPath, "")


def test_the_console(host, pair, tmp_path, waitUntil, openModule):
    openModule("DeepSimRegistration")
    from DeepSimRegistration import DeepSimRegistrationLogic

    fixed, moving = pair
    logic = DeepSimRegistrationLogic()
    registration = logic.register(fixed, moving, preset="fast", alignment="rigid")
    assert registration.state == "done" and registration.metrics["folding_percent"] == 0
    assert moving.GetParentTransformNode() is registration.transform
    job = json.loads((registration.folder / "job.json").read_text())
    assert job["config"]["alignment"] == "rigid"
    ended = []
    another = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, moving, "another")
    for node in (moving, another):  # at once
        logic.register(fixed, node, preset="fast", callback=ended.append)
    assert not ended
    waitUntil(lambda: len(ended) == 2, PATIENCE)
    assert [registration.state for registration in ended] == ["done", "done"]


def test_the_self_test(openModule, host):
    openModule("DeepSimRegistration")
    slicer.modules.DeepSimRegistrationInstance.runTest()

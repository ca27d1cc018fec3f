"""The DeepSimRegistration panel, worked as a person does, with real registrations in real child processes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import vtk
from scipy.ndimage import gaussian_filter

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials")
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

from imagingai.registration.config import PRESETS, RegistrationConfig  # noqa: E402

IJK_TO_RAS = np.diag([-1.5, -1.5, 2.0, 1.0])
PATIENCE = 120  # seconds that a small registration may take on a busy machine


def blob(center, shape=(24, 28, 26)) -> np.ndarray:
    """A textured ball, k j i."""
    k, j, i = np.meshgrid(*map(np.arange, shape), indexing="ij")
    inside = (k - center[0]) ** 2 + (j - center[1]) ** 2 + (i - center[2]) ** 2 < 8**2
    texture = 1 + 0.5 * np.cos((i - center[2]) / 2.0) * np.cos((j - center[1]) / 2.5) * np.cos((k - center[0]) / 3.0)
    return gaussian_filter(np.where(inside, 100 * texture, 0.0), 0.7).astype("f4"), inside.astype("u1")


@pytest.fixture
def pair(host):
    """Two volumes in the scene: a ball here, and there."""
    return [
        slicer.util.addVolumeFromArray(blob(c)[0], IJK_TO_RAS, name)
        for name, c in (("CT before", (12, 14, 13)), ("CT after", (13, 12, 15)))
    ]


@pytest.fixture
def panel(host, openModule, pair):
    """The panel with both volumes chosen, set to finish soon."""
    widget = openModule("DeepSimRegistration")
    host.choose(widget.ui.fixedSelector, "CT before")
    host.choose(widget.ui.movingSelector, "CT after")
    host.choose(widget.ui.presetOption, "fast")
    host.choose(widget.ui.alignmentOption, "none")  # the search is most of the time
    return widget


def finish(panel, waitUntil) -> None:
    waitUntil(lambda: panel.panel.run is None, PATIENCE)


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


def test_undo(panel, pair, click, waitUntil):
    before = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")]
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    click(panel.ui.undoButton)
    assert pair[1].GetParentTransformNode() is None
    assert [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")] == before
    assert not panel.ui.undoButton.enabled


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


@pytest.fixture
def done(panel, click, waitUntil):
    """The panel after a registration."""
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    return panel


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


def test_an_output_is_replaced_only_after_asking(host, panel, pair, click, waitUntil):
    kept = slicer.util.addVolumeFromArray(np.ones((4, 4, 4), "f4"), name="precious")
    host.choose(panel.ui.outputVolumeSelector, "precious")
    host.dialogs.answers += ["Cancel"]
    click(panel.ui.applyButton)
    assert panel.panel.run is None and slicer.util.arrayFromVolume(kept).shape == (4, 4, 4)
    assert "precious will be replaced" in host.dialogs[-1].text
    host.dialogs.answers += ["Ok"]
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert slicer.util.arrayFromVolume(kept).shape == slicer.util.arrayFromVolume(pair[0]).shape


def makeColored(volume) -> None:
    image = vtk.vtkImageData()
    image.SetDimensions(8, 8, 8)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    volume.SetAndObserveImageData(image)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (makeColored, "has 3 values per voxel"),
        (lambda volume: slicer.util.updateVolumeFromArray(volume, np.full((8, 8, 8), 7.0)), "constant"),
        (lambda volume: slicer.util.updateVolumeFromArray(volume, np.full((8, 8, 8), np.nan)), "NaN"),
    ],
)
def test_errors_are_shown_once_and_nothing_is_lost(host, panel, pair, click, waitUntil, spoil, message):
    spoil(pair[1])
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert [message in shown.text for shown in host.dialogs] == [True], [shown.text for shown in host.dialogs]
    assert message in panel.ui.statusLabel.text and panel.ui.applyButton.enabled
    assert pair[1].GetParentTransformNode() is None
    host.screenshot(panel, "panel-error")


def test_a_volume_that_is_removed_meanwhile(host, panel, pair, click, waitUntil):
    click(panel.ui.applyButton)
    folder = panel.panel.run.folder
    slicer.mrmlScene.RemoveNode(pair[1])
    finish(panel, waitUntil)
    assert "moving was removed from the scene meanwhile. The results are in" in host.dialogs[-1].text
    assert (folder / "moved.nii.gz").exists()


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
    typeText(panel.panel.options["iterations"], "10 5")
    assert parameters.values()["iterations"] == (10, 5)


def test_a_bad_option_is_refused_with_the_choices(host, panel, click):
    panel.ui.similarityOption.setCurrentText("ncc+ssd")
    click(panel.ui.applyButton)
    assert "--" not in host.dialogs[-1].text
    assert "similarity has no choice 'ssd'. Choose from mse, ncc" in host.dialogs[-1].text


def test_parameters_are_saved_with_the_scene(host, panel, tmp_path):
    panel.panel.options["smoothing"].value = 1.5
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    assert panel.panel.options["smoothing"].value == 0.8 and panel.ui.fixedSelector.currentNode() is None
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    assert panel.panel.options["smoothing"].value == 1.5
    assert panel.ui.fixedSelector.currentNode().GetName() == "CT before"
    assert panel.ui.presetOption.currentText == "fast"


def test_closing_the_scene_ends_the_job(host, panel, click, waitUntil):
    click(panel.ui.applyButton)
    waitUntil(lambda: panel.ui.progressBar.value > 0, PATIENCE)
    process = panel.panel.run.run.process
    slicer.mrmlScene.Clear(0)
    assert not process.running and panel.panel.run is None
    assert panel.ui.applyButton.text == "Apply" and not panel.ui.applyButton.enabled


def test_the_job_goes_on_while_another_module_is_shown(host, panel, click, waitUntil, openModule):
    click(panel.ui.applyButton)
    host.leave()
    waitUntil(lambda: panel.panel.run is None, PATIENCE)
    openModule("DeepSimRegistration")
    assert panel.results.run.state == "done"


def test_reload(panel, click, waitUntil):
    click(panel.ui.applyButton)
    process = panel.panel.run.run.process
    panel.onReload()
    assert not process.running
    again = slicer.modules.DeepSimRegistrationWidget
    assert again is not panel and again.ui.fixedSelector.currentNode().GetName() == "CT before"


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
    logic.register(fixed, moving, preset="fast", callback=ended.append)
    assert not ended
    waitUntil(lambda: ended, PATIENCE)
    assert ended[0].state == "done"


def test_the_self_test(openModule, host):
    openModule("DeepSimRegistration")
    slicer.modules.DeepSimRegistrationInstance.runTest()

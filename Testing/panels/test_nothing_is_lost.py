"""What a user has stays: undo, outputs that are chosen, errors, nodes and scenes that go away while a registration runs."""

from __future__ import annotations

import numpy as np
import pytest
import vtk
from balls import IJK_TO_RAS, PATIENCE, blob, finish

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")


def difference(moving, fixed, run) -> float:
    """How far the moving volume in the scene is from the output volume."""
    resampled = slicer.modules.volumes.logic().ResampleVolumeToReferenceVolume(moving, fixed)
    return float(np.abs(slicer.util.arrayFromVolume(resampled) - slicer.util.arrayFromVolume(run.volume)).max())


def test_undo(panel, pair, click, waitUntil):
    before = [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")]
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    click(panel.ui.undoButton)
    assert pair[1].GetParentTransformNode() is None
    assert [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")] == before
    assert not panel.ui.undoButton.enabled


def test_undo_removes_only_what_the_run_made(panel, pair, click, waitUntil):
    def volumesAndDisplays() -> set[str]:
        kinds = ("vtkMRMLVolumeNode", "vtkMRMLVolumeDisplayNode", "vtkMRMLTransformNode", "vtkMRMLTransformDisplayNode", "vtkMRMLTableNode")
        return {node.GetID() for kind in kinds for node in slicer.util.getNodesByClass(kind)}

    before = volumesAndDisplays()
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    click(panel.ui.latticeButton)
    click(panel.ui.jacobianButton)
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "drawn after the run")
    click(panel.ui.undoButton)
    assert drawn.GetScene() is not None
    assert volumesAndDisplays() - before == set()


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


def test_the_transform_of_an_earlier_run_to_another_volume_is_replaced(host, panel, pair, click, waitUntil):
    third = slicer.util.addVolumeFromArray(blob((11, 15, 14))[0], IJK_TO_RAS, "CT third")
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    transform = panel.results.run.transform
    host.choose(panel.ui.fixedSelector, "CT third")
    host.choose(panel.ui.outputTransformSelector, transform.GetName())
    host.dialogs.answers += ["Ok"]
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert panel.results.run.transform is transform and pair[1].GetParentTransformNode() is transform
    assert difference(pair[1], third, panel.results.run) < 0.02


def test_an_input_is_no_output(host, panel, pair, click, waitUntil):
    before = slicer.util.arrayFromVolume(pair[1]).copy()
    host.choose(panel.ui.outputVolumeSelector, "CT after")
    host.dialogs.answers += ["Ok"]
    click(panel.ui.applyButton)
    assert panel.panel.run is None and "CT after is an input" in host.dialogs[-1].text
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(pair[1]), before)


def test_the_output_transform_does_not_move_the_fixed_volume(host, panel, pair, click):
    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "above")
    pair[0].SetAndObserveTransformNodeID(above.GetID())
    host.choose(panel.ui.outputTransformSelector, "above")
    click(panel.ui.applyButton)
    assert panel.panel.run is None and "above moves CT before, which is to stay" in host.dialogs[-1].text


def test_cancel_gives_the_slice_views_back(host, panel, pair, click, waitUntil):
    slicer.util.setSliceViewerLayers(background=pair[1], foreground=None)
    host.choose(panel.ui.presetOption, "accurate")
    click(panel.ui.applyButton)
    waitUntil(lambda: panel.results.preview is not None, PATIENCE)
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    view = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()) == (pair[1].GetID(), None)


def test_what_the_user_shows_meanwhile_stays_after_cancel(host, panel, pair, click, waitUntil):
    host.choose(panel.ui.presetOption, "accurate")
    click(panel.ui.applyButton)
    waitUntil(lambda: panel.results.preview is not None, PATIENCE)
    slicer.util.setSliceViewerLayers(background=pair[1], foreground=None)
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    view = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()) == (pair[1].GetID(), None)


def test_a_run_that_has_ended_keeps_no_nodes(panel, click, waitUntil):
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    follower = panel.results.run.run
    assert "Registration" not in repr(follower.onDone) and "TaskPanel" not in repr(follower.onProgress)


def test_results_that_the_user_has_deleted(panel, pair, click, waitUntil):
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    slicer.mrmlScene.RemoveNode(panel.results.run.volume)
    slicer.mrmlScene.RemoveNode(panel.results.run.transform)
    for button in ("checkerboardButton", "latticeButton", "jacobianButton", "worstButton", "undoButton"):
        click(getattr(panel.ui, button))


def test_after_a_bug_in_reading_the_panel_can_be_used(host, panel, click, waitUntil, monkeypatch):
    from ImagingAILib import registration

    def broken(*_arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(registration.files, "readTable", broken)
    click(panel.ui.applyButton)
    with host.expect(RuntimeError, match="a bug"):
        finish(panel, waitUntil)
    assert panel.ui.applyButton.text == "Apply" and panel.ui.applyButton.enabled


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


@pytest.mark.parametrize(("values", "message"), [((0, 0), "has no label inside the image"), ((1, 2), "have no value in common")])
def test_labels_that_cannot_be_used(host, panel, pair, click, waitUntil, values, message):
    for which, value in zip(("fixed", "moving"), values, strict=True):
        mask = blob((12, 14, 13))[1] * value
        slicer.util.addVolumeFromArray(mask, IJK_TO_RAS, f"{which} labels", "vtkMRMLLabelMapVolumeNode")
    click(panel.ui.evaluationSection)
    for which in ("fixed", "moving"):
        host.choose(getattr(panel.ui, f"{which}LabelsSelector"), f"{which} labels")
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert [message in shown.text for shown in host.dialogs] == [True], [shown.text for shown in host.dialogs]


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


def register(host, panel, fixed: str, click, waitUntil):
    """Choose a fixed volume, Apply, wait; returns the run."""
    host.choose(panel.ui.fixedSelector, fixed)
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    return panel.results.run


def test_undo_goes_back_to_the_run_before(host, panel, pair, click, waitUntil):
    slicer.util.addVolumeFromArray(blob((11, 15, 14))[0], IJK_TO_RAS, "CT third")
    first = register(host, panel, "CT before", click, waitUntil)
    register(host, panel, "CT third", click, waitUntil)
    click(panel.ui.undoButton)
    assert pair[1].GetParentTransformNode() is first.transform
    again = register(host, panel, "CT before", click, waitUntil)
    assert difference(pair[1], pair[0], again) < 0.02


def test_undo_gives_chosen_outputs_their_content_back(host, panel, pair, click, waitUntil):
    first = register(host, panel, "CT before", click, waitUntil)
    voxels = slicer.util.arrayFromVolume(first.volume).copy()
    host.choose(panel.ui.outputTransformSelector, first.transform.GetName())
    host.choose(panel.ui.outputVolumeSelector, first.volume.GetName())
    host.choose(panel.ui.alignmentOption, "rigid")
    host.dialogs.answers += ["Ok"]
    second = register(host, panel, "CT before", click, waitUntil)
    assert second.transform is first.transform and not np.array_equal(slicer.util.arrayFromVolume(first.volume), voxels)
    click(panel.ui.undoButton)
    assert np.array_equal(slicer.util.arrayFromVolume(first.volume), voxels)
    assert difference(pair[1], pair[0], first) < 0.02


def test_the_moving_volume_is_moved_meanwhile(host, panel, pair, click, waitUntil):
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.array([[1, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])))
    click(panel.ui.applyButton)
    pair[1].SetAndObserveTransformNodeID(shift.GetID())
    finish(panel, waitUntil)
    assert "moving was moved meanwhile. Apply again" in host.dialogs[-1].text
    assert pair[1].GetParentTransformNode() is shift


def test_a_chosen_output_is_removed_meanwhile(host, panel, pair, click, waitUntil):
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "chosen")
    host.choose(panel.ui.outputTransformSelector, "chosen")
    click(panel.ui.applyButton)
    slicer.mrmlScene.RemoveNode(chosen)
    finish(panel, waitUntil)
    run = panel.results.run
    assert run.transform is not chosen and pair[1].GetParentTransformNode() is run.transform


def test_a_cancelled_run_keeps_the_result_before(host, panel, pair, click, waitUntil):
    first = register(host, panel, "CT before", click, waitUntil)
    click(panel.ui.applyButton)
    assert not panel.ui.undoButton.enabled
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    assert panel.results.run is first and panel.ui.undoButton.enabled and panel.ui.metricsTable.rowCount > 0


def test_one_node_for_both_is_refused(host, panel, pair, click):
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(labels, blob((12, 14, 13))[1])
    click(panel.ui.evaluationSection)
    for which in ("fixed", "moving"):
        host.choose(getattr(panel.ui, f"{which}LabelsSelector"), "labels")
    click(panel.ui.applyButton)
    assert "labels is chosen for the fixed and for the moving volume" in host.dialogs[-1].text


def test_the_moving_mask_moves_too(host, panel, pair, click, waitUntil):
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    slicer.util.updateVolumeFromArray(mask, blob((13, 12, 15))[1] * 0 + 1)
    mask.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(IJK_TO_RAS))
    click(panel.ui.masksSection)
    host.choose(panel.ui.movingMaskSelector, "mask")
    run = register(host, panel, "CT before", click, waitUntil)
    assert mask.GetParentTransformNode() is run.transform


def test_a_saved_and_loaded_result_still_agrees(host, panel, pair, click, waitUntil, tmp_path):
    register(host, panel, "CT before", click, waitUntil)
    slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "case.mrb"))
    moving, fixed, moved = map(slicer.util.getNode, ("CT after", "CT before", "CT after to CT before"))
    resampled = slicer.modules.volumes.logic().ResampleVolumeToReferenceVolume(moving, fixed)
    assert np.abs(slicer.util.arrayFromVolume(resampled) - slicer.util.arrayFromVolume(moved)).max() < 0.02


def test_a_fixed_volume_that_was_deformed_itself(host, panel, pair, click, waitUntil):
    third = slicer.util.addVolumeFromArray(blob((11, 15, 14))[0], IJK_TO_RAS, "CT third")
    register(host, panel, "CT before", click, waitUntil)
    host.choose(panel.ui.movingSelector, "CT third")
    run = register(host, panel, "CT after", click, waitUntil)
    assert run.state == "done" and third.GetParentTransformNode() is run.transform
    click(panel.ui.checkerboardButton)
    assert slicer.util.getNode("Checkerboard").GetImageData().GetDimensions() == run.volume.GetImageData().GetDimensions()


def test_large_numbers_can_be_entered(panel, click, typeText):
    click(panel.ui.advancedSection)
    typeText(panel.panel.options["seed"], "1234567")
    assert panel.panel.parameters.values()["seed"] == 1234567

"""Modules, scene, selectors and dialogs in the host work as in Slicer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

HERE = Path(__file__).parent


def addVolume(name: str):
    return slicer.util.addVolumeFromArray(np.random.default_rng(0).random((8, 16, 16)).astype("f4"), name=name)


def test_module(host, openModule, click, waitUntil):
    widget = openModule("Sample", HERE)
    host.startupCompleted()
    assert slicer.modules.SampleInstance.started
    assert slicer.modules.sample.title == "Sample"
    volume = addVolume("ct")
    host.choose(widget.ui.volume, "ct")
    assert widget.ui.volume.currentNodeID == volume.GetID()
    click(widget.ui.applyButton)
    assert widget.ui.applyButton.text == "Cancel"
    waitUntil(lambda: widget.ui.applyButton.text == "Apply")
    assert widget.logic.getParameterNode().GetParameter("threshold") == "2.5"
    assert host.screenshot(widget, "sample").stat().st_size > 1000
    host.leave()
    slicer.mrmlScene.Clear(0)
    assert widget.calls == ["enter", "exit", "closed"]
    assert widget.ui.volume.currentNode() is None


def test_reload(openModule):
    first = openModule("Sample", HERE)
    first.onReload()
    second = slicer.modules.SampleWidget
    assert type(second) is not type(first)
    volume = addVolume("ct")
    second.ui.volume.setCurrentNode(volume)
    assert second.ui.volume.currentNode() is volume


@pytest.fixture
def selector(host):
    widget = slicer.qMRMLNodeComboBox()
    widget.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    widget.setMRMLScene(slicer.mrmlScene)
    widget.show()
    return widget


def test_selector_follows_the_scene(selector):
    got = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", got.append)
    first, second = addVolume("first"), addVolume("second")
    assert selector.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNode() is second
    slicer.mrmlScene.Clear(0)
    assert got == [first, second, None] and not selector.currentNodeID


def test_selector_lists_by_type_and_attribute(selector):
    addVolume("ct")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "model")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert selector.nodeCount() == 2
    selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert [selector.nodeFromIndex(i).GetName() for i in range(selector.nodeCount())] == ["ct"]
    selector.addAttribute("vtkMRMLScalarVolumeNode", "Modality", "MR")
    assert selector.nodeCount() == 0


def test_selector_creates_nodes(host, selector):
    selector.baseName = "Registered"
    host.choose(selector, "Create new Volume")
    assert selector.currentNode().GetName() == "Registered"


def test_dialogs_are_recorded_and_answered(host):
    slicer.util.errorDisplay("It failed.", detailedText="trace")
    assert [(shown.text, shown.details) for shown in host.dialogs] == [("It failed.", "trace")]
    host.dialogs.answers += ["Ok", "Cancel"]
    assert slicer.util.confirmOkCancelDisplay("Go on?") is True
    assert slicer.util.confirmOkCancelDisplay("Go on?") is False


def test_a_question_needs_an_answer(host):
    with host.expect(AssertionError, match="no answer for"):
        assert slicer.util.confirmYesNoDisplay("Delete all?") is False


@pytest.mark.slicer(mainWindow=False)
def test_without_a_main_window(host, openModule):
    assert slicer.app.layoutManager() is None and slicer.util.mainWindow() is None
    openModule("Sample", HERE)
    slicer.util.errorDisplay("Only logged.")
    assert not host.dialogs


def test_console_process(host, waitUntil):
    lines, codes = [], []
    slicer.util.launchConsoleProcess(
        ["PythonSlicer", "-c", "print('hello')"], blocking=False, logCallback=lines.append, completedCallback=codes.append
    )
    waitUntil(lambda: codes)
    assert codes == [0] and "hello" in "".join(lines)


def test_slice_view_shows_what_is_in_the_scene(host):
    volume = addVolume("ct")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    plain = host.sliceView("plain").read_bytes()
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    points.CreateDefaultDisplayNodes()
    points.AddControlPoint(8, 8, host.app.views.sliceWidget("Red").sliceLogic().GetSliceOffset())
    marked = host.sliceView("marked").read_bytes()
    slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(volume).SetVisibility(True)
    assert len({plain, marked, host.sliceView("legend").read_bytes()}) == 3


def test_another_scene(openModule):
    openModule("Sample", HERE)
    slicer.modules.sample.setMRMLScene(slicer.vtkMRMLScene())
    assert slicer.modules.sample.mrmlScene() is not slicer.mrmlScene
    slicer.modules.sample.setMRMLScene(slicer.mrmlScene)
    assert slicer.modules.sample.mrmlScene() is slicer.mrmlScene


def test_parameters_are_saved_with_the_scene(openModule, tmp_path):
    logic = openModule("Sample", HERE).logic
    logic.getParameterNode().SetParameter("threshold", "7")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert logic.getParameterNode().GetParameter("threshold") == ""
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert logic.getParameterNode().GetParameter("threshold") == "7"


def test_packages_are_installed_after_consent(host, tmp_path):
    (tmp_path / "requirements.txt").write_text("# needed\nmonai>=1.4\nscipy\n")
    requirements = slicer.packaging.load_requirements(tmp_path / "requirements.txt")
    host.packages.missing.add("monai")
    host.dialogs.answers.append("Cancel")
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure(requirements)
    host.dialogs.answers.append("Ok")
    slicer.packaging.pip_ensure(requirements, constraints="constraints.txt")
    assert host.packages.calls == [("install", ["monai>=1.4"], {"constraints": "constraints.txt"})]


def test_layout_of_slice_views(host):
    layouts = slicer.app.layoutManager()
    assert layouts.sliceViewNames() == ("Red", "Green", "Yellow")
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    assert layouts.sliceViewNames() == ("Red",)

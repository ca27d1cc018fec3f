"""The host is as strict as Slicer, and works as Slicer does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials")
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

from contract import ContractViolation, NotInHost  # noqa: E402

MODULE = """
import qt, slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("Sample")
        slicer.app.connect("startupCompleted()", self.onStartup)
        self.started = False

    def onStartup(self):
        self.started = True

class SampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        super().__init__(parent)
        VTKObservationMixin.__init__(self)
        self.calls = []

    def setup(self):
        super().setup()
        widget = slicer.util.loadUI(self.resourcePath("UI/Sample.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleLogic()
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onEndClose)

    def enter(self):
        self.calls.append("enter")

    def exit(self):
        self.calls.append("exit")

    def cleanup(self):
        self.removeObservers()

    def onEndClose(self, caller, event):
        self.calls.append("closed")

    def onApply(self, checked):
        self.ui.timer = qt.QTimer()
        self.ui.timer.setSingleShot(True)
        self.ui.timer.connect("timeout()", self.onDone)
        self.ui.timer.start(10)
        self.ui.applyButton.text = _("Cancel")

    def onDone(self):
        self.logic.getParameterNode().SetParameter("threshold", str(self.ui.threshold.value))
        self.ui.applyButton.text = _("Apply")

class SampleLogic(ScriptedLoadableModuleLogic):
    pass
"""
UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Sample</class>
<widget class="qMRMLWidget" name="Sample"><layout class="QFormLayout" name="form">
 <item row="0" column="0"><widget class="QLabel" name="label"><property name="text"><string>Volume:</string></property></widget></item>
 <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="volume">
  <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
  <property name="noneEnabled"><bool>true</bool></property></widget></item>
 <item row="1" column="1"><widget class="ctkSliderWidget" name="threshold">
  <property name="maximum"><double>10.0</double></property><property name="value"><double>2.5</double></property>
  <property name="SlicerParameterName" stdset="0"><string>threshold</string></property></widget></item>
 <item row="2" column="1"><widget class="QPushButton" name="applyButton">
  <property name="text"><string>Apply</string></property></widget></item>
 <item row="3" column="0" colspan="2"><widget class="ctkCollapsibleButton" name="advanced">
  <property name="text"><string>Advanced</string></property><property name="collapsed"><bool>true</bool></property>
  <layout class="QVBoxLayout" name="column"><item><widget class="QLineEdit" name="edit"/></item></layout></widget></item>
</layout></widget>
<customwidgets><customwidget><class>qMRMLWidget</class><extends>QWidget</extends></customwidget></customwidgets>
<connections><connection><sender>Sample</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>volume</receiver>
 <slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections>
</ui>"""


@pytest.fixture
def qt(host):
    import qt

    return qt


@pytest.fixture
def ctk(host):
    import ctk

    return ctk


@pytest.fixture
def sample(tmp_path):
    """The folder of a small module."""
    path = tmp_path / "Sample" / "Sample.py"
    (path.parent / "Resources" / "UI").mkdir(parents=True)
    path.write_text(MODULE)
    (path.parent / "Resources" / "UI" / "Sample.ui").write_text(UI)
    return tmp_path


def addVolume(name: str):
    return slicer.util.addVolumeFromArray(np.random.default_rng(0).random((8, 16, 16)).astype("f4"), name=name)


def test_properties_are_attributes(qt, ctk):
    button, slider = qt.QPushButton("Apply"), ctk.ctkSliderWidget()
    button.enabled, slider.maximum, slider.value = False, 5.0, 2.5
    assert (button.text, button.enabled, slider.value) == ("Apply", False, 2.5)
    assert type(button) is qt.QPushButton and isinstance(button, qt.QWidget)


MISTAKES = {
    "unknown property": (lambda qt, ctk: setattr(qt.QPushButton(), "caption", "x"), "QPushButton.caption is not a property"),
    "unknown method": (lambda qt, ctk: ctk.ctkDirectoryButton().setDirectory("/"), "ctkDirectoryButton.setDirectory does not exist"),
    "Python name on a widget": (lambda qt, ctk: setattr(qt.QLabel(), "myState", 1), "QLabel.myState is not a property"),
    "wrong type": (lambda qt, ctk: setattr(qt.QLabel(), "text", 5), "QLabel.text is a QString, it does not take 5"),
    "misspelled signal": (lambda qt, ctk: qt.QPushButton().connect("click()", print), "QPushButton has no signal 'click\\(\\)'"),
    "signal of the wrong type": (lambda qt, ctk: ctk.ctkSliderWidget().connect("valueChanged(int)", print), "no signal 'valueChanged"),
    "signal of Qt 5 alone": (lambda qt, ctk: qt.QComboBox().connect("currentIndexChanged(QString)", print), "in Qt 6"),
    "unknown class": (lambda qt, ctk: ctk.ctkSlider, "ctk.ctkSlider does not exist"),
    "unknown enum": (lambda qt, ctk: qt.QMessageBox.Okay, "QMessageBox.Okay does not exist"),
    "unknown slicer.util": (lambda qt, ctk: slicer.util.showDialog("x"), "slicer.util.showDialog does not exist"),
    "wrong arguments": (
        lambda qt, ctk: slicer.util.errorDisplay("x", title="y", body=1) or slicer.util.loadUI(),
        "missing a required argument",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_fail(host, qt, ctk, mistake):
    run, message = MISTAKES[mistake]
    with host.expect(ContractViolation, match=message):
        run(qt, ctk)


def test_a_property_cannot_be_called(host, ctk):
    with host.expect(TypeError, match="not callable"):
        ctk.ctkSliderWidget().value()


def test_what_the_host_lacks_says_so(host, ctk):
    with host.expect(NotInHost, match="ctkThumbnailListWidget is not part of the host"):
        ctk.ctkThumbnailListWidget()


def test_an_error_in_a_slot_fails_the_test(host, qt, click):
    button = qt.QPushButton("Apply")
    button.connect("clicked()", lambda: 1 / 0)
    button.show()
    with host.expect(ZeroDivisionError):
        click(button)


def test_a_hidden_violation_fails_the_test(host, qt):
    with host.expect(ContractViolation, match="QLabel.tooltip does not exist"):
        assert not hasattr(qt.QLabel(), "tooltip")


def test_slots_get_what_they_take(qt, click):
    got = []
    button = qt.QPushButton("Apply")
    button.checkable = True
    button.connect("clicked()", lambda *args: got.append(args))
    button.connect("clicked(bool)", lambda checked: got.append(checked))
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.clicked.connect(lambda label="default": got.append(label))  # a trap of PythonQt: the default is replaced
    button.show()
    click(button)
    assert got == [(), True, "none", True]


def test_disconnect(qt, click):
    got, button = [], qt.QPushButton("Apply")
    button.connect("clicked()", got.clear)
    button.connect("clicked(bool)", got.append)
    assert button.disconnect("clicked(bool)", got.append)
    button.show()
    click(button)
    assert not got


def test_module(host, sample, openModule, click, waitUntil):
    widget = openModule("Sample", sample)
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


def test_hidden_widgets_cannot_be_used(host, sample, openModule, click, typeText):
    ui = openModule("Sample", sample).ui
    with pytest.raises(AssertionError, match="edit is not visible"):
        typeText(ui.edit, "hidden")
    click(ui.advanced)
    typeText(ui.edit, "seen")
    assert ui.edit.text == "seen"


def test_reload(sample, openModule):
    first = openModule("Sample", sample)
    first.onReload()
    second = slicer.modules.SampleWidget
    assert type(second) is not type(first)
    volume = addVolume("ct")
    second.ui.volume.setCurrentNode(volume)
    assert second.ui.volume.currentNode() is volume


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('"noneEnabled"', '"noneAllowed"', "qMRMLNodeComboBox has no property noneAllowed"),
        ('"qMRMLNodeComboBox"', '"qMRMLNodeBox"', "no class qMRMLNodeBox"),
        ("mrmlSceneChanged(", "sceneChanged(", "qMRMLWidget has no signal"),
        ("<slot>setMRMLScene(", "<slot>setScene(", "qMRMLNodeComboBox has no slot setScene"),
        ("<receiver>volume", "<receiver>image", "image, which does not exist"),
        ('"SlicerParameterName"', '"Threshold"', "ctkSliderWidget has no property Threshold"),
    ],
)
def test_mistakes_in_ui_files_fail(host, tmp_path, right, wrong, message):
    assert right in UI
    (tmp_path / "bad.ui").write_text(UI.replace(right, wrong))
    with host.expect(ContractViolation, match=message):
        slicer.util.loadUI(str(tmp_path / "bad.ui"))


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


@pytest.mark.slicer(version="5.10")
def test_slicer_5_10(host):
    assert not hasattr(slicer, "packaging")
    assert not hasattr(slicer.util, "executePythonModule")
    slicer.util.pip_install("monai")
    assert host.packages.calls == [("install", ["monai"], {})]


def test_slicer_5_12(host):
    slicer.packaging.pip_install("monai", constraints="constraints.txt")
    assert host.packages.calls == [("install", ["monai"], {"constraints": "constraints.txt"})]


@pytest.mark.slicer(mainWindow=False)
def test_without_a_main_window(host, sample, openModule):
    assert slicer.app.layoutManager() is None and slicer.util.mainWindow() is None
    openModule("Sample", sample)
    slicer.util.errorDisplay("Only logged.")
    assert not host.dialogs


def test_console_process(host, waitUntil):
    lines, codes = [], []
    slicer.util.launchConsoleProcess(
        ["PythonSlicer", "-c", "print('hello')"], blocking=False, logCallback=lines.append, completedCallback=codes.append
    )
    waitUntil(lambda: codes)
    assert codes == [0] and "hello" in "".join(lines)


def test_slice_view(host):
    volume = addVolume("ct")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    assert host.sliceView("red").stat().st_size > 1000


@pytest.mark.slicer(markTranslated=True)
def test_text_that_is_not_translated_is_found(host, sample, openModule):
    widget = openModule("Sample", sample)
    assert not host.untranslated(widget)
    widget.ui.applyButton.text = "Apply"
    assert host.untranslated(widget) == ["Apply"]


def test_a_timer_must_stop_in_cleanup(host, qt):
    timer = qt.QTimer()
    timer.start(1000)
    with host.expect(AssertionError, match="A timer still runs"):
        host.cleanup()
    timer.stop()


def test_another_scene(sample, openModule):
    selector = openModule("Sample", sample).ui.volume
    addVolume("ct")
    slicer.modules.sample.setMRMLScene(slicer.vtkMRMLScene())
    assert slicer.modules.sample.mrmlScene() is not slicer.mrmlScene
    slicer.modules.sample.setMRMLScene(slicer.mrmlScene)
    assert selector.nodeCount() == 1


def test_parameters_are_saved_with_the_scene(sample, openModule, tmp_path):
    logic = openModule("Sample", sample).logic
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

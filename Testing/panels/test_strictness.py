"""The host is as strict as PythonQt: what Slicer does not have fails the test."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

from contract import ContractViolation, NotInHost  # noqa: E402

HERE = Path(__file__).parent
UI = (HERE / "Sample" / "Resources" / "UI" / "Sample.ui").read_text()


def test_properties_are_attributes(qt, ctk):
    button, slider = qt.QPushButton("Apply"), ctk.ctkSliderWidget()
    button.enabled, slider.maximum, slider.value = False, 5.0, 2.5
    assert (button.text, button.enabled, slider.value) == ("Apply", False, 2.5)
    assert type(button) is qt.QPushButton and isinstance(button, qt.QWidget)


MISTAKES = {
    "unknown property": (lambda qt, ctk: setattr(qt.QPushButton(), "caption", "x"), "QPushButton.caption is not a property"),
    "unknown method": (lambda qt, ctk: ctk.ctkPathLineEdit().setLabel("x"), "ctkPathLineEdit.setLabel does not exist"),
    "Python name on a widget": (lambda qt, ctk: setattr(qt.QLabel(), "myState", 1), "QLabel.myState is not a property"),
    "wrong type": (lambda qt, ctk: setattr(qt.QLabel(), "text", 5), "QLabel.text is a QString, it does not take 5"),
    "misspelled signal": (lambda qt, ctk: qt.QPushButton().connect("click()", print), "QPushButton has no signal 'click\\(\\)'"),
    "signal of the wrong type": (lambda qt, ctk: ctk.ctkSliderWidget().connect("valueChanged(int)", print), "no signal 'valueChanged"),
    "signal of Qt 5 alone": (lambda qt, ctk: qt.QComboBox().connect("currentIndexChanged(QString)", print), "in Qt 6"),
    "unknown class": (lambda qt, ctk: ctk.ctkSlider, "ctk.ctkSlider does not exist"),
    "unknown enum": (lambda qt, ctk: qt.QMessageBox.Okay, "QMessageBox.Okay does not exist"),
    "unknown slicer.util": (lambda qt, ctk: slicer.util.showDialog("x"), "slicer.util.showDialog does not exist"),
    "missing argument": (lambda qt, ctk: slicer.util.loadUI(), "missing a required argument"),
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


def test_hidden_widgets_cannot_be_used(host, openModule, click, typeText):
    ui = openModule("Sample", HERE).ui
    with pytest.raises(AssertionError, match="edit is not visible"):
        typeText(ui.edit, "hidden")
    click(ui.advanced)
    typeText(ui.edit, "seen")
    assert ui.edit.text == "seen"


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


@pytest.mark.slicer(version="5.10")
def test_slicer_5_10(host):
    assert not hasattr(slicer, "packaging")
    assert not hasattr(slicer.util, "executePythonModule")
    host.packages.missing.add("monai")
    slicer.util.pip_install(["monai>=1.4", "--constraint", "constraints.txt"])
    assert host.packages.calls == [("install", ["monai>=1.4", "--constraint", "constraints.txt"], {})]
    assert not host.packages.missing


def test_slicer_5_12(host):
    slicer.packaging.pip_install("monai", constraints="constraints.txt")
    assert host.packages.calls == [("install", ["monai"], {"constraints": "constraints.txt"})]


@pytest.mark.slicer(markTranslated=True)
def test_text_that_is_not_translated_is_found(host, openModule):
    widget = openModule("Sample", HERE)
    assert not host.untranslated(widget)
    widget.ui.applyButton.text = "Apply"
    assert host.untranslated(widget) == ["Apply"]


def test_a_timer_must_stop_in_cleanup(host, qt):
    timer = qt.QTimer()
    timer.start(1000)
    with host.expect(AssertionError, match="A timer still runs"):
        host.cleanup()
    timer.stop()

"""The test host: `slicer`, `qt` and `ctk` for our modules, strict as PythonQt, on real MRML and PySide6 off screen."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import types
from pathlib import Path

import ctk_widgets  # noqa: F401  (registers its widgets)
import plot_view  # noqa: F401
import pytest
import slicer
import slicer_app
import slicer_python
from application import qSlicerApplication, qSlicerScriptedLoadableModule
from contract import CLASSES, ContractViolation, isIn, record
from dialogs import Dialogs, QDesktopServices
from proxy import Proxy, proxyClass, timers, wrap
from PySide6 import QtCore, QtGui, QtTest, QtWidgets
from ui_files import QFile, UiLoader
from views import renderSlice

REPOSITORY = Path(__file__).parents[2]
VALUES = (QtCore, QtGui, QtWidgets)  # of them scripts get the plain values: colors, sizes, icons, table items, enums
MARK = "\u00ab{}\u00bb"  # around translated text


class QtModule(types.ModuleType):
    """`import qt` and `import ctk`."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if name in CLASSES and name.startswith("ctk" if self.__name__ == "ctk" else "Q"):
            if not isIn(CLASSES[name].get("since")):
                raise AttributeError(f"{name} does not exist in Slicer {record.version}")
            return proxyClass(name)
        value = next((getattr(module, name) for module in VALUES if hasattr(module, name)), None)
        if self.__name__ == "ctk" or not isinstance(value, type) or issubclass(value, QtCore.QObject):
            record.fail(f"{self.__name__}.{name} does not exist")
        return value


qt, ctk = QtModule("qt"), QtModule("ctk")
qt.QUiLoader, qt.QFile, qt.QDesktopServices = UiLoader, QFile, QDesktopServices


class Host:
    """One Slicer session: what a test does in it and asks about it."""

    def __init__(self, patch: pytest.MonkeyPatch, screenshots: Path, version="5.12", mainWindow=True, markTranslated=False) -> None:
        record.__init__(version)
        self.patch, self.screenshots, self.dialogs = patch, screenshots, Dialogs()
        self.packages, self.samples = slicer_python.Packages(), []
        QtCore.qInstallMessageHandler(onQtMessage)
        UiLoader.translate = staticmethod(MARK.format if markTranslated else str)
        QtCore.QSettings().clear()
        timers.clear()
        self.installModules()
        self.app = slicer_app.start(qSlicerApplication)
        patch.setattr(slicer, "app", wrap(self.app))
        self.installPythonSlicer()
        if mainWindow:
            self.app.openMainWindow()

    def installModules(self) -> None:
        """Puts Slicer's modules in place until the end of the test."""
        modules = slicer_python.modules(self.packages, lambda text: UiLoader.translate(text))  # imported once, used in all tests
        for name, module in modules.items():
            self.patch.setitem(sys.modules, "slicer." + name, module)
            self.patch.setattr(slicer, name, module, raising=False)
        for name, module in {"qt": qt, "ctk": ctk, "SampleData": slicer_python.sampleData(self.samples)}.items():
            self.patch.setitem(sys.modules, name, module)
        for name in CLASSES:
            if name[:5] in ("qMRML", "qSlic") and isIn(CLASSES[name].get("since")):
                self.patch.setattr(slicer, name, proxyClass(name), raising=False)

    def installPythonSlicer(self) -> None:
        program = Path(self.app.slicerHome) / "bin" / "PythonSlicer"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        program.chmod(0o755)
        self.patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def cleanup(self) -> None:
        """What Slicer asks of modules when it ends."""
        self.leave()
        for name in [name for name in vars(slicer.modules) if name.endswith("Widget")]:
            getattr(slicer.modules, name).cleanup()
        if any(timer.isActive() for timer in timers):
            record.keep(AssertionError("A timer still runs after cleanup()"))

    def close(self) -> None:
        """Ends the session; then all that went wrong in it is raised."""
        self.cleanup()
        QtWidgets.QApplication.processEvents()
        for widget in self.app.topLevelWidgets():
            widget.deleteLater()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        if self.dialogs.answers:
            record.keep(AssertionError(f"No dialog asked for these answers: {self.dialogs.answers}"))
        self.app.scene.RemoveAllObservers()  # nodes that go later must not reach deleted widgets
        self.check()

    def check(self) -> None:
        errors, record.errors = record.errors, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ContractViolation("\n".join(f"{type(error).__name__}: {error}" for error in errors)) from errors[0]

    @contextlib.contextmanager
    def expect(self, kind: type[Exception], match: str | None = None):
        """An error that the test wants to see, raised or lost in a slot."""
        with pytest.raises(kind, match=match):
            yield
            self.check()
        record.errors = [error for error in record.errors if not isinstance(error, kind)]

    def openModule(self, name: str, folder: Path = REPOSITORY):
        """Selects a module as a person does; returns its Python widget."""
        if not hasattr(slicer.modules, name.lower()):
            for path in (folder, folder / name):  # in Slicer all is in one folder
                self.patch.syspath_prepend(str(path))
            qSlicerScriptedLoadableModule(folder / name / f"{name}.py", self.patch)
        frame = getattr(slicer.modules, name.lower()).widgetRepresentation()
        if self.app.window:
            self.app.window.selector.selectModule(name)
        else:
            frame._native.show()
            frame.enter()
        QtWidgets.QApplication.processEvents()
        return frame.self()

    def leave(self) -> None:
        """Another module is selected."""
        if self.app.window:
            self.app.window.selector.selectModule("")

    def startupCompleted(self) -> None:
        self.app.startupCompleted.emit()

    def click(self, widget) -> None:
        """A click with the mouse; a person cannot click what is hidden or disabled."""
        native = usable(widget._native)
        position = QtCore.QPoint(8, min(native.height() // 2, 10))  # the title of a collapsible button
        QtTest.QTest.mouseClick(native, QtCore.Qt.MouseButton.LeftButton, pos=position)
        QtWidgets.QApplication.processEvents()

    def typeText(self, widget, text: str) -> None:
        """Replaces the text of a line edit, spin box, slider's number, text box or path."""
        native = widget._native
        native = usable(getattr(native, "spinBox", getattr(native, "edit", native)))
        native.setFocus()
        QtTest.QTest.keyClick(native, QtCore.Qt.Key.Key_A, QtCore.Qt.KeyboardModifier.ControlModifier)
        QtTest.QTest.keyClicks(native, text)
        QtTest.QTest.keyClick(native, QtCore.Qt.Key.Key_Tab)
        QtWidgets.QApplication.processEvents()

    def choose(self, comboBox, text: str) -> None:
        """Picks an entry of a combo box or node selector by its text."""
        combo = usable(getattr(comboBox._native, "combo", comboBox._native))
        index = combo.findText(text)
        assert index >= 0, f"{text!r} is not among {[combo.itemText(i) for i in range(combo.count())]}"
        combo.setCurrentIndex(index)
        combo.activated.emit(index)
        QtWidgets.QApplication.processEvents()

    def waitUntil(self, condition, timeout: float = 30.0) -> None:
        """Runs Qt's event loop until `condition()` holds; errors in slots end the wait."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s: {condition}"
            QtTest.QTest.qWait(20)
            if record.errors:
                self.check()

    def screenshot(self, widget, name: str) -> Path:
        """A picture of a widget, or of a module's panel."""
        path, native = self.screenshots / f"{name}.png", (widget if isinstance(widget, Proxy) else widget.parent)._native
        for _nested in range(6 if native.isWindow() else 0):  # layouts in layouts
            QtWidgets.QApplication.processEvents()
            native.resize(native.width(), native.sizeHint().height())
        QtWidgets.QApplication.processEvents()
        assert native.grab().save(str(path))
        return path

    def sliceView(self, name: str, view: str = "Red", size=(500, 400)) -> Path:
        """A picture of what a slice view shows."""
        return renderSlice(self.app.views.sliceWidget(view).sliceLogic(), self.screenshots / f"{name}.png", size)

    def untranslated(self, widget) -> list[str]:
        """Texts on a panel that did not go through `_()`; needs the marker slicer(markTranslated=True)."""
        root = (widget if isinstance(widget, Proxy) else widget.parent)._native
        names, texts = ("text", "title", "toolTip", "placeholderText"), []
        for child in [root, *root.findChildren(QtWidgets.QWidget)]:
            isInput = isinstance(child, (QtWidgets.QLineEdit, QtWidgets.QAbstractSpinBox))
            texts += [str(child.property(name) or "") for name in names if not (isInput and name == "text")]
            if isinstance(child, QtWidgets.QComboBox) and not hasattr(child.parent(), "nodeTypes"):
                texts += [child.itemText(index) for index in range(child.count())]
        return [text for text in texts if any(c.isalpha() for c in text) and MARK[0] not in text]


def onQtMessage(kind, context, message: str) -> None:
    """Qt's warnings are mistakes: a second layout, a property of .ui files that is lost, a timer of another thread."""
    if "plugin does not support" not in message:  # the off-screen platform's
        record.keep(AssertionError(f"Qt: {message}"))


def usable(native):
    """What a person can use is on the screen and enabled."""
    name = f"{type(native).__name__} {native.objectName()}"
    assert native.isVisible(), f"{name} is not visible"
    assert native.isEnabled(), f"{name} is disabled"
    return native

"""The test host: `slicer`, `qt` and `ctk` for our modules, strict as PythonQt, on real MRML and PySide6 off screen."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
import sys
import time
import types
from pathlib import Path

import ctk_widgets  # noqa: F401  (registers its widgets)
import mrml_widgets  # noqa: F401
import pytest
import slicer
import slicer_app
import slicer_python
from contract import CLASSES, ContractViolation, isIn, record
from dialogs import Dialogs
from proxy import Proxy, implements, proxyClass, wrap
from PySide6 import QtCore, QtGui, QtTest, QtWidgets
from ui_files import UiLoader
from views import qSlicerLayoutManager, renderSlice

REPOSITORY = Path(__file__).parents[2]
VALUES = (QtCore, QtGui, QtWidgets)  # of them scripts get the plain values: colors, sizes, icons, table items, enums


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
        if self.__name__ == "ctk" or value is None or issubclass(value, QtCore.QObject):
            record.fail(f"{self.__name__}.{name} does not exist")
        return value


class QFile(QtCore.QFile):
    def __init__(self, path) -> None:
        if not isinstance(path, str):
            record.fail(f"qt.QFile takes a str, not {path!r}")
        super().__init__(path)


qt, ctk = QtModule("qt"), QtModule("ctk")
qt.QUiLoader, qt.QFile = UiLoader, QFile


@implements
class qSlicerApplication(slicer_app.App, QtCore.QObject):
    startupCompleted = QtCore.Signal()
    majorVersion = 5
    isTesting = False

    def __init__(self) -> None:
        QtCore.QObject.__init__(self)
        slicer_app.App.__init__(self)
        self.layoutManagerOrNone = None
        self.managerOfModules = qSlicerModuleManager()
        self.slicerHome = os.path.join(self.temporaryPath, "Slicer")
        self.minorVersion = int(record.version.split(".")[1])

    def __getattr__(self, name: str):
        if name in ("_proxy", "_connections"):
            raise AttributeError(name)
        return getattr(QtWidgets.QApplication.instance(), name)

    def layoutManager(self):
        return self.layoutManagerOrNone

    def testingEnabled(self) -> bool:
        return self.isTesting

    def moduleManager(self):
        return self.managerOfModules

    def settings(self):
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def processEvents(self, *args) -> None:
        QtWidgets.QApplication.processEvents()


@implements
class qSlicerModuleManager(QtCore.QObject):
    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def module(self, name: str):
        return getattr(slicer.modules, name.lower(), None)

    def modulesNames(self) -> list[str]:
        return [name for name in vars(slicer.modules) if not name.endswith("Widget")]


@implements
class qSlicerScriptedLoadableModuleWidget(QtWidgets.QWidget):
    """The frame in which a scripted module builds its panel."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, module) -> None:
        super().__init__()
        self.moduleName, self.script = module.name, None
        QtWidgets.QVBoxLayout(self)

    def build(self) -> None:
        script = getattr(sys.modules[self.moduleName], self.moduleName + "Widget")
        self.script = script(wrap(self))
        setattr(slicer.modules, self.moduleName + "Widget", self.script)
        self.script.setup()

    def reload(self) -> None:
        self.build()

    def self(self):
        return self.script


@implements
class qSlicerScriptedLoadableModule(QtCore.QObject):
    """What Slicer makes of a module's .py file."""

    title = helpText = acknowledgementText = ""
    icon, hidden, index = None, False, -1

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.name, self.widget = str(path), path.stem, None
        self.categories, self.dependencies, self.contributors, self.associatedNodeTypes = [], [], [], []
        spec = importlib.util.spec_from_file_location(self.name, path)
        sys.modules[self.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[self.name])
        setattr(slicer.modules, self.name.lower(), wrap(self))
        self.script = getattr(sys.modules[self.name], self.name)(wrap(self))
        setattr(slicer.modules, self.name + "Instance", self.script)

    def widgetRepresentation(self):
        if self.widget is None:
            self.widget = qSlicerScriptedLoadableModuleWidget(self)
            self.widget.build()
        return self.widget

    def logic(self):
        return None


class Host:
    """One Slicer session: what a test says and asks about it."""

    def __init__(self, version: str, mainWindow: bool, screenshots: Path, patch: pytest.MonkeyPatch) -> None:
        record.__init__()
        record.version = version
        self.dialogs, self.pipCalls, self.samples, self.screenshots = Dialogs(record), [], [], screenshots
        self.opened = None
        QtCore.QSettings().clear()
        self.install(patch)
        slicer_app.start(qSlicerApplication)
        self.app = slicer.app
        patch.setattr(slicer, "app", wrap(slicer.app))
        self.installPythonSlicer(patch)
        if mainWindow:
            self.window = QtWidgets.QMainWindow(objectName="qSlicerMainWindow")
            self.window.statusBar()
            self.app.layoutManagerOrNone = qSlicerLayoutManager(self.app)
        self.patch = patch

    def install(self, patch) -> None:
        """Puts Slicer's modules in place until the end of the test."""
        calls, functions = self.pipCalls, ("pip_ensure", "pip_install", "pip_uninstall", "load_pyproject_dependencies")
        packaging = {name: slicer_python.recorded(name, calls) for name in functions}
        packaging |= {"load_requirements": slicer_python.loadRequirements, "pip_check": lambda requirement: True}
        util = dict(vars(slicer.util)) | {name: packaging[name] for name in ("pip_install", "pip_uninstall")}
        i18n = {"tr": lambda text: text, "translate": lambda context, text: text, "getContext": lambda file: Path(file).stem}
        checked = {"util": util, "i18n": i18n}
        if record.version != "5.10":
            checked["packaging"] = packaging
        modules = {name: slicer_python.CheckedModule(name, functions) for name, functions in checked.items()}
        modules["ScriptedLoadableModule"] = slicer_python.scriptedLoadableModule()
        for name, module in modules.items():
            patch.setitem(sys.modules, "slicer." + name, module)
            patch.setattr(slicer, name, module, raising=False)
        for name, module in {"qt": qt, "ctk": ctk, "SampleData": slicer_python.sampleData(self.samples)}.items():
            patch.setitem(sys.modules, name, module)
        for name in CLASSES:
            if name[:5] in ("qMRML", "qSlic") and isIn(CLASSES[name].get("since")):
                patch.setattr(slicer, name, proxyClass(name), raising=False)

    def installPythonSlicer(self, patch) -> None:
        program = Path(self.app.slicerHome) / "bin" / "PythonSlicer"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def close(self) -> None:
        """Leaves the session as Slicer does at its exit; then all that went wrong in it is raised."""
        self.leave()
        for name in [n for n in vars(slicer.modules) if n.endswith("Widget")]:
            getattr(slicer.modules, name).cleanup()
        QtWidgets.QApplication.processEvents()
        for widget in QtWidgets.QApplication.topLevelWidgets():
            widget.deleteLater()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
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
            self.patch.syspath_prepend(str(folder))
            self.patch.syspath_prepend(str(folder / name))
            qSlicerScriptedLoadableModule(folder / name / f"{name}.py")
        frame = getattr(slicer.modules, name.lower()).widgetRepresentation()
        self.leave()
        frame._native.resize(420, 900)
        frame.show()
        self.opened = frame.self()
        if hasattr(self.opened, "enter"):
            self.opened.enter()
        QtWidgets.QApplication.processEvents()
        return self.opened

    def leave(self) -> None:
        """Another module is selected."""
        if hasattr(self.opened, "exit"):
            self.opened.exit()
        self.opened = None

    def startupCompleted(self) -> None:
        self.app.startupCompleted.emit()

    def click(self, widget) -> None:
        """A click with the mouse; a person cannot click what is hidden or disabled."""
        native = widget._native
        assert native.isVisible(), f"{native.objectName() or native} is not visible"
        assert native.isEnabled(), f"{native.objectName() or native} is disabled"
        position = QtCore.QPoint(8, min(native.height() // 2, 10))  # the title of a collapsible button
        QtTest.QTest.mouseClick(native, QtCore.Qt.MouseButton.LeftButton, pos=position)
        QtWidgets.QApplication.processEvents()

    def typeText(self, widget, text: str) -> None:
        """Replaces the text of a line edit, spin box, text box or path."""
        native = widget._native
        native = getattr(native, "spinBox", getattr(native, "edit", native))
        assert native.isVisible() and native.isEnabled(), f"{native.objectName() or native} takes no text"
        native.setFocus()
        QtTest.QTest.keyClick(native, QtCore.Qt.Key.Key_A, QtCore.Qt.KeyboardModifier.ControlModifier)
        QtTest.QTest.keyClicks(native, text)
        QtTest.QTest.keyClick(native, QtCore.Qt.Key.Key_Tab)
        QtWidgets.QApplication.processEvents()

    def choose(self, comboBox, text: str) -> None:
        """Picks an entry of a combo box or node selector by its text."""
        combo = getattr(comboBox._native, "combo", comboBox._native)
        assert combo.isVisible() and combo.isEnabled(), f"{combo.objectName() or combo} cannot be used"
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
        path = self.screenshots / f"{name}.png"
        QtWidgets.QApplication.processEvents()
        proxyOf = widget if isinstance(widget, Proxy) else widget.parent  # or a module's Python widget
        assert proxyOf._native.grab().save(str(path))
        return path

    def sliceView(self, name: str, view: str = "Red", size=(500, 400)) -> Path:
        """A picture of what the panel shows in a slice view."""
        logic = self.app.layoutManagerOrNone.widgets[view].logicOfSlice
        return renderSlice(logic, self.screenshots / f"{name}.png", size)

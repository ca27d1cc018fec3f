"""Slicer's application, main window and module objects, as scripts meet them."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path

import slicer
import slicer_app
from contract import record
from mrml_widgets import qSlicerWidget
from proxy import implements, wrap
from PySide6 import QtCore, QtWidgets
from views import qSlicerLayoutManager


@implements
class qSlicerApplication(slicer_app.App, QtCore.QObject):
    startupCompleted = QtCore.Signal()
    majorVersion = 5
    isTesting = False

    def __init__(self) -> None:
        QtCore.QObject.__init__(self)
        slicer_app.App.__init__(self)
        self.views = self.window = None
        self.modules = qSlicerModuleManager()
        self.slicerHome = os.path.join(self.temporaryPath, "Slicer")
        self.minorVersion = int(record.version.split(".")[1])

    def openMainWindow(self) -> None:
        self.window = qSlicerMainWindow()
        self.views = qSlicerLayoutManager(self)

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(QtWidgets.QApplication.instance(), name)  # C++: it is one

    def topLevelWidgets(self) -> list:
        gc.collect()
        gc.disable()  # a collection while PySide makes the list would delete widgets of it
        try:
            return QtWidgets.QApplication.topLevelWidgets()
        finally:
            gc.enable()

    def layoutManager(self):
        return self.views

    def testingEnabled(self) -> bool:
        return self.isTesting

    def moduleManager(self):
        return self.modules

    def settings(self):
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def processEvents(self, *args) -> None:
        QtWidgets.QApplication.processEvents()


@implements
class qSlicerMainWindow(QtWidgets.QMainWindow):
    def __init__(self) -> None:
        super().__init__(objectName="qSlicerMainWindow")
        self.statusBar()
        self.selector = qSlicerModuleSelectorToolBar()

    def moduleSelector(self):
        return self.selector


@implements
class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    """Shows one module at a time."""

    moduleSelected = QtCore.Signal(str)
    selectedModule = ""
    frame = None

    def selectModule(self, name: str) -> None:
        if self.frame:
            self.frame.exit()
            self.frame.hide()
        self.selectedModule = name
        module = getattr(slicer.modules, name.lower())._native if hasattr(slicer.modules, name + "Instance") else None
        self.frame = module.widgetRepresentation() if module else None
        if self.frame:
            self.frame.show()
            self.frame.enter()
        self.moduleSelected.emit(name)


@implements
class qSlicerModuleManager(QtCore.QObject):
    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def module(self, name: str):
        return getattr(slicer.modules, name.lower(), None)


@implements
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The frame in which a scripted module builds its panel."""

    def __init__(self, module) -> None:
        super().__init__()
        self.moduleName, self.script = module.name, None
        self.resize(420, 900)
        QtWidgets.QVBoxLayout(self)

    def reload(self) -> None:
        """Builds the panel from the class that the script now has."""
        script = getattr(sys.modules[self.moduleName], self.moduleName + "Widget")
        self.script = script(wrap(self))
        setattr(slicer.modules, self.moduleName + "Widget", self.script)
        self.script.setup()

    def self(self):
        return self.script

    def enter(self) -> None:
        getattr(self.script, "enter", lambda: None)()

    def exit(self) -> None:
        getattr(self.script, "exit", lambda: None)()


@implements
class qSlicerScriptedLoadableModule(QtCore.QObject):
    """What Slicer makes of a module's .py file."""

    title = helpText = acknowledgementText = ""
    icon, hidden, index = None, False, -1

    def __init__(self, path: Path, patch) -> None:
        super().__init__()
        self.path, self.name, self.widget, self.scene = str(path), path.stem, None, slicer.mrmlScene
        self.categories, self.dependencies, self.contributors, self.associatedNodeTypes = [], [], [], []
        spec = importlib.util.spec_from_file_location(self.name, path)
        patch.setitem(sys.modules, self.name, importlib.util.module_from_spec(spec))
        spec.loader.exec_module(sys.modules[self.name])
        setattr(slicer.modules, self.name.lower(), wrap(self))
        script = getattr(sys.modules[self.name], self.name)
        setattr(slicer.modules, self.name + "Instance", script(wrap(self)))

    def widgetRepresentation(self):
        if self.widget is None:
            self.widget = qSlicerScriptedLoadableModuleWidget(self)
            self.widget.reload()
        return self.widget

    def logic(self):
        return None

    def mrmlScene(self):
        return self.scene

    def setMRMLScene(self, scene) -> None:
        self.scene = scene
        if self.widget:
            self.widget.setMRMLScene(scene)

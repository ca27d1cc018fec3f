"""A small module for the tests of the host."""

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget
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
        self.timer = qt.QTimer()
        self.timer.setSingleShot(True)
        self.timer.connect("timeout()", self.onDone)
        self.timer.start(10)
        self.ui.applyButton.text = _("Cancel")

    def onDone(self):
        self.logic.getParameterNode().SetParameter("threshold", str(self.ui.threshold.value))
        self.ui.applyButton.text = _("Apply")


class SampleLogic(ScriptedLoadableModuleLogic):
    pass

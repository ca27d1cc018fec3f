"""The panel that all modules share: inputs, options made from the config, Apply and Cancel, progress, log, errors.

The .ui file names its widgets after the task: `fixedLabelsSelector` chooses a node for the input fixed_labels, `modelFile` a file
or folder for the input model, `similarityOption` shows the option similarity; every option without a widget of its own gets a row
in `advancedForm`. What the module does with a result is its own: `results` shows and clears it. A module with several tasks has a
.ui file and a panel for each, and gives their parameters a prefix.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from imagingai.errors import ImagingAIError
from imagingai.tasks import TASKS
from ImagingAILib import fields, install
from ImagingAILib.nodes import NodeError
from ImagingAILib.parameters import Parameters, camelCase, configOf, presetsOf, typeOf

FLAG = r"--([a-z][a-z-]+)"  # errors name options as on the command line; in the panel --max-voxels is max voxels
HIDDEN = ("outputs", "preview", "accept", "key")  # the panel decides


class Results(Protocol):
    """What a module shows of a run."""

    def suspend(self) -> None: ...
    def showProgress(self, run) -> None: ...
    def show(self, run) -> None: ...
    def clear(self) -> None: ...


class TaskPanel(VTKObservationMixin):
    """Binds the widgets of a .ui file to the parameters of a task.

    start(parameters, timer, onProgress, onDone) starts a run (`NodeRun`) and returns it; check(parameters) says what else is
    missing before that; outputs: roles of nodes that are replaced.
    """

    def __init__(
        self,
        ui,
        task: str,
        requirements: str,
        start: Callable,
        results: Results,
        check: Callable[[Parameters], str] = lambda parameters: "",
        outputs: tuple[str, ...] = (),
        prefix: str = "",
    ) -> None:
        VTKObservationMixin.__init__(self)
        self.ui, self.task, self.requirements, self.start, self.results = ui, task, requirements, start, results
        self.check, self.outputs, self.prefix, self.verb = check, outputs, prefix, ui.applyButton.text
        self.parameters: Parameters | None = None
        self.run = None
        self.edited = ""  # the option that is being typed
        self.options = self.makeOptions()
        self.selectors = self.connectSelectors()
        self.files = self.connectFiles()
        ui.applyButton.connect("clicked(bool)", self.onApply)
        ui.resetButton.connect("clicked(bool)", self.onReset)
        self.updateApply()

    # --- made once

    def makeOptions(self) -> dict:
        """A widget for every option, by name."""
        config, found = configOf(self.task), {}
        for name, field in config.__dataclass_fields__.items():
            widget = getattr(self.ui, camelCase(name) + "Option", None)
            if widget is not None:
                fields.prepareField(widget, field)
            elif name in HIDDEN:
                continue
            else:
                widget = fields.makeField(field, typeOf(config, name))
                widget.objectName = camelCase(name) + "Option"
                self.ui.advancedForm.addRow(fields.titleOf(name), widget)
            fields.onChange(widget, partial(self.onOption, name))
            found[name] = widget
        if presets := presetsOf(self.task):
            self.ui.presetOption.addItems(list(presets))
            self.ui.presetOption.toolTip = _("A set of values for the settings; what you change yourself wins.")
            self.ui.presetOption.connect("currentTextChanged(QString)", self.onPreset)
        return found

    def connectSelectors(self) -> dict:
        """The node selectors by the name of the input or output."""
        found = self.widgets("Selector", self.outputs)
        for name, selector in found.items():
            selector.connect("currentNodeChanged(vtkMRMLNode*)", partial(self.onNode, name))
        return found

    def connectFiles(self) -> dict:
        """The path widgets by the name of the input; `outputFile` is the folder for the results."""
        found = self.widgets("File", ("output",))
        for name, widget in found.items():
            widget.connect("currentPathChanged(QString)", partial(self.onFile, name))
        return found

    def widgets(self, kind: str, more: tuple[str, ...]) -> dict:
        names = [item.name for item in TASKS[self.task].inputs] + list(more)
        found = {name: getattr(self.ui, camelCase(name) + kind, None) for name in names}
        return {name: widget for name, widget in found.items() if widget is not None}

    # --- parameters and widgets

    def setParameterNode(self, node) -> None:
        """Show a parameter node and follow it; None while there is no scene to work on."""
        if self.parameters:
            self.removeObserver(self.parameters.node, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self.parameters = Parameters(node, self.task, self.prefix) if node else None
        if node:
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onParameters)
            self.onParameters()

    def onParameters(self, caller=None, event=None) -> None:
        for name, widget in self.options.items():
            if name != self.edited and fields.readField(widget) != self.parameters.text(name):
                fields.writeField(widget, self.parameters.text(name))
            fields.mark(widget, self.parameters.isChanged(name))
        for name, selector in self.selectors.items():
            if selector.currentNode() is not self.parameters.nodeOf(name):
                selector.setCurrentNode(self.parameters.nodeOf(name))
        for name, widget in self.files.items():
            if name != self.edited and widget.currentPath != self.parameters.file(name):
                fields.writeField(widget, self.parameters.file(name))
        if self.parameters.presets:
            fields.writeField(self.ui.presetOption, self.parameters.preset)
        self.ui.resetButton.enabled = any(self.parameters.isChanged(name) for name in self.options)
        self.updateApply()

    def onOption(self, name: str, _value=None) -> None:
        if self.parameters:
            self.edited = name  # nothing is rewritten under the cursor
            self.parameters.setText(name, fields.readField(self.options[name]))
            self.edited = ""

    def onFile(self, name: str, path: str) -> None:
        if self.parameters:
            self.edited = name
            self.parameters.setFile(name, path)
            self.edited = ""

    def onPreset(self, name: str) -> None:
        if self.parameters:
            self.parameters.choosePreset(name)

    def onNode(self, name: str, node=None) -> None:
        if self.parameters:
            self.parameters.setNodeOf(name, node)

    def onReset(self, _checked=False) -> None:
        self.parameters.reset()

    # --- Apply

    def updateApply(self) -> None:
        """Apply tells what is missing; while a job runs it is Cancel."""
        button = self.ui.applyButton
        if self.run:
            return
        missing = self.missing()
        button.text, button.enabled = self.verb, not missing
        button.toolTip = missing or _("Start; the views stay usable meanwhile.")

    def missing(self) -> str:
        """What has to be chosen before Apply, or nothing."""
        if not self.parameters:
            return _("There is no scene.")
        for item in self.parameters.task.inputs:
            if (
                item.required
                and item.name in (*self.selectors, *self.files)
                and not (self.parameters.nodeOf(item.name) or self.parameters.file(item.name))
            ):
                text = _("Choose the {name} volume.") if item.name in self.selectors else _("Choose the {name}.")
                return text.format(name=item.name.replace("_", " "))
        return self.check(self.parameters)

    def onApply(self, _checked=False) -> None:
        if self.run:
            self.ui.applyButton.text, self.ui.applyButton.enabled = _("Cancelling..."), False
            self.run.cancel()
            return
        try:
            if self.mayBegin():
                self.begin()
        except (NodeError, ImagingAIError, install.InstallError) as error:
            self.fail(str(error))

    def mayBegin(self) -> bool:
        """Ask what has to be asked before a run."""
        return self.mayOverwrite() and self.ensure()

    def ensure(self) -> bool:
        """Have what the task needs; False if the user declined to install it."""
        return install.ensure(self.requirements, self.mayInstall)

    def mayInstall(self, text: str) -> bool:
        """Ask; a Slicer under test answers every question with yes, but must not download."""
        return not slicer.app.testingEnabled() and slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Install packages?"))

    def mayOverwrite(self) -> bool:
        """Ask before an output that holds something is replaced."""
        outputs = [self.parameters.nodeOf(name) for name in self.outputs]
        full = [node.GetName() for node in outputs if node and holdsSomething(node)]
        text = _("{names} will be replaced. Choose another output to keep it.").format(names=_(" and ").join(full))
        return not full or slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Replace the output?"))

    def begin(self) -> None:
        self.began = time.monotonic()
        self.ui.logText.clear()
        self.timer = qt.QTimer()
        self.run = self.start(self.parameters, self.timer, self.onProgress, self.onDone)
        if self.run.state != "running":  # it ended while it was started
            self.run = None
            return
        self.results.suspend()
        self.ui.applyButton.text, self.ui.applyButton.enabled = _("Cancel"), True
        self.ui.applyButton.toolTip = _("Stop this computation.")
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = self.ui.statusLabel.visible = True
        self.ui.statusLabel.text = _("Starting...")

    def onProgress(self, line: dict) -> None:
        self.ui.progressBar.value = round(1000 * line["fraction"])
        left = line.get("seconds_left")
        text = line["text"] if not left else _("{what}, {time} left").format(what=line["text"], time=clock(left))
        self.ui.statusLabel.text = text
        self.ui.logText.appendPlainText(f"{time.monotonic() - self.began:6.1f} s  {line['text']}")
        self.results.showProgress(self.run)

    def onDone(self, run) -> None:
        self.run = None
        self.ui.progressBar.visible = False
        log = run.folder / "log.txt"
        if log.exists():
            self.ui.logText.appendPlainText(log.read_text(encoding="utf-8", errors="replace"))
        self.updateApply()
        self.results.show(run)
        if run.state == "failed":
            self.fail(run.error)
        else:
            done = _("Done in {time}.").format(time=clock(time.monotonic() - self.began))
            self.ui.statusLabel.text = done if run.state == "done" else run.textWhenStopped

    def fail(self, error: str) -> None:
        """One dialog: the first line says what to do, the rest is detail."""
        first, _sep, rest = re.sub(FLAG, lambda flag: flag[1].replace("-", " "), error).partition("\n")
        self.ui.statusLabel.visible, self.ui.statusLabel.text = True, first
        self.ui.logText.appendPlainText(error)
        slicer.util.errorDisplay(first, windowTitle=_("ImagingAI"), **({"detailedText": rest} if rest else {}))

    # --- the end

    def stop(self) -> None:
        """The scene goes away: end the job without a word."""
        if self.run:
            self.run.abandon()
            self.run = None
            self.ui.progressBar.visible = self.ui.statusLabel.visible = False
        self.results.clear()
        self.setParameterNode(None)
        self.updateApply()

    def close(self) -> None:
        """The module goes away."""
        self.stop()
        self.removeObservers()


def holdsSomething(node) -> bool:
    """Whether a volume has voxels, or a transform is not the identity."""
    if node.IsA("vtkMRMLVolumeNode"):
        return node.GetImageData() is not None
    matrix = vtk.vtkMatrix4x4()
    return not node.IsLinear() or (node.GetMatrixTransformToParent(matrix) and not matrix.IsIdentity())


def clock(seconds: float) -> str:
    """65 -> 1:05"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

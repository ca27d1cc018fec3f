"""The quality queue of a cohort: worst first, a row loads its case, every decision is in the file at once."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from imagingai.errors import ImagingAIError
from imagingai.uncertainty import queue
from ImagingAILib.case import Case
from ImagingAILib.case_view import LIGHTS, CaseView, fillTable
from ImagingAILib.nodes import NodeError

READER_KEY = "ImagingAI/Reader"  # setting: the name of who decides
FILE = "queue.csv"
BUTTONS = {"accept": "acceptButton", "fix": "fixButton", "reject": "rejectButton", "": "undecideButton"}


class QueueView:
    """Works on the queue.csv of a folder of results. The folder is remembered by `remember(path)`, in the parameters."""

    def __init__(self, ui, view: CaseView) -> None:
        self.ui, self.view = ui, view
        self.path: Path | None = None
        self.rows: list[queue.Row] = []
        self.case: Case | None = None
        ui.resultsFile.connect("currentPathChanged(QString)", self.onPath)
        ui.openButton.connect("clicked(bool)", self.onOpen)
        ui.queueTable.connect("itemSelectionChanged()", self.onSelect)
        for decision, name in BUTTONS.items():
            getattr(ui, name).connect("clicked(bool)", partial(self.onDecide, decision))
        ui.readerEdit.text = slicer.util.settingsValue(READER_KEY, "")
        ui.readerEdit.connect("editingFinished()", self.onReader)
        self.updateButtons()

    # --- the queue

    def onPath(self, path: str) -> None:
        self.ui.openButton.enabled = os.path.isdir(path)

    def onOpen(self, _checked=False) -> None:
        """Read the results and sort them; decisions that were made before are kept."""
        folder = Path(self.ui.resultsFile.currentPath)
        try:
            earlier = queue.read(folder / FILE) if (folder / FILE).exists() else []
            self.rows = queue.keep_decisions(queue.collect(folder), earlier)
            queue.write(folder / FILE, self.rows)
        except ImagingAIError as error:
            self.fail(str(error))
            return
        self.path = folder / FILE
        self.fill()
        self.say("")

    def fill(self) -> None:
        """Show the rows; none is selected."""
        table = self.ui.queueTable
        wasBlocked = table.blockSignals(True)
        columns = [_("Case"), _("Dice"), _("Decision"), _("Reason")]
        fillTable(table, columns, [self.texts(row) for row in self.rows], isLong=True)
        for number, row in enumerate(self.rows):
            item = table.item(number, 0)
            item.setForeground(qt.QBrush(qt.QColor(LIGHTS.get(row["light"], LIGHTS[""]))))
            table.item(number, 3).setToolTip(row["reason"])
        table.clearSelection()
        table.blockSignals(wasBlocked)
        self.updateButtons()
        open_ = sum(not row["decision"] for row in self.rows)
        counts = {light: sum(row["light"] == light for row in self.rows) for light in ("bad", "look", "good")}
        text = _("{count} cases: {bad} with a problem, {look} to look at, {good} good; {open} not decided.")
        self.ui.summaryLabel.text = text.format(count=len(self.rows), open=open_, **counts) if self.rows else ""

    def texts(self, row: queue.Row) -> tuple[str, ...]:
        words = {"accept": _("accepted"), "fix": _("to fix"), "reject": _("rejected"), "": ""}
        return ("● " + row["case"], row["predicted_dice"], words[row["decision"]], row["note"] or row["reason"])

    def selected(self) -> queue.Row | None:
        found = self.ui.queueTable.selectedItems()
        return self.rows[found[0].row()] if found else None

    # --- a case

    def onSelect(self) -> None:
        """Load the case of the row; the nodes of the one before go, unless a person has changed its segmentation."""
        self.updateButtons()
        row = self.selected()
        self.forget()
        if not row:
            return
        self.ui.noteEdit.text = row["note"]
        try:
            self.case = Case(Path(row["folder"]), name=row["case"].replace("/", " "))
        except NodeError as error:
            self.say(str(error))
            return
        self.view.show(self.case)
        self.say("" if self.case.image else _("The image of this case is no longer where it was; the maps are shown alone."))

    def forget(self) -> None:
        """Take the nodes of the case before out of the scene; a segmentation that was edited is written first."""
        case, self.case = self.case, None
        if case is None:
            return
        try:
            case.saveCorrection()
        except NodeError as error:
            self.fail(str(error))
            return  # and stays in the scene
        if self.view.case is case:
            self.view.clear()
        case.remove()

    def onDecide(self, decision: str, _checked=False) -> None:
        """Write the decision, then go to the next case that is not decided."""
        row = self.selected()
        try:
            corrected = self.case.saveCorrection() if self.case and decision == "fix" else None
            queue.decide(self.path, row["case"], decision, self.ui.readerEdit.text.strip(), self.ui.noteEdit.text)
            self.rows = queue.read(self.path)
        except (ImagingAIError, NodeError) as error:
            self.fail(str(error))
            return
        self.fill()
        number = self.next(row["case"], isDecided=bool(decision))
        if number is None:
            self.forget()
            self.say(_("All cases are decided. The decisions are in {path}.").format(path=self.path))
            return
        self.ui.queueTable.selectRow(number)
        if corrected:
            self.say(_("The corrected segmentation is in {path}.").format(path=corrected))

    def next(self, case: str, isDecided: bool) -> int | None:
        """The row to go to after a decision about a case; that of the case itself if it was taken back."""
        names = [row["case"] for row in self.rows]
        start = names.index(case)
        if not isDecided:
            return start
        order = [*range(start + 1, len(names)), *range(start)]
        return next((number for number in order if not self.rows[number]["decision"]), None)

    # --- small parts

    def onReader(self) -> None:
        slicer.app.settings().setValue(READER_KEY, self.ui.readerEdit.text)

    def updateButtons(self) -> None:
        row = self.selected()
        for decision, name in BUTTONS.items():
            getattr(self.ui, name).enabled = bool(row and row["decision"] != decision)

    def say(self, text: str) -> None:
        self.ui.statusLabel.visible, self.ui.statusLabel.text = bool(text), text

    def fail(self, text: str) -> None:
        self.say(text)
        slicer.util.errorDisplay(text, windowTitle=_("ImagingAI"))

    def clear(self) -> None:
        """The scene goes away: the queue stays, without a selected case."""
        self.case = None
        self.fill()

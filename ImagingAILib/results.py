"""The result section of a registration panel: the table of measures, and the buttons to compare."""

from __future__ import annotations

from functools import partial

import qt
import slicer
from slicer.i18n import tr as _

from ImagingAILib import compare
from ImagingAILib import nodes as files
from ImagingAILib.nodes import NodeError

FLICKER = 600  # ms
WORST_ROWS = 14  # that the table shows without scrolling


class RegistrationResults:
    """Shows a `Registration` and how good it is. Every view is a toggle: one at a time, none shows the blend."""

    def __init__(self, ui) -> None:
        self.ui, self.run, self.preview, self.previewTime, self.map, self.tiles = ui, None, None, 0.0, None, None
        self.layersBefore: dict = {}
        self.timer = qt.QTimer()
        self.timer.connect("timeout()", self.onFlicker)
        self.views = {
            ui.flickerButton: self.showFlicker,
            ui.checkerboardButton: self.showCheckerboard,
            ui.jacobianButton: partial(self.showMap, "jacobian", _("Jacobian determinant")),
            ui.similarityButton: partial(self.showMap, "similarity_map", _("Disagreement")),
        }
        for button in self.views:
            button.connect("toggled(bool)", partial(self.onView, button))
        ui.latticeButton.connect("toggled(bool)", self.onLattice)
        ui.blendSlider.connect("valueChanged(double)", self.onBlend)
        ui.worstButton.connect("clicked(bool)", self.onWorst)
        ui.undoButton.connect("clicked(bool)", self.onUndo)
        self.enable(False)

    # --- what the panel calls

    def showProgress(self, run) -> None:
        """The moved image so far, over the fixed one."""
        file = run.folder / "preview.nrrd"
        try:
            time = file.stat().st_mtime
        except OSError:
            return  # none yet
        if time == self.previewTime:
            return
        self.previewTime = time
        isNew = self.preview is None
        try:
            self.preview = files.readVolume(file, _("{name} (preview)").format(name=run.name), self.preview)
        except NodeError:
            return  # the job has just ended and removed it
        self.preview.SaveWithSceneOff()
        self.preview.SetHideFromEditors(True)  # nobody is to choose what goes away
        if isNew:
            self.layersBefore = compare.layers()
            compare.showBlend(run.chosen["fixed"], self.preview, self.ui.blendSlider.value)

    def show(self, run) -> None:
        """The end of a run, whatever the end."""
        self.removePreview()
        link = f'<a href="{run.folder.as_uri()}">{run.folder}</a>'
        if run.state != "done":
            self.enable(self.run is not None)  # the last result is still there
            return
        self.clear()
        self.run = run
        self.ui.folderLabel.text = _("Files of this run: {link}").format(link=link)
        self.ui.resultsSection.collapsed = False
        if (run.folder / "report.html").exists():
            page = f'<a href="{(run.folder / "report.html").as_uri()}">{_("report with pictures")}</a>'
            self.ui.folderLabel.text += "<br>" + page
        self.fillTable(run.table)
        self.enable(True)
        compare.showBlend(run.chosen["fixed"], run.volume, self.ui.blendSlider.value)

    def suspend(self) -> None:
        """While the next run goes on, the last result cannot be worked with."""
        for button in (*self.views, self.ui.latticeButton):
            button.checked = False
        self.removeMaps()
        self.enable(False)

    def clear(self) -> None:
        """Forget the result; its nodes stay."""
        self.suspend()
        self.removePreview()
        self.run = None
        self.ui.metricsTable.setRowCount(0)
        self.ui.folderLabel.text = ""

    # --- buttons

    def onView(self, button, isOn: bool) -> None:
        """One view at a time."""
        if not self.run:
            return
        self.timer.stop()
        self.removeMaps()
        if isOn:
            for other in self.views:
                if other is not button:
                    wasBlocked = other.blockSignals(True)
                    other.checked = False
                    other.blockSignals(wasBlocked)
            with slicer.util.tryWithErrorDisplay(_("The result cannot be shown.")):
                self.views[button]()
        else:
            compare.showBlend(self.run.chosen["fixed"], self.run.volume, self.ui.blendSlider.value)

    def showFlicker(self) -> None:
        compare.showBlend(self.run.chosen["fixed"], self.run.volume, 1)
        self.isMoved = True
        self.timer.start(FLICKER)

    def onFlicker(self) -> None:
        self.isMoved = not self.isMoved
        compare.setOpacity(float(self.isMoved))

    def showCheckerboard(self) -> None:
        self.tiles = compare.showCheckerboard(self.run.chosen["fixed"], self.run.volume, self.tiles)
        self.tiles.SaveWithSceneOff()

    def showMap(self, file: str, title: str) -> None:
        self.map = compare.showMap(self.run.chosen["fixed"], self.run.folder / f"{file}.nii.gz", title, file)

    def onLattice(self, isOn: bool) -> None:
        if self.run and self.run.transform.GetScene():
            compare.showLattice(self.run.transform, self.run.chosen["fixed"], isOn)

    def onBlend(self, opacity: float) -> None:
        compare.setOpacity(opacity)

    def onWorst(self, _checked=False) -> None:
        with slicer.util.tryWithErrorDisplay(_("The worst place cannot be found.")):
            point, why = compare.worstPlace(self.run.folder, self.run.volume)
            compare.jumpTo(point)
            self.ui.statusLabel.text = _("{why} at R {x:.0f}, A {y:.0f}, S {z:.0f} mm").format(why=why, x=point[0], y=point[1], z=point[2])

    def onUndo(self, _checked=False) -> None:
        run = self.run
        self.clear()
        run.undo()
        self.ui.statusLabel.text = _("Undone: everything is where it was before.")

    # --- small parts

    def fillTable(self, node) -> None:
        table, rows, columns = self.ui.metricsTable, node.GetNumberOfRows(), node.GetNumberOfColumns()
        table.setRowCount(rows)
        table.setColumnCount(columns)
        table.setHorizontalHeaderLabels([node.GetColumnName(column) for column in range(columns)])
        table.verticalHeader().hide()
        for row in range(rows):
            for column in range(columns):
                table.setItem(row, column, qt.QTableWidgetItem(node.GetCellText(row, column)))
        table.resizeColumnsToContents()
        table.horizontalHeader().setStretchLastSection(True)
        table.setMinimumHeight(30 + table.rowHeight(0) * min(rows, WORST_ROWS))

    def enable(self, isOn: bool) -> None:
        for widget in (*self.views, self.ui.latticeButton, self.ui.blendSlider, self.ui.worstButton, self.ui.undoButton):
            widget.enabled = isOn

    def removePreview(self) -> None:
        if self.preview:
            compare.restoreLayers(self.layersBefore, self.preview)
            files.removeNode(self.preview)
        self.preview, self.previewTime = None, 0.0

    def removeMaps(self) -> None:
        compare.hideMap(self.map)
        compare.hideMap(self.tiles)
        self.map = self.tiles = None

    def close(self) -> None:
        self.timer.stop()
        self.clear()

"""The result section of the segmentation panel: how good a case is, its maps, samples and uncertain places."""

from __future__ import annotations

from html import escape

import qt
import slicer
from slicer.i18n import tr as _

from ImagingAILib import compare
from ImagingAILib.case import Case, legendOf

LIGHTS = {"good": "#1a7f37", "look": "#bf8700", "bad": "#cf222e", "": "#6e7781"}
FLIP = 400  # ms for each sample
HEADER = 48  # pixels, with a scroll bar
MOST_ROWS = 12  # that a table shows without scrolling


class CaseView:
    """Shows a `Case` in the slice views and says how sure it is."""

    def __init__(self, ui) -> None:
        self.ui, self.case, self.shown, self.place = ui, None, None, 0
        self.timer = qt.QTimer()
        self.timer.connect("timeout()", self.onFlip)
        ui.sampleStyleBox.addItems([_("outlines"), _("areas")])
        ui.mapBox.connect("currentIndexChanged(int)", self.onMap)
        ui.opacitySlider.connect("valueChanged(double)", self.onOpacity)
        ui.sampleSlider.connect("valueChanged(double)", self.onSample)
        ui.sampleStyleBox.connect("currentIndexChanged(int)", self.onStyle)
        ui.flipButton.connect("toggled(bool)", self.onFlipping)
        ui.placeButton.connect("clicked(bool)", self.onPlace)
        ui.removeButton.connect("clicked(bool)", self.onRemove)
        self.enable(False)

    def show(self, case: Case) -> None:
        """Show a case; the nodes of the one before stay in the scene."""
        self.clear()
        self.case, self.place = case, 0
        self.ui.resultsSection.text = _("Result: {name}").format(name=case.name)
        self.ui.resultsSection.collapsed = False
        self.ui.lightLabel.text, self.ui.reasonsLabel.text = lightText(case), reasonsText(case)
        fillTable(self.ui.volumesTable, case.columns(), case.rows())
        self.fillMaps()
        self.ui.sampleSlider.maximum = len(case.sampleFiles())
        self.ui.folderLabel.text = linksText(case.folder)
        self.enable(True)
        self.showMap()
        self.onStyle(self.ui.sampleStyleBox.currentIndex)

    def clear(self) -> None:
        """Forget the case; its nodes stay, its segmentation is hidden so that it does not lie over that of another case."""
        self.ui.flipButton.checked = False
        self.ui.sampleSlider.value = 0
        self.showLabels(None)
        self.hideLegend()
        if self.case:
            self.showSegmentation(False)
        self.case = None
        for label in (self.ui.lightLabel, self.ui.reasonsLabel, self.ui.folderLabel):
            label.text = ""
        self.ui.volumesTable.setRowCount(0)
        self.ui.resultsSection.text = _("Result")
        self.enable(False)

    # --- maps

    def fillMaps(self) -> None:
        box, kinds = self.ui.mapBox, self.case.kinds()
        wasBlocked = box.blockSignals(True)
        box.clear()
        for name, kind in kinds.items():
            box.addItem(kind.title, name)
        box.addItem(_("None: the image alone"), "")
        box.setCurrentIndex(0)
        box.blockSignals(wasBlocked)

    def onMap(self, _index: int) -> None:
        if self.case:
            with slicer.util.tryWithErrorDisplay(_("The map cannot be shown.")):
                self.showMap()

    def showMap(self) -> None:
        """The chosen map over the image, with its legend."""
        case, name = self.case, self.ui.mapBox.itemData(self.ui.mapBox.currentIndex)
        self.hideLegend()
        self.shown = case.map(name) if name else None
        image = case.image if case.image is not None and case.image.GetScene() else None
        if image or self.shown:
            compare.setLayers(image or self.shown, self.shown if image else None, self.ui.opacitySlider.value)
        if self.shown:
            compare.showLegend(self.shown, case.legend(name))

    def hideLegend(self) -> None:
        if self.shown is not None and self.shown.GetScene() and (legend := legendOf(self.shown)):
            legend.SetVisibility(False)
        self.shown = None

    def onOpacity(self, opacity: float) -> None:
        if self.case:
            compare.setOpacity(opacity)

    # --- samples

    def onSample(self, number: float) -> None:
        if not self.case:
            return
        with slicer.util.tryWithErrorDisplay(_("The sample cannot be shown.")):
            self.showLabels(self.case.sample(int(number)) if number else None)

    def showLabels(self, node) -> None:
        """A sample over the image, in place of the segmentation."""
        if not self.case:
            return
        compare.setLabels(node, self.ui.sampleStyleBox.currentIndex == 0)
        self.showSegmentation(node is None)

    def showSegmentation(self, isVisible: bool) -> None:
        if self.case.segmentation.GetScene():
            self.case.segmentation.GetDisplayNode().SetVisibility(isVisible)

    def onStyle(self, index: int) -> None:
        if self.case and self.case.segmentation.GetScene():
            self.case.segmentation.GetDisplayNode().SetVisibility2DFill(index == 1)
            if self.ui.sampleSlider.value:
                self.onSample(self.ui.sampleSlider.value)

    def onFlipping(self, isOn: bool) -> None:
        if isOn:
            self.onFlip()
            self.timer.start(FLIP)
        else:
            self.timer.stop()

    def onFlip(self) -> None:
        slider = self.ui.sampleSlider
        slider.value = 1 + slider.value % slider.maximum

    # --- buttons

    def onPlace(self, _checked=False) -> None:
        with slicer.util.tryWithErrorDisplay(_("The uncertain places cannot be found.")):
            places = self.case.places()
            if not places:
                self.say(_("No place is uncertain."))
                return
            point, entropy = places[self.place % len(places)]
            compare.jumpTo(point)
            text = _("Place {number} of {count}: entropy {entropy:.2f} bit at R {x:.0f}, A {y:.0f}, S {z:.0f} mm")
            number = self.place % len(places) + 1
            self.say(text.format(number=number, count=len(places), entropy=entropy, x=point[0], y=point[1], z=point[2]))
            self.place += 1

    def say(self, text: str) -> None:
        self.ui.placeLabel.text = text

    def onRemove(self, _checked=False) -> None:
        case = self.case
        self.clear()
        case.remove()

    def enable(self, isOn: bool) -> None:
        ui, case = self.ui, self.case
        for widget in (ui.mapBox, ui.opacitySlider, ui.sampleStyleBox, ui.removeButton):
            widget.enabled = isOn
        hasSamples = bool(isOn and len(case.sampleFiles()) > 1)
        ui.sampleSlider.enabled = ui.flipButton.enabled = hasSamples
        ui.placeButton.enabled = bool(isOn and "entropy" in case.kinds())
        self.say("")

    def close(self) -> None:
        self.timer.stop()
        self.clear()


def lightText(case: Case) -> str:
    """The traffic light in words and color."""
    quality = case.result.get("quality") or {}
    light = quality.get("light", "")
    words = {"good": _("Good"), "look": _("Look at it"), "bad": _("Problem")}.get(light, _("Not judged"))
    if quality.get("out_of_domain"):
        words += " – " + _("unlike all that the model has learned from")
    color = LIGHTS.get(light, LIGHTS[""])
    return f'<span style="font-size:16pt;color:{color}">●</span> <b style="font-size:12pt">{escape(words)}</b>'


def reasonsText(case: Case) -> str:
    reasons = (case.result.get("quality") or {}).get("reasons", [])
    text = "".join(f"<li>{escape(str(reason))}</li>" for reason in reasons)
    return f'<ul style="margin:0 0 0 -22px">{text}</ul>' if text else ""


def linksText(folder) -> str:
    """Links to the report and the files of a run."""
    links = []
    if (folder / "report.html").exists():
        links.append(f'<a href="{(folder / "report.html").as_uri()}">{_("Report with pictures")}</a>')
    links.append(f'<a href="{folder.as_uri()}">{_("Files of this run")}</a>')
    return " · ".join(links)


def fillTable(table, columns: list[str], rows: list[tuple[str, ...]], isLong: bool = False) -> None:
    """Show texts; isLong: those of the last column are cut off where the table ends."""
    table.setRowCount(len(rows))
    table.setColumnCount(len(columns))
    table.setHorizontalHeaderLabels(columns)
    table.verticalHeader().hide()
    for row, texts in enumerate(rows):
        for column, text in enumerate(texts):
            table.setItem(row, column, qt.QTableWidgetItem(text))
    header = table.horizontalHeader()
    header.setStretchLastSection(False)  # so that it stretches anew
    table.resizeColumnsToContents()
    table.resizeRowsToContents()
    header.highlightSections = False
    header.defaultAlignment = qt.Qt.AlignLeft | qt.Qt.AlignVCenter
    if isLong:
        table.setColumnWidth(len(columns) - 1, 40)
    header.setStretchLastSection(True)
    height = HEADER + (table.rowHeight(0) * min(len(rows), MOST_ROWS) if rows else 0)
    table.setMinimumHeight(height)
    table.setMaximumHeight(height)


class SegmentResults:
    """What the tab Segment shows of a run, as `TaskPanel` asks."""

    def __init__(self, view: CaseView) -> None:
        self.view = view

    def suspend(self) -> None:
        pass

    def showProgress(self, run) -> None:
        pass

    def show(self, run) -> None:
        if run.state == "done":
            self.view.show(run.case)

    def clear(self) -> None:
        self.view.clear()

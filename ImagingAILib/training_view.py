"""What the tabs Train, Quality and Next show beside their `TaskPanel`: pairs of the scene, live curves, the chosen cases."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from ImagingAILib import compare, curves, segmentation
from ImagingAILib import nodes as files
from ImagingAILib.case_view import fillTable, linksText
from ImagingAILib.nodes import NodeError
from ImagingAILib.world import imageOf, matrixOf

FROM_SCENE, FROM_FOLDERS = 0, 1  # of the source box
HEIGHT = 220  # of a plot, in pixels


class Plot:
    """A chart in a layout of the panel; its view is made when there is something to draw."""

    def __init__(self, layout, title: str) -> None:
        self.layout, self.curves, self.view, self.node = layout, curves.Curves(title), None, None

    def show(self, found: dict, x: str, y: str, titles: tuple[str, str]) -> None:
        self.curves.show(found, x, y, titles)
        if self.view is None:
            self.view = slicer.qMRMLPlotView()
            self.view.setMinimumHeight(HEIGHT)
            self.layout.addWidget(self.view)
        if self.node is None or self.node.GetScene() is None:
            self.node = slicer.vtkMRMLPlotViewNode()
            self.node.SetLayoutName(self.curves.title)
            self.node.SetAndObserveParentLayoutNodeID(self.curves.chart.GetID())  # no view of the main window
            slicer.mrmlScene.AddNode(self.node)
            self.view.setMRMLScene(slicer.mrmlScene)
            self.view.setMRMLPlotViewNode(self.node)
        self.node.SetPlotChartNodeID(self.curves.chart.GetID())
        self.view.fitToContent()

    def remove(self) -> None:
        self.curves.remove()
        files.removeNode(self.node)
        self.node = None


class PairsView:
    """Which images of the scene are learned from, with which segmentations, drawn by whom if the panel asks for the reader."""

    def __init__(self, ui, onChange: Callable[[], None]) -> None:
        self.ui, self.onChange, self.pairs, self.reader = ui, onChange, [], getattr(ui, "pairReaderEdit", None)
        for selector in (ui.pairImageSelector, ui.pairLabelsSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        ui.pairsTable.connect("itemSelectionChanged()", self.update)
        ui.addPairButton.connect("clicked(bool)", self.onAdd)
        ui.removePairButton.connect("clicked(bool)", self.onRemove)
        self.fill()

    def fill(self) -> None:
        """Show the pairs that the scene has."""
        self.pairs = segmentation.pairsOfScene()
        rows, columns = [(image.GetName(), labels.GetName(), reader) for image, labels, reader in self.pairs], 3 if self.reader else 2
        titles = [_("Image"), _("Segmentation"), _("Reader")][:columns]
        fillTable(self.ui.pairsTable, titles, [row[:columns] for row in rows])
        self.update()
        self.onChange()

    def update(self, _node=None) -> None:
        self.ui.addPairButton.enabled = bool(self.ui.pairImageSelector.currentNode() and self.ui.pairLabelsSelector.currentNode())
        self.ui.removePairButton.enabled = bool(self.ui.pairsTable.selectedItems())

    def onAdd(self, _checked=False) -> None:
        labels = self.ui.pairLabelsSelector.currentNode()
        segmentation.addPair(self.ui.pairImageSelector.currentNode(), labels, self.reader.text if self.reader else "")
        self.ui.pairLabelsSelector.setCurrentNode(None)
        self.fill()

    def onRemove(self, _checked=False) -> None:
        segmentation.removePair(self.pairs[self.ui.pairsTable.selectedItems()[0].row()][1])
        self.fill()


class FolderResults:
    """Shows where a run has written, as `TaskPanel` asks; `onDone(folder)` follows a run that is done."""

    def __init__(self, ui, onDone: Callable[[Path], None] = lambda folder: None) -> None:
        self.ui, self.onDone = ui, onDone

    def suspend(self) -> None:
        self.ui.folderLabel.text = ""

    def showProgress(self, run) -> None:
        pass

    def show(self, run) -> None:
        if run.state == "done":
            self.ui.folderLabel.text = linksText(run.folder)
            self.onDone(run.folder)

    def clear(self) -> None:
        self.ui.folderLabel.text = ""


class TrainingResults(FolderResults):
    """Shows the learning curves of a training while it runs; `use(path)` takes its model for the tab Segment."""

    def __init__(self, ui, use: Callable[[str], None]) -> None:
        super().__init__(ui)
        self.use, self.histories, self.model = use, {}, None
        self.plot = Plot(ui.curveLayout, _("Learning curve"))
        ui.quantityBox.connect("currentIndexChanged(int)", self.draw)
        ui.useButton.connect("clicked(bool)", self.onUse)

    def suspend(self) -> None:
        super().suspend()
        self.ui.useButton.enabled = False

    def showProgress(self, run) -> None:
        self.showHistories(run.folder)

    def show(self, run) -> None:
        super().show(run)
        self.showHistories(run.folder)
        self.model = run.model
        self.ui.useButton.enabled = run.state == "done"

    def showHistories(self, folder: Path) -> None:
        histories = curves.readHistories(folder)
        if not histories or histories == self.histories:
            return
        self.histories, box, names = histories, self.ui.quantityBox, curves.quantities(histories)
        if [box.itemText(number) for number in range(box.count)] != names:
            wasBlocked = box.blockSignals(True)
            box.clear()
            box.addItems(names)
            box.blockSignals(wasBlocked)
        self.ui.curveSection.collapsed = False
        self.draw()

    def draw(self, _index: int = 0) -> None:
        if self.histories:
            name = self.ui.quantityBox.currentText
            self.plot.show(self.histories, "step", name, (_("Step"), name.replace("_", " ")))

    def onUse(self, _checked=False) -> None:
        self.use(str(self.model))

    def clear(self) -> None:
        super().clear()
        self.histories = {}
        self.plot.remove()
        self.ui.quantityBox.clear()
        self.ui.useButton.enabled = False


class NextCases(FolderResults):
    """Shows what select-cases has chosen beside chance, and both learning curves; a row shows its image."""

    def __init__(self, ui, nextRound: Callable[[Path], None], images: Callable[[], str]) -> None:
        super().__init__(ui, nextRound)
        self.images, self.rows, self.shown = images, [], None
        self.plot = Plot(ui.nextLayout, _("Active learning"))
        ui.nextTable.connect("itemSelectionChanged()", self.onSelect)

    def show(self, run) -> None:
        super().show(run)
        if run.state == "done":
            self.showRound(run.folder)
            self.ui.messageLabel.text = run.result.get("message", "")

    def showRound(self, folder: Path) -> None:
        """The cases of both arms side by side, by rank, and how both have learned so far."""
        with (folder / "next.csv").open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        arms = list(dict.fromkeys(row["arm"] for row in found))
        ranks = sorted({int(row["rank"]) for row in found})
        by = {(row["arm"], int(row["rank"])): row for row in found}
        self.rows = [[by.get((arm, rank)) for arm in arms] for rank in ranks]
        texts = [tuple(" ".join((row["case"], row["slice"])).strip() if row else "" for row in rows) for rows in self.rows]
        fillTable(self.ui.nextTable, [_("By {arm}").format(arm=arm.replace("_", " ")) for arm in arms], texts)
        self.ui.nextSection.collapsed = False
        campaign = json.loads((folder / "campaign.json").read_text(encoding="utf-8"))
        self.plot.show(campaign["curves"], "labeled", "score", (_("Labeled cases"), _("Dice of the validation cases")))

    def onSelect(self) -> None:
        """Show the image of the selected case, at the slice that was chosen."""
        found = self.ui.nextTable.selectedItems()
        row = self.rows[found[0].row()][found[0].column()] if found else None
        if row is None:
            return
        try:
            node = files.readVolume(Path(self.images()) / row["file"], row["case"])
        except NodeError as error:
            self.ui.statusLabel.visible, self.ui.statusLabel.text = True, str(error)
            return
        self.removeImage()
        self.shown = node
        compare.setLayers(node, None)
        if row["slice"]:
            axis, number = row["slice"].split()
            compare.jumpTo(onSlice(node, "ijk".index(axis), int(number)))

    def removeImage(self) -> None:
        """Take the image of the case before away, unless something was drawn on it."""
        if self.shown is not None and self.shown.GetScene() and not isReferenced(self.shown):
            files.removeNode(self.shown)
        self.shown = None

    def clear(self) -> None:
        super().clear()
        self.rows, self.shown = [], None
        self.plot.remove()
        self.ui.nextTable.setRowCount(0)
        self.ui.messageLabel.text = ""


def onSlice(volume, axis: int, number: int) -> np.ndarray:
    """The middle of a slice of a volume (RAS, mm)."""
    image = imageOf(volume)
    index = (np.array(image.GetDimensions()) - 1) / 2
    index[axis] = number
    return (matrixOf(image) @ [*index, 1])[:3]


def isReferenced(volume) -> bool:
    """Whether a segmentation was made of a volume."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return any(node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume for node in nodes)


def following(folder: Path) -> Path:
    """round1 -> round2, result -> result2."""
    name, number = re.fullmatch(r"(.*?)(\d*)", folder.name).groups()
    return folder.with_name(f"{name}{int(number or 1) + 1}")

"""Learning curves as nodes: a table and a plot series for each training, in one chart. MRML only, no Qt."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from ImagingAILib import nodes as files

COLORS = ((0.12, 0.47, 0.71), (0.89, 0.47, 0.0), (0.17, 0.63, 0.17), (0.58, 0.4, 0.74), (0.55, 0.34, 0.29), (0.5, 0.5, 0.5))
NO_CURVE = ("step", "seconds")
Row = dict[str, Any]


def readHistories(folder: Path) -> dict[str, list[Row]]:
    """The histories of all trainings in a job folder, by name: while they run, or when they are done."""
    running = sorted((folder / "training").rglob("history.json"))
    if running:
        return {path.parent.relative_to(folder / "training").as_posix().strip("."): rows for path in running if (rows := _read(path))}
    rows = _read(folder / "history.json")
    histories = rows if rows and isinstance(rows[0], list) else [rows] if rows else []
    return {_("member {number}").format(number=k) if len(histories) > 1 else "": one for k, one in enumerate(histories, 1)}


def quantities(histories: dict[str, list[Row]]) -> list[str]:
    """What can be drawn: Dice and losses first; the score only if there is no Dice, as it is the negative of a loss then."""
    names = {name for rows in histories.values() for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    names -= {*NO_CURVE, *(["score"] if "dice" in names else [])}
    return sorted(names, key=lambda name: (name not in ("dice", "score"), not name.startswith("loss"), name))


class Curves:
    """A chart in the scene that shows one quantity of several curves over x."""

    def __init__(self, title: str) -> None:
        self.title, self.chart, self.series = title, None, {}

    def show(self, curves: dict[str, list[Row]], x: str, y: str, titles: tuple[str, str]) -> None:
        """Draw rows that have x and y; titles of both axes. Nodes that are there are updated."""
        if self.chart is None or self.chart.GetScene() is None:
            self.chart, self.series = files.newNode("vtkMRMLPlotChartNode", self.title), {}
            self.chart.SetTitle("")
        for name in [name for name in self.series if name not in curves]:
            self._drop(name)
        for number, (name, rows) in enumerate(curves.items()):
            points = [(row[x], row[y]) for row in rows if isinstance(row.get(y), (int, float)) and math.isfinite(row[y])]
            series = self._series(name, COLORS[number % len(COLORS)])
            files.readTable(points, [x, y], "", series.GetTableNode())
            series.SetXColumnName(x)
            series.SetYColumnName(y)
        self.chart.SetXAxisTitle(titles[0])
        self.chart.SetYAxisTitle(titles[1])
        self.chart.SetLegendVisibility(len(curves) > 1)

    def remove(self) -> None:
        for name in list(self.series):
            self._drop(name)
        files.removeNode(self.chart)
        self.chart = None

    def _series(self, name: str, color):
        known = self.series.get(name)
        if known is not None and known.GetScene() and known.GetTableNode():
            return known
        series = files.newNode("vtkMRMLPlotSeriesNode", name or self.title)
        series.SetAndObserveTableNodeID(files.newNode("vtkMRMLTableNode", f"{self.title} {name}".strip()).GetID())
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetColor(*color)
        self.chart.AddAndObservePlotSeriesNodeID(series.GetID())
        self.series[name] = series
        return series

    def _drop(self, name: str) -> None:
        series = self.series.pop(name)
        if series.GetScene():
            table = series.GetTableNode()
            files.removeNode(series)
            files.removeNode(table)


def _read(path: Path) -> list:
    """The rows of a file; none while it is being written."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return rows if isinstance(rows, list) else []

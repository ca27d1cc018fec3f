"""Plots off screen: what the nodes say is drawn, with axes, marks and a legend."""

from __future__ import annotations

import vtk
from mrml_widgets import observe
from proxy import implements
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPen
from PySide6.QtWidgets import QWidget

MARGIN = 44  # pixels


@implements
class qMRMLPlotView(QWidget):
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self.scene, self.node = None, None

    def setMRMLScene(self, scene) -> None:
        self.scene = scene
        self.mrmlSceneChanged.emit(scene)

    def setMRMLPlotViewNode(self, node) -> None:
        self.node = node
        observe(node, vtk.vtkCommand.ModifiedEvent, self.onModified)

    def onModified(self, node, event) -> None:
        self.update()

    def fitToContent(self) -> None:
        self.update()

    def chart(self):
        return self.node.GetPlotChartNode() if self.node and self.node.GetScene() else None

    def curves(self) -> list[tuple[str, tuple, list[tuple[float, float]]]]:
        """Name, color and points of every series."""
        chart, found = self.chart(), []
        nodes = [chart.GetNthPlotSeriesNode(k) for k in range(chart.GetNumberOfPlotSeriesNodes())] if chart else []
        for node in nodes:
            table = node.GetTableNode().GetTable()
            x, y = (table.GetColumnByName(name) for name in (node.GetXColumnName(), node.GetYColumnName()))
            found.append((node.GetName(), node.GetColor(), [(x.GetValue(k), y.GetValue(k)) for k in range(table.GetNumberOfRows())]))
        return found

    def paintEvent(self, event) -> None:
        curves = self.curves()
        painter = QPainter(self)  # not before: an error while it is open ends the process
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), Qt.GlobalColor.white)
        box = QRectF(self.rect()).adjusted(MARGIN, 10, -10, -MARGIN)
        points = [point for _name, _color, own in curves for point in own]
        if not points:
            return
        low, high = [min(values) for values in zip(*points, strict=True)], [max(values) for values in zip(*points, strict=True)]
        size = [(b - a) or 1.0 for a, b in zip(low, high, strict=True)]

        def place(point) -> QPointF:
            x, y = ((value - a) / s for value, a, s in zip(point, low, size, strict=True))
            return QPointF(box.left() + x * box.width(), box.bottom() - y * box.height())

        painter.drawRect(box)
        texts = [(low[0], box.bottomLeft() + QPointF(0, 14)), (high[0], box.bottomRight() + QPointF(-30, 14))]
        texts += [(low[1], box.bottomLeft() + QPointF(-40, 0)), (high[1], box.topLeft() + QPointF(-40, 10))]
        for value, where in texts:
            painter.drawText(where, f"{value:.3g}")
        painter.drawText(QPointF(box.center().x() - 60, box.bottom() + 30), self.chart().GetXAxisTitle())
        painter.drawText(box.topLeft() + QPointF(6, 14), self.chart().GetYAxisTitle())
        for number, (name, color, own) in enumerate(curves):
            painter.setPen(QPen(QColor.fromRgbF(*color), 2))
            places = list(map(place, own))
            painter.drawPolyline(places)
            for where in places:
                painter.drawEllipse(where, 2.5, 2.5)
            if self.chart().GetLegendVisibility():
                painter.drawText(box.bottomRight() + QPointF(-130, -8 - 14 * number), name)

"""Parts of a module's panel around its tasks: tabs, and where to compute."""

from __future__ import annotations

from functools import partial

import qt
import slicer

from ImagingAILib import install


def connectPlaces(ui) -> None:
    """Where to compute is a setting of the application, not of the scene."""
    for widget, key in ((ui.pythonPath, install.PYTHON_KEY), (ui.wheelFolder, install.WHEELS_KEY)):
        widget.currentPath = slicer.util.settingsValue(key, "")
        widget.connect("currentPathChanged(QString)", partial(slicer.app.settings().setValue, key))


class Tabs:
    """Fills a QTabWidget so that it is as high as the page that is shown: the content of the others is hidden."""

    def __init__(self, widget) -> None:
        self.widget, self.contents = widget, []
        widget.connect("currentChanged(int)", self.fit)

    def add(self, content, title: str) -> None:
        page = qt.QWidget()
        layout = qt.QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(content)
        self.contents.append(content)
        self.widget.addTab(page, title)
        self.fit(self.widget.currentIndex)

    def fit(self, index: int) -> None:
        for number, content in enumerate(self.contents):
            content.visible = number == index

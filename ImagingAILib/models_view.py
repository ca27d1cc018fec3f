"""The tab Results of FederatedClient: the models of the federations of this computer, and what they say of new cases."""

from __future__ import annotations

import csv
from collections.abc import Callable
from html import escape
from pathlib import Path

import qt
from slicer.i18n import tr as _

from ImagingAILib import federation, install
from ImagingAILib.case_view import fillTable
from ImagingAILib.federation import Model
from ImagingAILib.panel import TaskPanel
from ImagingAILib.parameters import Parameters
from ImagingAILib.segmentation import FolderRun
from ImagingAILib.training_view import FolderResults

REPORT = "report.html"
SEGMENTATION = "segmentation"  # the task whose models Uncertainty Segmentation uses


class ResultsView:
    """The models of all federations of this computer; `use(model)` puts one to work."""

    def __init__(self, ui, use: Callable[[Model], None]) -> None:
        self.ui, self.use, self.models = ui, use, []
        ui.resultsTable.connect("itemSelectionChanged()", self.update)
        ui.useButton.connect("clicked(bool)", self.onUse)
        ui.reportButton.connect("clicked(bool)", self.onReport)

    def fill(self) -> None:
        """Show the models that there are now, those of the latest federation first."""
        self.models, kinds = federation.models(), {"model": _("global"), "personal": _("of this site")}
        rows = [(one.federation, kinds[one.kind], f"{one.figures['score']:.3f}" if "score" in one.figures else "") for one in self.models]
        fillTable(self.ui.resultsTable, [_("Federation"), _("Model"), _("Score here")], rows)
        if rows:
            self.ui.resultsTable.selectRow(0)
        self.update()

    def selected(self) -> Model | None:
        found = self.ui.resultsTable.selectedItems()
        return self.models[found[0].row()] if found else None

    def update(self) -> None:
        ui, one = self.ui, self.selected()
        ui.useButton.enabled = one is not None
        ui.useButton.text = _("Use on new cases") if one and one.task != SEGMENTATION else _("Use in Uncertainty Segmentation")
        ui.reportButton.enabled = one is not None and (one.folder / REPORT).exists()
        ui.modelLabel.text = modelText(one) if one else _("The models of a federation are listed here when it is done.")

    def onUse(self, _checked=False) -> None:
        self.use(self.selected())

    def onReport(self, _checked=False) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.selected().folder / REPORT)))


def modelText(one: Model) -> str:
    """All figures of a model, its file, its card and the log."""
    figures = ", ".join(f"{escape(name)} {value:.3f}" for name, value in one.figures.items())
    here = _("On the held-out cases of this site: {figures}.").format(figures=figures) if figures else ""
    names = {"model_card.md": _("Model card"), "audit.jsonl": _("Log of the exchanges"), "": _("All files")}
    links = [f'<a href="{(one.folder / name).as_uri()}">{title}</a>' for name, title in names.items() if (one.folder / name).exists()]
    return "<br>".join(filter(None, [here, escape(str(one.path)), " · ".join(links)]))


class Predictions(FolderResults):
    """Uses a classifier or regressor on new cases."""

    def __init__(self, ui, requirements: str) -> None:
        super().__init__(ui)
        self.panel = TaskPanel(ui, "federated-predict", requirements, self.start, self, self.missing, prefix="federated-predict.")

    def use(self, model: Model) -> None:
        self.panel.parameters.setFile("model", str(model.path))
        self.ui.predictSection.collapsed = False

    def missing(self, parameters: Parameters) -> str:
        """What a prediction lacks."""
        if not (parameters.file("images") or parameters.file("table")):
            return _("Choose the images or the table of the new cases.")
        return "" if parameters.file("output") else _("Choose a folder for the results.")

    def start(self, parameters: Parameters, timer, onProgress, onDone) -> FolderRun:
        run = FolderRun("federated-predict", parameters.files(), parameters.values(), Path(parameters.file("output")))
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return run

    def show(self, run: FolderRun) -> None:
        super().show(run)
        if run.state == "done":
            with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
                titles, *rows = csv.reader(file)
            fillTable(self.ui.predictionsTable, titles, [tuple(map(rounded, row)) for row in rows])

    def clear(self) -> None:
        super().clear()
        self.ui.predictionsTable.setRowCount(0)


def rounded(text: str) -> str:
    """0.98765 -> 0.988; other text stays."""
    try:
        return f"{float(text):.3f}" if "." in text else text
    except ValueError:
        return text

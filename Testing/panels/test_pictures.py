"""The pictures of the user's guide: `make pictures`. A real registration of the sample brains in the panel."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs Qt: pip install PySide6-Essentials")
slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")

DATA = Path(__file__).parents[1] / "Data"


@pytest.fixture
def brains(request, host):
    """The sample brains and their labels in the scene."""
    if not request.config.getoption("--screenshots"):
        pytest.skip("only with --screenshots FOLDER")
    for which in ("fixed", "moving"):
        slicer.util.loadVolume(str(DATA / f"brain_{which}.nii.gz"), {"name": f"brain {which}"})
        labels = slicer.util.loadLabelVolume(str(DATA / f"brain_{which}_labels.nii.gz"), {"name": f"brain {which} labels"})
        nameValues(labels, DATA / f"brain_{which}_labels.csv")


def nameValues(labels, table: Path) -> None:
    """Give a label map the names of a table of values."""
    with table.open(encoding="utf-8") as file:
        names = {int(row["value"]): row["name"] for row in csv.DictReader(file)}
    colors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", f"{labels.GetName()} names")
    colors.SetTypeToUser()
    colors.SetNumberOfColors(max(names) + 1)
    for value, name in names.items():
        colors.SetColor(value, name, 0.8, 0.5, 0.3)
    labels.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())


def test_the_pictures_of_the_guide(host, brains, openModule, click, waitUntil):
    widget = openModule("DeepSimRegistration")
    ui = widget.ui
    click(ui.evaluationSection)
    for which in ("fixed", "moving"):
        host.choose(getattr(ui, f"{which}Selector"), f"brain {which}")
        host.choose(getattr(ui, f"{which}LabelsSelector"), f"brain {which} labels")
    host.screenshot(widget, "panel-ready")
    click(ui.applyButton)
    waitUntil(lambda: widget.results.preview is not None, 120)
    host.screenshot(widget, "panel-running")
    host.sliceView("view-running")
    waitUntil(lambda: widget.panel.run is None, 120)
    assert widget.results.run.state == "done"
    host.screenshot(widget, "panel-done")
    host.sliceView("view-blend")
    for button, name in ((ui.checkerboardButton, "checkerboard"), (ui.jacobianButton, "jacobian"), (ui.similarityButton, "disagreement")):
        click(button)
        host.sliceView(f"view-{name}")
    click(ui.similarityButton)
    click(ui.latticeButton)
    host.sliceView("view-lattice")
    click(ui.advancedSection)
    host.screenshot(widget, "panel-advanced")

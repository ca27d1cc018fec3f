"""What the tab Readers shows: how far the readers of an image agree, and where."""

from __future__ import annotations

from slicer.i18n import tr as _

from ImagingAILib import compare
from ImagingAILib.case import MapKind, legendOf, legendTitle, plain, readMap
from ImagingAILib.case_view import fillTable
from ImagingAILib.segmentation import pairsOfScene
from ImagingAILib.training_view import FolderResults


class ReadersResults(FolderResults):
    """Shows a comparison of readers as `TaskPanel` asks; its maps lie over the image."""

    def __init__(self, ui) -> None:
        super().__init__(ui)
        self.run, self.shown, self.made = None, None, {}
        ui.mapBox.addItems([kind.title for kind in kinds().values()])
        ui.mapBox.connect("currentIndexChanged(int)", self.onMap)
        ui.mapBox.enabled = False

    def show(self, run) -> None:
        super().show(run)
        if run.state != "done":
            return
        self.clear()
        super().show(run)
        self.run, found = run, run.result
        readers, unit = found["readers"], found["unit"]
        columns = [_("Structure"), _("Dice"), *(f"{reader}, {unit}" for reader in readers)]
        volumes, dice = found["volumes"], found["pair_dice"]
        rows = [(name, plain(dice[name]), *(plain(volumes[name][reader]) for reader in readers)) for name in volumes]
        fillTable(self.ui.readersTable, columns, rows)
        self.ui.messageLabel.text = ", ".join(summary(found["summary"]))
        self.ui.mapBox.enabled = True
        self.onMap()

    def onMap(self, _index: int = 0) -> None:
        """The chosen map over the image of the readers, with its legend."""
        if not self.run or self.run.image.GetScene() is None:
            return
        self.hideLegend()
        name, kind = list(kinds().items())[self.ui.mapBox.currentIndex]
        if name not in self.made or self.made[name].GetScene() is None:
            title = f"{self.run.image.GetName()} {name.replace('_', ' ')}"
            self.made[name] = readMap(self.run.folder / f"{name}.nii.gz", title, kind)
        self.shown = self.made[name]
        compare.setLayers(self.run.image, self.shown, compare.MAP_OPACITY)
        compare.showLegend(self.shown, legendTitle(kind))

    def hideLegend(self) -> None:
        if self.shown is not None and self.shown.GetScene() and (legend := legendOf(self.shown)):
            legend.SetVisibility(False)
        self.shown = None

    def suspend(self) -> None:
        super().suspend()
        self.ui.mapBox.enabled = False

    def clear(self) -> None:
        """Forget the comparison and take its maps away."""
        super().clear()
        self.hideLegend()
        for node in self.made.values():
            compare.hideMap(node)
        self.run, self.made = None, {}
        self.ui.readersTable.setRowCount(0)
        self.ui.messageLabel.text = ""
        self.ui.mapBox.enabled = False


def kinds() -> dict[str, MapKind]:
    """The maps of a comparison, by the name of their file."""
    return {
        "reader_entropy": MapKind(_("Entropy of the votes: where the readers differ"), "bit", 1.0, "uncertainty"),
        "agreement": MapKind(_("Agreement: share of the readers for the most frequent structure"), "1", 1.0, "probability"),
    }


def summary(found: dict[str, float]) -> list[str]:
    """The figures over all structures, as texts."""
    words = {
        "dice": _("Dice of two readers {value}"),
        "unanimous_percent": _("unanimous {value} %"),
        "diversity": _("diversity of the readers {value}"),
        "diversity_samples": _("of the samples {value}"),
        "ged": _("energy distance of readers and samples {value}"),
    }
    return [text.format(value=plain(found[name])) for name, text in words.items() if name in found]


def readersMissing(image) -> str:
    """What is missing to compare the readers of an image."""
    if image is None:
        return _("Choose the image volume.")
    if sum(pair[0] is image for pair in pairsOfScene()) < 2:
        return _("Add at least two segmentations of the image in the tab Train.")
    return ""

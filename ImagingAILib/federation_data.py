"""The tab Data of FederatedClient: which data the invitation needs, which are chosen, and what a check of them has found."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from slicer.i18n import tr as _

from imagingai.federated.config import ProjectConfig
from imagingai.federated.invitation import Invitation
from ImagingAILib import federation, install
from ImagingAILib.case_view import LIGHTS, fillTable
from ImagingAILib.federation import Checked, CheckRun
from ImagingAILib.federation_view import FlowerPanel
from ImagingAILib.parameters import Parameters
from ImagingAILib.segmentation import pairsOfScene
from ImagingAILib.training_view import FROM_FOLDERS, FROM_SCENE, FolderResults, PairsView

NEEDS = {  # which files a task learns from
    "segmentation": ("images", "labels"),
    "image-classification": ("images", "table"),
    "roi-classification": ("table",),
    "roi-regression": ("table",),
}
DRAWN = ("images", "labels")  # what pairs of the scene are written as


class DataView(FolderResults):
    """The data of this site and their check; invitation() and folder() are those of the first tab, onChange() follows every choice."""

    def __init__(
        self, ui, requirements: str, invitation: Callable[[], Invitation | None], folder: Callable[[], str], onChange: Callable[[], None]
    ) -> None:
        super().__init__(ui)
        self.invitation, self.folder, self.onChange = invitation, folder, onChange
        self.checked: Checked | None = None
        self.isJoined = False  # then the files of the check are in use
        self.panel = FlowerPanel(ui, "federated-check", requirements, self.start, self, self.missing, prefix="federated-check.")
        ui.sourceBox.addItems([_("segmentations of this scene"), _("folders")])
        ui.sourceBox.connect("currentIndexChanged(int)", self.update)
        for name in federation.DATA:
            getattr(ui, f"{name}File").connect("currentPathChanged(QString)", self.update)
        self.pairs = PairsView(ui, self.update)

    # --- what is chosen

    def needs(self) -> tuple[str, ...]:
        """The files that the federation learns from; structures of images that are classified are in labels."""
        config = self.invitation().config if self.invitation() else ProjectConfig()
        isMasked = config.task == "image-classification" and config.values
        return (*NEEDS[config.task], "labels") if isMasked else NEEDS[config.task]

    def isFromScene(self) -> bool:
        return self.needs() == DRAWN and self.ui.sourceBox.currentIndex == FROM_SCENE

    def inputs(self) -> dict[str, str]:
        """The chosen files that are needed."""
        names = {"invitation", *self.needs()} - set(DRAWN if self.isFromScene() else ())
        return {name: path for name, path in self.panel.parameters.files().items() if name in names}

    def source(self) -> tuple:
        """What a check would be about."""
        pairs = [(image.GetID(), labels.GetID()) for image, labels, _reader in pairsOfScene()] if self.isFromScene() else []
        return (*federation.sourceOf(self.inputs()), *pairs)

    def current(self) -> Checked | None:
        """The check of what is chosen now."""
        return self.checked if self.panel.parameters and self.checked and self.checked.source == self.source() else None

    def restore(self, inputs: dict[str, str], checked: Checked | None) -> None:
        """Choose the files of an earlier federation."""
        for name in ("invitation", *federation.DATA):
            self.panel.parameters.setFile(name, inputs.get(name, ""))
        self.ui.sourceBox.setCurrentIndex(FROM_FOLDERS)
        self.checked = checked

    # --- the check

    def missing(self, parameters: Parameters) -> str:
        """What a check lacks."""
        if self.isJoined:
            return _("Leave the federation first.")
        if self.invitation() is None:
            return _("Choose an invitation that can be read.")
        if self.isFromScene():
            if len(pairsOfScene()) < 2:
                return _("Add at least two images with their segmentations.")
        elif lacking := [name for name in self.needs() if not parameters.file(name)]:
            return _("Choose the {name}.").format(name=lacking[0])
        return "" if self.folder() else _("Choose a folder for this federation in the tab Invitation.")

    def start(self, parameters: Parameters, timer, onProgress, onDone) -> CheckRun:
        pairs, config = pairsOfScene() if self.isFromScene() else [], self.invitation().config
        parameters.setFile("invitation", str(federation.keepInvitation(Path(parameters.file("invitation")), Path(self.folder()))))
        known = dict(zip(config.values or range(1, len(config.classes) + 1), config.classes, strict=False))
        run = CheckRun(self.source(), self.inputs(), parameters.values(), Path(self.folder()) / federation.CHECK, pairs, known)
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return run

    def suspend(self) -> None:
        super().suspend()
        self.checked = None
        self.update()

    def show(self, run: CheckRun) -> None:
        super().show(run)
        if run.state == "done":
            self.checked = run.checked
        self.update()

    def clear(self) -> None:
        super().clear()
        self.checked = None
        self.showChecked()

    # --- what is shown

    def update(self, _value=None) -> None:
        """The fields for the data that are needed, and the check of what is chosen."""
        if self.panel.parameters is None:
            return
        ui, needed, fromScene = self.ui, self.needs(), self.isFromScene()
        hint = _("Choose the invitation first: it says which data are needed.")
        ui.needsLabel.text = needsText(self.invitation().config) if self.invitation() else hint
        ui.sourceLabel.visible = ui.sourceBox.visible = needed == DRAWN
        ui.pairsSection.visible, ui.foldersSection.visible = fromScene, not fromScene
        for name in federation.DATA:
            getattr(ui, f"{name}Label").visible = getattr(ui, f"{name}File").visible = name in needed
        self.showChecked()
        self.panel.updateApply()
        self.onChange()

    def showChecked(self) -> None:
        """The counts, what to look at, and whether this site can join."""
        ui, checked = self.ui, self.current()
        rows = [tuple(map(str, row)) for row in checked.result.get("rows", [])] if checked else []
        fillTable(ui.countsTable, [_("Data"), _("This site")], rows, isLong=True)
        ui.countsTable.visible = bool(rows)
        ui.verdictLabel.text = verdictText(checked.verdict) if checked else ""
        items = "".join(f"<li>{escape(text)}</li>" for text in checked.result.get("problems", [])) if checked else ""
        ui.problemsLabel.text = f'<ul style="margin:0 0 0 -22px">{items}</ul>' if items else ""
        ui.verdictLabel.visible, ui.problemsLabel.visible = checked is not None, bool(items)


def verdictText(verdict: str) -> str:
    words = {"good": _("Ready to join"), "look": _("Ready, but look at the warnings"), "bad": _("This site cannot join with these data")}
    return f'<span style="color:{LIGHTS[verdict]}">●</span> <b>{words[verdict]}</b>'


def needsText(config: ProjectConfig) -> str:
    """What the data have to be, in a sentence."""
    texts = {
        "segmentation": _("Needed: images, and segmentations of {classes}."),
        "image-classification": _("Needed: images, and a table with the columns case and {target} ({classes})."),
        "roi-classification": _("Needed: a table with the columns case, {target} ({classes}) and {features}."),
        "roi-regression": _("Needed: a table with the columns case, {target} and {features}."),
    }
    known = {"classes": ", ".join(config.classes), "features": ", ".join(config.features), "target": config.target}
    return escape(texts[config.task].format(**known))

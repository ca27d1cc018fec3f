"""What FederatedClient shows before a site joins: the invitation, this site's key, what is left to do, the consent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from imagingai.errors import ImagingAIError
from imagingai.federated import invitation as invitations
from imagingai.federated.consent import summary
from imagingai.federated.keys import spoken
from ImagingAILib import federation, install
from ImagingAILib.case_view import LIGHTS
from ImagingAILib.panel import TaskPanel


class InvitationView:
    """Who asks for what, and the key of this site; ensure() installs what making a key needs. onChange follows a new key."""

    def __init__(self, ui, ensure: Callable[[], bool], onChange: Callable[[], None]) -> None:
        self.ui, self.ensure, self.onChange = ui, ensure, onChange
        self.invitation: invitations.Invitation | None = None
        ui.keyButton.connect("clicked(bool)", self.onKey)
        self.showKey()

    def read(self, path: str) -> None:
        """Show an invitation, or why it cannot be read."""
        ui, self.invitation = self.ui, None
        ui.hintLabel.text = _("The coordinator writes your invitation once you have sent the public part of this site's key.")
        if path:
            try:
                self.invitation = invitations.read_invitation(path)
                ui.summaryText.html = "".join(
                    f"<p><b>{escape(title)}</b><br>{escape(text)}</p>" for title, text in summary(self.invitation)
                )
            except ImagingAIError as error:
                ui.hintLabel.text = str(error)
        ui.summaryText.visible, ui.hintLabel.visible = self.invitation is not None, self.invitation is None
        ui.keySection.collapsed = self.invitation is not None and not self.problem()
        self.showKey()

    def showEarlier(self) -> None:
        """Offer the federations of this computer."""
        ui, folders = self.ui, federation.remembered()
        ui.earlierBox.clear()
        ui.earlierBox.addItems([_("choose to go on with it"), *(folder.name for folder in folders)])
        ui.earlierLabel.visible = ui.earlierBox.visible = bool(folders)

    def problem(self) -> str:
        """What is wrong with the invitation or the key, or nothing."""
        if self.invitation is None:
            return _("Choose the invitation.")
        try:
            invitations.check_expiry(self.invitation)
        except ImagingAIError as error:
            return str(error)
        own = federation.keyFingerprint()
        if not own:
            return _("Make the key of this site, and ask the coordinator for an invitation that is for it.")
        if own != self.invitation.key:
            text = _("The invitation is for the key {theirs}, and this site has {own}. Send the coordinator the public part of this one.")
            return text.format(theirs=spoken(self.invitation.key[:8]), own=spoken(own[:8]))
        return ""

    def showKey(self) -> None:
        own = federation.keyFingerprint()
        text = _("Without a key nobody can be sure that it is this site that takes part.")
        if own:
            text = _("Fingerprint: {digits}<br>The private part is in {file} and stays there.")
            text = text.format(digits=f"<code>{spoken(own)}</code>", file=escape(str(federation.keyFile())))
        self.ui.keyLabel.text = text
        self.ui.keyButton.text = _("Save the public part ...") if own else _("Make key and save the public part ...")

    def onKey(self, _checked=False) -> None:
        """Make the key if there is none, then save its public part for the coordinator."""
        try:
            if not federation.keyFingerprint():
                if not self.ensure():
                    return
                federation.makeKey()
                self.showKey()
                self.onChange()
            place = qt.QFileDialog.getSaveFileName(
                slicer.util.mainWindow(), _("Public part of the key, for the coordinator"), str(Path.home() / "our_site.pub"), "*.pub"
            )
            if place:
                shutil.copyfile(federation.publicFile(), place)
        except (install.InstallError, OSError) as error:
            slicer.util.errorDisplay(str(error), windowTitle=_("ImagingAI"))


class FlowerPanel(TaskPanel):
    """A panel of a task that needs Flower."""

    def ensure(self) -> bool:
        return install.ensure(self.requirements, self.mayInstall, flower=True)


class JoinPanel(FlowerPanel):
    """Joins after `consent()`; while this site takes part, the same button leaves. The scene may be closed meanwhile."""

    consent: Callable[[], bool]

    def mayBegin(self) -> bool:
        return super().mayBegin() and self.consent()

    def begin(self) -> None:
        super().begin()
        if self.run:
            self.ui.applyButton.text, self.ui.applyButton.toolTip = _("Leave now ..."), _("Leave the federation.")

    def onApply(self, checked=False) -> None:
        if self.run is None:
            super().onApply()
        elif mayLeave():
            super().onApply()
            self.ui.applyButton.text = _("Leaving...")

    def stop(self) -> None:
        """The scene goes away; the federation does not need it."""
        self.results.clear()
        self.setParameterNode(None)
        self.updateApply()

    def close(self) -> None:
        """The module goes away: leave."""
        if self.run:
            self.run.abandon()
            self.run = None
        super().close()


def mayLeave() -> bool:
    text = _("This site leaves the federation, and the others go on without it. You can join again with the same folder. Leave now?")
    return slicer.util.confirmOkCancelDisplay(text, windowTitle=_("Leave the federation?"))


def askConsent(path: str, invitation: invitations.Invitation, data: str) -> bool:
    """Show once more what the invitation means for the data of this site, and ask; True if a person agrees."""
    dialog = slicer.util.loadUI(path)
    ui = slicer.util.childWidgetVariables(dialog)
    dialog.setWindowTitle(_("Join {name}?").format(name=invitation.config.name))
    row = '<tr><td style="padding:3px 10px 3px 0"><b>{title}</b></td><td style="padding:3px 0">{text}</td></tr>'
    rows = [row.format(title=escape(title), text=escape(text)) for title, text in [*summary(invitation), (_("Your data"), data)]]
    ui.summaryText.html = f"<table>{''.join(rows)}</table>"
    join = ui.buttonBox.button(qt.QDialogButtonBox.Ok)
    join.text, join.enabled = _("Join"), False
    ui.agreeBox.connect("toggled(bool)", lambda isAgreed: setattr(join, "enabled", isAgreed))
    ui.buttonBox.connect("accepted()", dialog.accept)
    ui.buttonBox.connect("rejected()", dialog.reject)
    return bool(dialog.exec_())


def stepsText(invitation: invitations.Invitation | None, steps: list[tuple[bool, str]]) -> str:
    """What is joined, what has been done, and what is left to do before."""
    marks = {True: f'<span style="color:{LIGHTS["good"]}">✓</span>', False: "○"}
    title = _("{name}, as {site}").format(name=invitation.config.name, site=invitation.site) if invitation else ""
    lines = "".join(f"<tr><td>{marks[isDone]}&nbsp;</td><td>{escape(text)}</td></tr>" for isDone, text in steps)
    return f"<b>{escape(title)}</b><table>{lines}</table>"

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
        self.invitation, text = None, _("Choose the invitation. The coordinator needs the public part of this site's key to write it.")
        if path:
            try:
                self.invitation = invitations.read_invitation(path)
                text = summaryText(self.invitation)
            except ImagingAIError as error:
                text = escape(str(error))
        self.ui.summaryLabel.text = text
        self.ui.keySection.collapsed = self.invitation is not None and not self.problem()
        self.showKey()

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


def summaryText(invitation: invitations.Invitation) -> str:
    """What an invitation means, as a table."""
    rows = [
        f'<tr><td style="padding:2px 8px 2px 0"><b>{escape(title)}</b></td><td style="padding:2px 0">{escape(text)}</td></tr>'.replace(
            "\n", "<br>"
        )
        for title, text in summary(invitation)
    ]
    return f"<table>{''.join(rows)}</table>"


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
    ui.summaryText.html = summaryText(invitation) + "<p>" + escape(data) + "</p>"
    join = ui.buttonBox.button(qt.QDialogButtonBox.Ok)
    join.text, join.enabled = _("Join"), False
    ui.agreeBox.connect("toggled(bool)", lambda isAgreed: setattr(join, "enabled", isAgreed))
    ui.buttonBox.connect("accepted()", dialog.accept)
    ui.buttonBox.connect("rejected()", dialog.reject)
    return bool(dialog.exec_())


def stepsText(steps: list[tuple[bool, str]]) -> str:
    """What has been done, and what is left to do before this site can join."""
    marks = {True: f'<span style="color:{LIGHTS["good"]}">✓</span>', False: "○"}
    return "".join(f'<p style="margin:2px 0">{marks[isDone]} {escape(text)}</p>' for isDone, text in steps)

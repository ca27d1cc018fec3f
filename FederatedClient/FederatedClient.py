"""Take part in federated training: this site trains on its own data and exchanges only weights with a remote aggregator."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from imagingai.federated import packages
from imagingai.federated.config import JoinConfig
from imagingai.federated.consent import summary
from imagingai.federated.invitation import read_invitation
from imagingai.options import from_dict
from ImagingAILib import federation, install
from ImagingAILib.exchange_view import RunningView
from ImagingAILib.federation import JoinRun, Model
from ImagingAILib.federation_data import DataView
from ImagingAILib.federation_view import InvitationView, JoinPanel, askConsent, stepsText
from ImagingAILib.frame import Tabs, connectPlaces
from ImagingAILib.models_view import SEGMENTATION, Predictions, ResultsView
from ImagingAILib.parameters import Parameters
from ImagingAILib.segmentation import distinct

DOCS = "https://github.com/ImagingAI/SlicerImagingAI/blob/main/docs/modules/FederatedClient.md"
REQUIREMENTS = "FederatedClientRequirements.txt"  # all modules share one folder of resources
RUNNING, RESULTS = 3, 4  # tabs


class FederatedClient(ScriptedLoadableModule):
    def __init__(self, parent) -> None:
        super().__init__(parent)
        parent.title = _("Federated Client")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Informatics")]
        parent.dependencies = []
        parent.contributors = ["ImagingAI"]
        parent.helpText = _(
            "Takes part in federated training: this site trains on its own data and exchanges only weights with an aggregator, after it "
            "has seen and agreed to what leaves, and with a log of all of it. Nothing listens on this computer; one outgoing HTTPS "
            'connection is enough. See the <a href="{docs}">documentation</a>.'
        ).format(docs=DOCS)
        parent.acknowledgementText = _("The exchange uses Flower (flower.ai). Not a medical device.")


class FederatedClientWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panels = {}

    def setup(self) -> None:
        super().setup()
        widget = slicer.util.loadUI(self.resourcePath("UI/FederatedClient.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = FederatedClientLogic()
        connectPlaces(self.ui)
        self.makeTabs()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.setParameterNode()

    def makeTabs(self) -> None:
        """Each tab is a .ui file of its own; the check and the join share the invitation, the join and its progress are on two tabs."""
        titles = {"Invitation": _("Invitation"), "Data": _("Data"), "Join": _("Join"), "Running": _("Running"), "Results": _("Results")}
        self.tabs = Tabs(self.ui.tabs)
        first, data, join, running, results = (self.addTab(name, title) for name, title in titles.items())
        data.invitationFile, join.outputFile = first.invitationFile, first.outputFile
        join.progressBar, join.statusLabel = running.progressBar, running.statusLabel
        requirements = self.resourcePath(REQUIREMENTS)
        self.running = RunningView(running, self.onJoinDone)
        self.join = JoinPanel(
            join, "federated-join", requirements, self.startJoin, self.running, self.joinMissing, prefix="federated-join."
        )
        self.join.consent = self.askConsent
        self.invitation = InvitationView(first, self.join.ensure, self.updateSteps)
        self.data = DataView(data, requirements, lambda: self.invitation.invitation, self.folder, self.updateSteps)
        self.predictions, self.results = Predictions(results, requirements), ResultsView(results, self.useModel)
        self.panels = {"federated-check": self.data.panel, "federated-join": self.join, "federated-predict": self.predictions.panel}
        first.invitationFile.connect("currentPathChanged(QString)", self.onInvitation)
        first.outputFile.connect("currentPathChanged(QString)", self.onFolder)
        first.earlierBox.connect("activated(int)", self.onEarlier)
        join.warningsBox.connect("toggled(bool)", self.updateSteps)
        running.leaveButton.connect("clicked(bool)", self.join.onApply)

    def addTab(self, name: str, title: str):
        widget = slicer.util.loadUI(self.resourcePath(f"UI/FederatedClient{name}.ui"))
        self.tabs.add(widget, title)
        widget.setMRMLScene(slicer.mrmlScene)
        return slicer.util.childWidgetVariables(widget)

    def folder(self) -> str:
        """Where all of the federation is kept."""
        return self.join.parameters.file("output") if self.join.parameters else ""

    # --- join

    def startJoin(self, parameters, timer, onProgress, onDone) -> JoinRun:
        accept, inputs = self.invitation.invitation.fingerprint, self.data.checked.inputs
        run = self.logic.start(inputs, Path(self.folder()), accept, parameters.values(), timer, onProgress, onDone)
        self.running.follow(run)
        self.ui.tabs.setCurrentIndex(RUNNING)
        self.lock(True)
        return run

    def askConsent(self) -> bool:
        text = _("{data}. All that is exchanged is written down in {folder}.")
        data = ", ".join(path for name, path in self.data.checked.inputs.items() if name != "invitation")
        text = text.format(data=data, folder=self.folder())
        return askConsent(self.resourcePath("UI/FederatedClientConsent.ui"), self.invitation.invitation, text)

    def onJoinDone(self, run: JoinRun) -> None:
        self.lock(False)
        self.results.fill()
        if run.state == "done":
            self.ui.tabs.setCurrentIndex(RESULTS)

    def lock(self, isJoined: bool) -> None:
        """While this site takes part, its federation cannot be exchanged for another."""
        self.data.isJoined = isJoined
        for widget in (self.invitation.ui.invitationFile, self.invitation.ui.outputFile, self.invitation.ui.earlierBox):
            widget.enabled = not isJoined
        self.invitation.showEarlier()
        self.data.update()

    def joinMissing(self, parameters: Parameters) -> str:
        return next((text for isDone, text in self.steps() if not isDone), "")

    def steps(self) -> list[tuple[bool, str]]:
        """What is done and what is left to do before this site can join."""
        problem, checked = self.invitation.problem(), self.data.current()
        verdict = checked.verdict if checked else ""
        texts = {"": _("Check the data in the tab Data."), "bad": _("These data cannot be used: the tab Data says why.")}
        done = _("The data are checked. What was checked is what is learned from; check again after a change.")
        steps = [
            (not problem, problem or _("The invitation is for the key of this site.")),
            (verdict in ("good", "look"), texts.get(verdict, done)),
        ]
        if verdict == "look":
            steps.append((self.join.ui.warningsBox.checked, _("Look at the warnings in the tab Data, and confirm them below.")))
        return steps

    def updateSteps(self, _value=None) -> None:
        checked = self.data.current()
        box, hasWarnings = self.join.ui.warningsBox, checked is not None and checked.verdict == "look"
        box.visible, box.checked = hasWarnings, hasWarnings and box.checked  # other warnings are confirmed anew
        self.join.ui.stepsLabel.text = stepsText(self.invitation.invitation, self.steps())
        self.join.updateApply()

    # --- what is chosen

    def onInvitation(self, path: str) -> None:
        """Read it, and propose a folder beside it."""
        self.invitation.read(path)
        invitation = self.invitation.invitation
        if invitation and not self.folder():
            self.join.parameters.setFile("output", str(Path(path).parent / distinct([invitation.config.name])[0]))
        self.data.update()

    def onFolder(self, path: str) -> None:
        """A folder that was joined in before brings its invitation and its data."""
        if path and federation.joinedInputs(Path(path)) and self.invitation.invitation is None:
            self.restore(Path(path))
        else:
            self.running.open(Path(path) if path else None)
            self.data.update()

    def onEarlier(self, index: int) -> None:
        if index > 0:
            self.restore(federation.remembered()[index - 1])
            self.invitation.ui.earlierBox.setCurrentIndex(0)

    def restore(self, folder: Path) -> None:
        """Go on with a federation of this computer."""
        inputs = federation.joinedInputs(folder)
        self.join.parameters.setFile("output", str(folder))
        self.data.restore(inputs, federation.readChecked(folder))
        self.invitation.read(inputs.get("invitation", ""))
        if not self.join.run:
            self.running.open(folder)
        self.data.update()

    def useModel(self, model: Model) -> None:
        if model.task == SEGMENTATION:
            slicer.util.selectModule("UncertaintySeg")
            slicer.util.getModuleWidget("UncertaintySeg").useModel(str(model.path))
        else:
            self.predictions.use(model)

    # --- scene and module

    def setParameterNode(self) -> None:
        node = self.logic.getParameterNode()
        for panel in self.panels.values():
            panel.setParameterNode(node)
        self.invitation.showEarlier()
        self.results.fill()
        if self.join.run:
            self.restore(self.join.run.folder)
        else:
            self.invitation.read(self.data.panel.parameters.file("invitation"))
            if self.folder() and self.data.checked is None:
                self.data.checked = federation.readChecked(Path(self.folder()))
        self.data.pairs.fill()

    def enter(self) -> None:
        self.setParameterNode()

    def onSceneStartClose(self, caller, event) -> None:
        for panel in self.panels.values():
            panel.stop()

    def onSceneEndClose(self, caller, event) -> None:
        self.setParameterNode()

    def cleanup(self) -> None:
        self.removeObservers()
        for panel in self.panels.values():
            panel.close()
        if self.panels:
            self.running.close()


class FederatedClientLogic(ScriptedLoadableModuleLogic):
    """Take part from a script:

    >>> logic = FederatedClientLogic()
    >>> print(logic.show("hospital_a.invitation"))  # read it before you agree
    >>> run = logic.join("hospital_a.invitation", images="scans/", labels="drawn/", accept="3f2a91c0")
    >>> run.result["models"], run.result["figures"]
    """

    def show(self, invitation) -> str:
        """What an invitation means, and the fingerprint to agree with. Raises InputError if it is none."""
        found = read_invitation(invitation)
        return "\n\n".join(f"{title}\n{text}" for title, text in [*summary(found), (_("Fingerprint"), found.fingerprint)])

    def join(self, invitation, accept, folder="", callback=None, **more) -> JoinRun:
        """Take part in a federation until it is over.

        accept: fingerprint of the invitation that you have read and agree to, at least 8 digits; folder: for all of this federation,
        by default one beside the invitation; join again with the same one after a stop. more: images, labels, table, and options by
        their names on the command line (patience=3600, device="cpu" ...). Without `callback` it blocks, and raises RuntimeError if it
        fails; with it, it returns at once, and callback(run) is called at the end (state done, failed or cancelled). Raises InputError
        for an invitation or options that cannot be used.
        """
        name = read_invitation(invitation).config.name
        inputs = {key: str(path) for key, path in {"invitation": invitation, **more}.items() if key in ("invitation", *federation.DATA)}
        config = {key: value for key, value in more.items() if key not in inputs}
        place = Path(folder) if folder else Path(invitation).parent / distinct([name])[0]
        from_dict(JoinConfig, config)  # complains before anything is written
        if callback is None:
            run = self.start(inputs, place, accept, config)
            run.run.wait()
            if run.state == "failed":
                raise RuntimeError(run.error)
            return run
        import qt  # the rest of the logic works without

        return self.start(inputs, place, accept, config, qt.QTimer(), onDone=callback)

    def start(
        self, inputs: dict, folder: Path, accept: str, config: dict, timer=None, onProgress=lambda line: None, onDone=lambda run: None
    ) -> JoinRun:
        """Start the child process, and remember the federation."""
        given = {"key": str(federation.keyFile()), **config, "accept": accept}
        run = JoinRun({name: str(Path(path).absolute()) for name, path in inputs.items()}, given, folder)
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        federation.remember(folder)
        return run


class FederatedClientTest(ScriptedLoadableModuleTest):
    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_key()

    def test_key(self) -> None:
        """A key is made in a child process, as its fingerprint shows."""
        self.delayDisplay(_("Making a key"))
        if install.missingPackages(Path(__file__).parent / "Resources" / REQUIREMENTS) or not packages.is_installed():
            self.skipTest("packages are missing")
        federation.makeKey()
        self.assertEqual(len(federation.keyFingerprint()), 64)
        self.delayDisplay(_("Test passed"))

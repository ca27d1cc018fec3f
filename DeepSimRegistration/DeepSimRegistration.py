"""Register two volumes: affine and deformable, smooth, without folds, measured."""

import tempfile
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

from imagingai.options import from_dict
from imagingai.registration.config import PRESETS, RegistrationConfig
from imagingai.tasks import TASKS
from ImagingAILib import install, sampledata
from ImagingAILib.frame import connectPlaces
from ImagingAILib.panel import TaskPanel
from ImagingAILib.parameters import Parameters, camelCase
from ImagingAILib.registration import Registration, interpolateLinearly
from ImagingAILib.results import RegistrationResults

DOCS = "https://github.com/ImagingAI/SlicerImagingAI/blob/main/docs/modules/DeepSimRegistration.md"
INPUTS = {camelCase(item.name): item.name for item in TASKS["register"].inputs}
OUTPUTS = ("output_volume", "output_transform")


class DeepSimRegistration(ScriptedLoadableModule):
    def __init__(self, parent) -> None:
        super().__init__(parent)
        parent.title = _("DeepSim Registration")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["ImagingAI"]
        parent.helpText = _(
            "Brings a moving volume onto a fixed one, of the same or another person and contrast: an affine search from any start, "
            "then a smooth deformation that does not fold. Choose two volumes and press Apply; the moving volume, its labels and "
            'landmarks move at once. See the <a href="{docs}">documentation</a>.'
        ).format(docs=DOCS)
        parent.acknowledgementText = _(
            "The DeepSim similarity is by Czolbe, Pegios, Krause, Feragen: Semantic similarity metrics for image registration, "
            "Medical Image Analysis 2023."
        )
        slicer.app.connect("startupCompleted()", sampledata.registerSampleData)


class DeepSimRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None

    def setup(self) -> None:
        super().setup()
        widget = slicer.util.loadUI(self.resourcePath("UI/DeepSimRegistration.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = DeepSimRegistrationLogic()
        self.results = RegistrationResults(self.ui)
        connectPlaces(self.ui)
        self.panel = TaskPanel(
            self.ui, "register", self.resourcePath("DeepSimRegistrationRequirements.txt"), self.start, self.results, twoVolumes, OUTPUTS
        )
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.panel.setParameterNode(self.logic.getParameterNode())

    def start(self, parameters, timer, onProgress, onDone) -> Registration:
        """What Apply does."""
        outputs = map(parameters.nodeOf, OUTPUTS)
        return self.logic.start(parameters.nodes(), {**parameters.values(), "preview": True}, *outputs, timer, onProgress, onDone)

    def enter(self) -> None:
        self.panel.setParameterNode(self.logic.getParameterNode())

    def onSceneStartClose(self, caller, event) -> None:
        self.panel.stop()

    def onSceneEndClose(self, caller, event) -> None:
        interpolateLinearly()
        self.panel.setParameterNode(self.logic.getParameterNode())

    def cleanup(self) -> None:
        self.removeObservers()
        if self.panel:
            self.panel.close()
            self.results.close()


def twoVolumes(parameters: Parameters) -> str:
    """What is wrong if one volume is chosen twice."""
    return _("Choose two different volumes.") if parameters.nodeOf("fixed") is parameters.nodeOf("moving") else ""


class DeepSimRegistrationLogic(ScriptedLoadableModuleLogic):
    """Register nodes from a script:

    >>> logic = DeepSimRegistrationLogic()
    >>> registration = logic.register(fixedNode, movingNode, preset="fast")
    >>> registration.volume, registration.transform, registration.metrics["sdlogj"]
    """

    def register(
        self, fixedNode, movingNode, preset: str = "default", outputVolume=None, outputTransform=None, callback=None, **more
    ) -> Registration:
        """Register `movingNode` to `fixedNode`; the moving node is put under the resulting transform.

        more: nodes by the names of the inputs (fixedMask, movingMask, fixedLabels, movingLabels, fixedLandmarks,
        movingLandmarks, rigidLabels, initial) and options by their names on the command line (similarity="ncc+mind",
        smoothing=1.2 ...). Without `callback` it blocks and raises RuntimeError if the registration fails; with it, it returns
        at once and callback(registration) is called at the end (state done, failed or cancelled). Raises NodeError or
        InputError for nodes and options that cannot be used.
        """
        chosen = {INPUTS[name]: node for name, node in more.items() if name in INPUTS and node is not None}
        chosen |= {"fixed": fixedNode, "moving": movingNode}
        if preset not in PRESETS:
            raise ValueError(f"There is no preset {preset!r}. Choose from {', '.join(PRESETS)}.")
        own = {name: value for name, value in more.items() if name not in INPUTS}
        config = {**PRESETS[preset], **own}
        from_dict(RegistrationConfig, config)  # complains before anything is written
        if callback is None:
            registration = self.start(chosen, config, outputVolume, outputTransform)
            registration.run.wait()
            if registration.state == "failed":
                raise RuntimeError(registration.error)
            return registration
        import qt  # the rest of the logic works without

        return self.start(chosen, config, outputVolume, outputTransform, qt.QTimer(), onDone=callback)

    def start(
        self,
        chosen: dict,
        config: dict,
        outputVolume=None,
        outputTransform=None,
        timer=None,
        onProgress=lambda line: None,
        onDone=lambda r: None,
    ) -> Registration:
        """Write the nodes into a new job folder and start the child process."""
        folder = Path(tempfile.mkdtemp(prefix="DeepSimRegistration-", dir=slicer.app.temporaryPath))
        registration = Registration(chosen, config, folder, outputVolume, outputTransform)
        registration.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return registration


class DeepSimRegistrationTest(ScriptedLoadableModuleTest):
    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_register()

    def test_register(self) -> None:
        """A disk that is shifted comes back."""
        import numpy as np

        self.delayDisplay(_("Registering two disks"))
        if missing := install.missingPackages(Path(__file__).parent / "Resources" / "DeepSimRegistrationRequirements.txt"):
            self.skipTest(f"packages are missing: {', '.join(missing)}")
        x, y = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
        disks = [np.exp(-(((x - c) ** 2 + (y - 32) ** 2) / 200.0))[None] * 100 + np.cos(x / 3)[None] for c in (30, 35)]
        fixed, moving = (
            slicer.util.addVolumeFromArray(disk.astype("float32"), name=name) for disk, name in zip(disks, ("fixed", "moving"), strict=True)
        )
        registration = DeepSimRegistrationLogic().register(fixed, moving, preset="fast")
        before, after = (np.abs(slicer.util.arrayFromVolume(v) - disks[0]).mean() for v in (moving, registration.volume))
        self.assertLess(after, before / 4)
        self.assertIs(moving.GetParentTransformNode(), registration.transform)
        self.delayDisplay(_("Test passed"))

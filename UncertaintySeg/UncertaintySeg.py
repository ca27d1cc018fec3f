"""Segment volumes and see where the result is uncertain; check the quality of many; train own models, and choose what to label next."""

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
from imagingai.tasks import TASKS
from imagingai.uncertainty.config import SegmentConfig
from ImagingAILib import install
from ImagingAILib.case_view import CaseView, SegmentResults
from ImagingAILib.frame import Tabs, connectPlaces
from ImagingAILib.panel import TaskPanel
from ImagingAILib.parameters import Parameters, camelCase
from ImagingAILib.queue_view import QueueView
from ImagingAILib.readers_view import ReadersResults, readersMissing
from ImagingAILib.segmentation import FolderRun, ReadersRun, SegmentationRun, TrainingRun, newFolder, pairsOfScene
from ImagingAILib.training_view import FROM_SCENE, FolderResults, NextCases, PairsView, TrainingResults, following

DOCS = "https://github.com/ImagingAI/SlicerImagingAI/blob/main/docs/modules/UncertaintySeg.md"
REQUIREMENTS = "UncertaintySegRequirements.txt"  # all modules share one folder of resources
INPUTS = {camelCase(item.name): item.name for item in TASKS["segment"].inputs}


class UncertaintySeg(ScriptedLoadableModule):
    def __init__(self, parent) -> None:
        super().__init__(parent)
        parent.title = _("Uncertainty Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["ImagingAI"]
        parent.helpText = _(
            "Segments a volume several times over and shows where the results differ: maps in bits, samples to flip through, volumes "
            "with intervals, and a traffic light that says why. A queue for many cases, training on own images with one or several "
            'readers, and the choice of what to label next. See the <a href="{docs}">documentation</a>.'
        ).format(docs=DOCS)
        parent.acknowledgementText = _(
            "After Czolbe, Arnavaz, Krause, Feragen: Is segmentation uncertainty useful?, Information Processing in Medical Imaging 2021."
        )


class UncertaintySegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panels = {}

    def setup(self) -> None:
        super().setup()
        widget = slicer.util.loadUI(self.resourcePath("UI/UncertaintySeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = UncertaintySegLogic()
        self.view = CaseView(self.ui)
        connectPlaces(self.ui)
        self.makeTabs()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.setParameterNode()

    def makeTabs(self) -> None:
        """Each tab is a .ui file of its own, most of them with the panel of a task."""
        titles = {
            "Segment": _("Segment"),
            "Queue": _("Queue"),
            "Quality": _("Quality"),
            "Train": _("Train"),
            "Readers": _("Readers"),
            "Active": _("Next"),
        }
        self.tabs = Tabs(self.ui.tabs)
        pages = {name: self.addTab(name, title) for name, title in titles.items()}
        self.segment = self.addPanel(pages["Segment"], "segment", self.startSegment, SegmentResults(self.view))
        self.queue = QueueView(pages["Queue"], self.view)
        quality = FolderResults(pages["Quality"], lambda folder: self.segment.parameters.setFile("quality", str(folder / "quality.json")))
        self.quality = self.addPanel(pages["Quality"], "learn-quality", self.startInFolder, quality, outputMissing)
        train = pages["Train"]
        self.train = self.addPanel(
            train, "train-segmentation", self.startTraining, TrainingResults(train, self.useModel), self.trainMissing
        )
        train.sourceBox.addItems([_("segmentations of this scene"), _("folders")])
        train.sourceBox.connect("currentIndexChanged(int)", self.onSource)
        readers = pages["Readers"]
        check = lambda parameters: readersMissing(readers.imageSelector.currentNode())  # noqa: E731
        self.readers = self.addPanel(readers, "compare-raters", self.startReaders, ReadersResults(readers), check)
        readers.imageSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onPairs)
        self.pairs = PairsView(train, self.onPairs)
        active = pages["Active"]
        nextCases = NextCases(active, self.nextRound, lambda: self.active.parameters.file("images"))
        self.active = self.addPanel(active, "select-cases", self.startInFolder, nextCases, outputMissing)
        self.onSource(train.sourceBox.currentIndex)

    def addTab(self, name: str, title: str):
        widget = slicer.util.loadUI(self.resourcePath(f"UI/UncertaintySeg{name}.ui"))
        self.tabs.add(widget, title)
        widget.setMRMLScene(slicer.mrmlScene)
        return slicer.util.childWidgetVariables(widget)

    def addPanel(self, ui, task: str, start, results, check=lambda parameters: "") -> TaskPanel:
        panel = TaskPanel(ui, task, self.resourcePath(REQUIREMENTS), start, results, check, prefix=f"{task}.")
        self.panels[task] = panel
        return panel

    # --- what the buttons start

    def startSegment(self, parameters, timer, onProgress, onDone) -> SegmentationRun:
        given = (parameters.nodes(), parameters.files(), parameters.values(), parameters.file("output"))
        return self.logic.start(*given, timer, onProgress, onDone)

    def startTraining(self, parameters, timer, onProgress, onDone) -> TrainingRun:
        isScene = self.train.ui.sourceBox.currentIndex == FROM_SCENE
        inputs = {name: path for name, path in parameters.files().items() if not (isScene and name in ("images", "labels", "label_maps"))}
        run = TrainingRun(inputs, parameters.values(), Path(parameters.file("output")), pairsOfScene() if isScene else [])
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return run

    def startReaders(self, parameters, timer, onProgress, onDone) -> ReadersRun:
        image = self.readers.ui.imageSelector.currentNode()
        run = ReadersRun(image, parameters.file("result"), parameters.values(), newFolder("", image.GetName()))
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return run

    def startInFolder(self, parameters, timer, onProgress, onDone) -> FolderRun:
        """A task whose folder the user has chosen."""
        task = next(name for name, panel in self.panels.items() if panel.parameters is parameters)
        run = FolderRun(task, parameters.files(), parameters.values(), Path(parameters.file("output")))
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return run

    def trainMissing(self, parameters: Parameters) -> str:
        """What a training lacks."""
        if self.train.ui.sourceBox.currentIndex == FROM_SCENE:
            if len(pairsOfScene()) < 2:
                return _("Add at least two images with their segmentations.")
        elif not parameters.file("label_maps"):
            if not parameters.file("images"):
                return _("Choose the images.")
            if not parameters.file("labels"):
                return _("Choose the labels.")
        return outputMissing(parameters)

    # --- what one tab does for another

    def onPairs(self, _node=None) -> None:
        """The pairs of the scene are what Train learns from and Readers compares."""
        self.train.updateApply()
        self.readers.updateApply()

    def onSource(self, index: int) -> None:
        self.train.ui.pairsSection.visible = index == FROM_SCENE
        self.train.ui.foldersSection.visible = index != FROM_SCENE
        self.train.updateApply()

    def useModel(self, path: str) -> None:
        """Segment with a model that was trained."""
        self.segment.parameters.setFile("model", path)
        self.ui.tabs.setCurrentIndex(0)

    def nextRound(self, folder: Path) -> None:
        """A round is done: the next one goes on from it."""
        self.active.parameters.setFile("previous", str(folder))
        self.active.parameters.setFile("output", str(following(folder)))

    # --- scene and module

    def setParameterNode(self) -> None:
        node = self.logic.getParameterNode()
        for panel in self.panels.values():
            panel.setParameterNode(node)
        if self.train.parameters.file("images") or self.train.parameters.file("label_maps"):
            self.train.ui.sourceBox.setCurrentIndex(1 - FROM_SCENE)
        self.pairs.fill()

    def enter(self) -> None:
        self.setParameterNode()

    def onSceneStartClose(self, caller, event) -> None:
        self.queue.clear()
        for panel in self.panels.values():
            panel.stop()

    def onSceneEndClose(self, caller, event) -> None:
        self.setParameterNode()

    def cleanup(self) -> None:
        self.removeObservers()
        for panel in self.panels.values():
            panel.close()
        if self.panels:
            self.view.close()


def outputMissing(parameters: Parameters) -> str:
    """What is missing if no folder is chosen for the results."""
    return "" if parameters.file("output") else _("Choose a folder for the results.")


class UncertaintySegLogic(ScriptedLoadableModuleLogic):
    """Segment nodes from a script:

    >>> logic = UncertaintySegLogic()
    >>> run = logic.segment(imageNode, samples=8)
    >>> run.case.segmentation, run.case.map("entropy"), run.case.sample(3), run.result["volumes"]
    """

    def segment(self, imageNode, callback=None, keepIn="", **more) -> SegmentationRun:
        """Segment a volume.

        more: nodes by the names of the inputs (image2, image3, image4, labels), files by theirs (model, quality, atlasImages,
        atlasLabels, series, or a folder of labels) and options by their names on the command line (samples=8, tta=True ...).
        Without `callback` it blocks and raises RuntimeError if the segmentation fails; with it, it returns at once and
        callback(run) is called at the end (state done, failed or cancelled). Raises NodeError or InputError for nodes and options
        that cannot be used. keepIn: a folder that gets a folder for this result; without it that is a temporary one.
        """
        given = {INPUTS[name]: value for name, value in more.items() if name in INPUTS and value is not None}
        chosen = {"image": imageNode, **{name: node for name, node in given.items() if hasattr(node, "GetID")}}
        inputs = {name: str(path) for name, path in given.items() if name not in chosen}
        config = {name: value for name, value in more.items() if name not in INPUTS}
        from_dict(SegmentConfig, config)  # complains before anything is written
        if callback is None:
            run = self.start(chosen, inputs, config, keepIn)
            run.run.wait()
            if run.state == "failed":
                raise RuntimeError(run.error)
            return run
        import qt  # the rest of the logic works without

        return self.start(chosen, inputs, config, keepIn, qt.QTimer(), onDone=callback)

    def start(
        self, chosen: dict, inputs: dict, config: dict, keepIn="", timer=None, onProgress=lambda line: None, onDone=lambda run: None
    ) -> SegmentationRun:
        """Write the nodes into a new job folder and start the child process."""
        folder = newFolder(str(keepIn), chosen["image"].GetName())
        run = SegmentationRun(chosen, inputs, config, folder)
        run.start(install.python(), install.jobEnvironment(), timer, onProgress, onDone)
        return run


class UncertaintySegTest(ScriptedLoadableModuleTest):
    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_segment()

    def test_segment(self) -> None:
        """The shipped model on noise: whatever it finds, the numbers of the maps hang together."""
        import numpy as np

        self.delayDisplay(_("Segmenting noise"))
        if missing := install.missingPackages(Path(__file__).parent / "Resources" / REQUIREMENTS):
            self.skipTest(f"packages are missing: {', '.join(missing)}")
        noise = np.random.default_rng(0).normal(100, 20, (32, 32, 32)).astype("float32")
        image = slicer.util.addVolumeFromArray(noise, np.diag([-2.0, -2.0, 2.0, 1.0]), "noise")
        run = UncertaintySegLogic().segment(image, samples=2)
        entropy, mutual, expected = (
            slicer.util.arrayFromVolume(run.case.map(name)) for name in ("entropy", "mutual_information", "expected_entropy")
        )
        self.assertTrue(np.allclose(entropy, mutual + expected, atol=1e-3))
        self.delayDisplay(_("Test passed"))

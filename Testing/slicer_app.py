"""Slicer without Qt: `slicer.app`, `slicer.mrmlScene` and `slicer.modules` on the MRML classes of PyPI's slicer-core.

`start()` gives a new application with an empty scene; `slicer.util` then loads and saves files and scenes as in Slicer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

import slicer
import slicer.util
import vtk

LOGICS = {  # Slicer finds some of them by exactly these names
    "Colors": "vtkSlicerColorLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}
FILE_TYPES = {  # all else is a volume
    "SceneFile": (".mrb",),
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "TransformFile": (".h5", ".tfm", ".mat"),
    "ModelFile": (".vtp", ".vtk", ".stl", ".obj", ".ply"),
    "TableFile": (".csv", ".tsv"),
    "TextFile": (".txt", ".json"),
}


class Files:
    """Stands in for qSlicerCoreIOManager: the storage nodes read and write, this only picks them."""

    def __init__(self, logics: dict) -> None:
        self.logics = logics

    def fileType(self, fileName) -> str:
        return next((kind for kind, endings in FILE_TYPES.items() if str(fileName).lower().endswith(endings)), "VolumeFile")

    def fileWriterFileType(self, node) -> str:
        return node.GetClassName()

    def loadNodes(self, fileType, properties, loadedNodes=None, messages=None) -> bool:
        path = str(properties["fileName"])
        if not os.path.exists(path):
            return False
        if fileType == "SceneFile":
            return bool(slicer.mrmlScene.ReadFromMRB(path, bool(properties.get("clear"))))
        name = properties.get("name") or Path(path).name.split(".")[0]
        node = self.load(fileType, path, name, properties)
        if node is not None and loadedNodes is not None:
            loadedNodes.AddItem(node)
        return node is not None

    def load(self, fileType, path, name, properties):
        if fileType == "VolumeFile":
            return self.logics["volumes"].AddArchetypeVolume(path, name, 1 if properties.get("labelmap") else 0)
        if fileType == "SegmentationFile":
            return loadSegmentation(path, name)
        if fileType == "TransformFile":
            return self.logics["transforms"].AddTransform(path, slicer.mrmlScene)
        if fileType == "MarkupsFile":
            return slicer.mrmlScene.GetNodeByID(self.logics["markups"].LoadMarkups(path, name) or "")
        if fileType == "ModelFile":
            return self.logics["models"].AddModel(path)
        if fileType == "TableFile":
            return self.logics["tables"].AddTable(path)
        raise ValueError(f"No reader for {fileType}: {path}")

    def saveNodes(self, fileType, properties, messages=None) -> bool:
        path = str(properties["fileName"])
        if fileType == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(path))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        if not storage.GetSupportedFileExtension(path, False, True):  # WriteData would write another format under this name
            return False
        storage.SetFileName(path)
        storage.SetUseCompression(int(bool(properties.get("useCompression", True))))
        return bool(storage.WriteData(node))


def loadSegmentation(path: str, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(path)
    node.SetAndObserveStorageNodeID(storage.GetID())
    if storage.ReadData(node):
        node.CreateDefaultDisplayNodes()
        return node
    slicer.mrmlScene.RemoveNode(storage)
    slicer.mrmlScene.RemoveNode(node)
    return None


class SubjectHierarchy:
    """Gives every data node its subject hierarchy item, as Slicer's plug-ins (Qt) do."""

    def __init__(self, scene) -> None:
        self.scene = scene
        scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self.onNodeAdded)
        scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self.onNodeRemoved)
        scene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, self.onEndImport)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, scene, event, node) -> None:
        if not scene.IsImporting():
            self.addItem(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, scene, event, node) -> None:
        if scene is None:  # it is being deleted
            return
        hierarchy = scene.GetSubjectHierarchyNode()
        item = hierarchy.GetItemByDataNode(node) if hierarchy and not scene.IsClosing() else 0
        if item:
            hierarchy.RemoveItem(item, False, False)

    def onEndImport(self, scene, event) -> None:
        for index in range(scene.GetNumberOfNodes()):
            self.addItem(scene.GetNthNode(index))

    def addItem(self, node) -> None:
        if not node.IsA("vtkMRMLStorableNode") or node.IsA("vtkMRMLColorNode") or node.GetHideFromEditors():
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


class App:
    """Stands in for qSlicerApplication without a main window."""

    applicationName = "Slicer"

    def __init__(self) -> None:
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer-")
        weakref.finalize(self, shutil.rmtree, self.temporaryPath, ignore_errors=True)
        self.scene = slicer.vtkMRMLScene()
        self.mrmlApplicationLogic = slicer.vtkSlicerApplicationLogic()
        self.mrmlApplicationLogic.SetMRMLScene(self.scene)  # adds the selection and interaction nodes
        self.logics = {}
        vtk.vtkObject.GlobalWarningDisplayOff()  # the wheel lacks Slicer's color and terminology files
        self.mrmlApplicationLogic.GetColorLogic().SetMRMLScene(self.scene)
        self.mrmlApplicationLogic.GetColorLogic().AddDefaultColorNodes()
        for name, className in LOGICS.items():
            logic = getattr(slicer, className)()
            logic.SetMRMLApplicationLogic(self.mrmlApplicationLogic)
            logic.SetMRMLScene(self.scene)
            self.mrmlApplicationLogic.SetModuleLogic(name, logic)
            self.logics[name.lower()] = logic
        vtk.vtkObject.GlobalWarningDisplayOn()
        self.remoteIO = slicer.vtkMRMLRemoteIOLogic()  # without it scenes cannot be read from .mrb
        self.remoteIO.SetMRMLScene(self.scene)
        self.remoteIO.SetMRMLApplicationLogic(self.mrmlApplicationLogic)
        self.remoteIO.GetCacheManager().SetRemoteCacheDirectory(self.temporaryPath)
        self.remoteIO.AddDataIOToScene()
        self.subjectHierarchy = SubjectHierarchy(self.scene)
        self.files = Files(self.logics)

    def mrmlScene(self):
        return self.scene

    def applicationLogic(self):
        return self.mrmlApplicationLogic

    def coreIOManager(self) -> Files:
        return self.files

    ioManager = coreIOManager

    def layoutManager(self):
        return None

    def testingEnabled(self) -> bool:
        return True  # tryWithErrorDisplay then raises without a dialog

    def processEvents(self, *args) -> None:
        pass

    pauseRender = resumeRender = processEvents

    def translate(self, context, text) -> str:
        return text

    def startupEnvironment(self):
        return SimpleNamespace(keys=os.environ.keys, value=os.environ.get)

    def moduleManager(self):
        return SimpleNamespace(module=lambda name: getattr(slicer.modules, name.lower(), None))


def start(application: type[App] = App) -> App:
    """A new application with an empty scene; nodes of an earlier one are no longer part of Slicer."""
    app = slicer.app = application()
    slicer.mrmlScene = app.scene
    modules = {name: SimpleNamespace(name=name, logic=lambda logic=logic: logic) for name, logic in app.logics.items()}
    slicer.modules = SimpleNamespace(**modules)
    return app

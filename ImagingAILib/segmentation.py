"""Runs of the segmentation tasks on nodes of the scene or on folders: what is written for the job, and what becomes of its result."""

from __future__ import annotations

import re
import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from imagingai.datasets import read_label_names
from ImagingAILib import nodes as files
from ImagingAILib.case import Case
from ImagingAILib.nodes import NodeError
from ImagingAILib.run import NodeRun

CHANNELS = ("image", "image2", "image3", "image4")
IMAGE_OF = "ImagingAI.TrainingImage"  # node reference of a segmentation: what it is of; those that have it are learned from
FROM_SCENE = "from-scene"  # of the folder of a training; written anew each time
READER = "ImagingAI.Reader"  # attribute of such a segmentation: who drew it


class FolderRun(NodeRun):
    """A task whose inputs are files and folders."""

    def __init__(self, task: str, inputs: dict[str, str], config: dict[str, Any], folder: Path) -> None:
        super().__init__(config, folder)
        self.task, self.inputs = task, inputs

    def writeInputs(self) -> dict[str, str]:
        return self.inputs


class SegmentationRun(FolderRun):
    """Segments a volume. chosen: nodes by the names of the inputs (image, image2 ..., labels); afterwards `case` has the nodes."""

    def __init__(self, chosen: dict[str, Any], inputs: dict[str, str], config: dict[str, Any], folder: Path) -> None:
        super().__init__("segment", inputs, config, folder)
        self.chosen, self.case = chosen, None

    def writeInputs(self) -> dict[str, str]:
        if "labels" in self.chosen and "labels" in self.inputs:
            raise NodeError(_("Choose labels of the scene or a folder of labels, not both."))
        self.folder.mkdir(parents=True, exist_ok=True)
        where = {name: self.folder / f"{name}.nrrd" for name in self.chosen}
        for name in (name for name in CHANNELS if name in self.chosen):
            files.writeVolume(self.chosen[name], where[name])
        if "labels" in self.chosen:
            files.writeLabels([self.chosen["labels"]], [self.chosen["image"]], [where["labels"]])
        return {**self.inputs, **{name: str(path) for name, path in where.items()}}

    def readResult(self) -> None:
        image = self.chosen["image"]
        if image.GetScene() is None:
            raise NodeError(_("The image was removed from the scene meanwhile. The results are in {folder}.").format(folder=self.folder))
        self.case = Case(self.folder, image)


class TrainingRun(FolderRun):
    """Trains a model in a folder of the user, on folders (inputs) or on pairs of the scene; a stopped one goes on from its checkpoint."""

    def __init__(self, inputs: dict[str, str], config: dict[str, Any], folder: Path, pairs: list[tuple] = ()) -> None:
        super().__init__("train-segmentation", inputs, config, folder)
        self.pairs = list(pairs)

    @property
    def textWhenStopped(self) -> str:
        return _("Stopped. Train again with the same settings to go on from the last checkpoint.")

    def writeInputs(self) -> dict[str, str]:
        return {**self.inputs, **(writePairs(self.pairs, self.folder) if self.pairs else {})}

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"


class ReadersRun(FolderRun):
    """Compares the readers of an image of the scene; result: a folder of segment whose samples are compared with them, or nothing."""

    def __init__(self, image, result: str, config: dict[str, Any], folder: Path) -> None:
        super().__init__("compare-raters", {"result": result} if result else {}, config, folder)
        self.image = image

    def writeInputs(self) -> dict[str, str]:
        pairs = [pair for pair in pairsOfScene() if pair[0] is self.image]
        place, names = self.folder / FROM_SCENE, distinct([reader or labels.GetName() for _image, labels, reader in pairs])
        place.mkdir(parents=True)
        paths = [place / f"{name}.nrrd" for name in names]
        known = read_label_names(Path(self.inputs["result"]) / "segmentation.nii.gz") if self.inputs else {}
        files.writeLabels([labels for _image, labels, _reader in pairs], [self.image] * len(pairs), paths, known=known)
        return {**self.inputs, "labels": str(place)}


# --- pairs of an image and a segmentation of it, in the scene


def pairsOfScene() -> list[tuple]:
    """(image, segmentation, reader) of all that is to be learned from, by the names of the images."""
    nodes = [*slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), *slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")]
    pairs = [(image, node, node.GetAttribute(READER) or "") for node in nodes if (image := node.GetNodeReference(IMAGE_OF))]
    return sorted(pairs, key=lambda pair: (pair[0].GetName(), pair[2], pair[1].GetName()))


def addPair(image, labels, reader: str) -> None:
    """Learn from a segmentation (or label map) of an image, drawn by a reader."""
    labels.SetNodeReferenceID(IMAGE_OF, image.GetID())
    labels.SetAttribute(READER, reader.strip())


def removePair(labels) -> None:
    labels.SetNodeReferenceID(IMAGE_OF, None)
    labels.RemoveAttribute(READER)


def writePairs(pairs: list[tuple], folder: Path, known: dict[int, str] | None = None) -> dict[str, str]:
    """Write pairs as folders that train-segmentation reads; returns its inputs. Raises `NodeError`.

    known: values that some names have already.

    The folder `from-scene` gets `images` and `labels`, the latter with a folder for each reader if there are several.
    """
    images = list({image.GetID(): image for image, _labels, _reader in pairs}.values())
    cases = dict(zip([image.GetID() for image in images], distinct([image.GetName() for image in images]), strict=True))
    readers = sorted({reader for _image, _labels, reader in pairs})
    folders = dict(zip(readers, distinct(readers) if len(readers) > 1 else [""], strict=True))
    root, paths = folder / FROM_SCENE, {}
    for image, labels, reader in pairs:
        path = root / "labels" / folders[reader] / f"{cases[image.GetID()]}.nrrd"
        if path in paths:
            text = _("{image} has two segmentations of the same reader: {one} and {other}. Give each reader a name of its own.")
            raise NodeError(text.format(image=image.GetName(), one=paths[path][1].GetName(), other=labels.GetName()))
        paths[path] = (image, labels)
    shutil.rmtree(root, ignore_errors=True)  # pairs that were removed since
    for place in {root / "images", *(path.parent for path in paths)}:
        place.mkdir(parents=True)
    for image in images:
        files.writeVolume(image, root / "images" / f"{cases[image.GetID()]}_0000.nrrd")
    labels, images = [labels for _image, labels in paths.values()], [image for image, _labels in paths.values()]
    files.writeLabels(labels, images, list(paths), known=known)
    return {"images": str(root / "images"), "labels": str(root / "labels")}


def newFolder(keepIn: str, name: str) -> Path:
    """A folder for a result in `keepIn` that does not exist, named after the image; without it a temporary one."""
    if not keepIn:
        return Path(tempfile.mkdtemp(prefix="UncertaintySeg-", dir=slicer.app.temporaryPath))
    (plain,) = distinct([name])
    return next(path for n in count(1) if not (path := Path(keepIn) / (plain if n == 1 else f"{plain}-{n}")).exists())


def distinct(names: list[str]) -> list[str]:
    """Names for files: letters, digits and -, each once."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w-]+", "-", name).strip("-") or "case"
        number = next(n for n in range(1, len(names) + 2) if (plain if n == 1 else f"{plain}-{n}") not in found)
        found.append(plain if number == 1 else f"{plain}-{number}")
    return found

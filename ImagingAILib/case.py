"""The result folder of a segmentation as nodes: segmentation, maps, samples, table. MRML only, no Qt.

Maps and samples are read when they are first shown. All nodes are new and have names of their own, so that nothing in the scene is
replaced, and `remove()` takes away exactly what was made.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from imagingai.datasets import read_label_names
from imagingai.job import read_result
from ImagingAILib import compare
from ImagingAILib import nodes as files
from ImagingAILib.labels import labelsOf, valuesByName
from ImagingAILib.nodes import NodeError
from ImagingAILib.world import arrayOf, imageOf, matrixOf

SHOWN_FROM = 0.1  # share of the scale (of a fixed one): below it a map is transparent
PLACES, APART = 5, 10.0  # uncertain places to look at, and their distance in mm at least
CORRECTED = "corrected.nii.gz"
MANY = 3  # structures, from which voxels between more than two of them are usual
UNITS = {"bit": "bit", "mm": "mm", "1": "1"}  # UCUM code -> what the legend says


@dataclass(frozen=True)
class MapKind:
    """How a map is shown. high: the value of the brightest color, 0: by the map; unit: a UCUM code."""

    title: str
    unit: str
    high: float
    colors: str


class Case:
    """What segment has written into a folder.

    image: the volume that was segmented, if it is in the scene; else it is read from where the job says. Raises `NodeError` if the
    folder has no result.
    """

    def __init__(self, folder: Path, image=None, name: str = "") -> None:
        self.folder, self.result = Path(folder), read_result(Path(folder))
        if self.result.get("state") != "done":
            text = _("{folder} has no result: {reason}")
            raise NodeError(text.format(folder=folder, reason=self.result.get("error") or _("it is not finished.")))
        self.name = name or (image.GetName() if image else self.folder.name)
        self.maps: dict[str, Any] = {}
        self.samples = self.browser = None
        before, self._made = nodeIDs(), set()
        try:
            self.image = image or self._readImage()
            self.segmentation = self._readSegmentation()
            self.table = files.readTable(self.rows(), self.columns(), _("{name} volumes").format(name=self.name))
        except NodeError:
            self._made = nodeIDs() - before
            self.remove()
            raise
        self._made = nodeIDs() - before

    # --- nodes

    def _readImage(self):
        """The image of the job; None if it is no longer there."""
        inputs = read_job(self.folder).get("inputs", {})
        try:
            return files.readVolume(inputs.get("image", ""), _("{name} image").format(name=self.name))
        except NodeError:
            return None

    def _readSegmentation(self):
        """A segmentation with the names of the structures."""
        path = self.folder / "segmentation.nii.gz"
        self.names = {value: name for value, name in read_label_names(path).items() if value}
        labelMap = files.readVolume(path, _("{name} labels").format(name=self.name), labels=True, colors=self.names)
        node = files.newNode("vtkMRMLSegmentationNode", _("{name} segmentation").format(name=self.name))
        node.SetReferenceImageGeometryParameterFromVolumeNode(labelMap)
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelMap, node)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSliceIntersectionThickness(2)
        self.colors = labelMap.GetDisplayNode().GetColorNode()
        self.grid = imageOf(labelMap)
        files.removeNode(labelMap)
        return node

    def kinds(self) -> dict[str, MapKind]:
        """The maps that are there, by the name of their file."""
        most = 1.0 if len(self.names) < MANY else 2.0  # bits, the same for all cases of a model
        known = {
            "entropy": MapKind(_("Entropy: all uncertainty"), "bit", most, "uncertainty"),
            "mutual_information": MapKind(_("Mutual information: what the model does not know"), "bit", most / 2, "uncertainty"),
            "expected_entropy": MapKind(_("Expected entropy: what the image does not tell"), "bit", most, "uncertainty"),
            "border_band": MapKind(_("Border band: how far the borders of the samples lie apart"), "mm", 0.0, "border_band"),
        }
        found = {name: kind for name, kind in known.items() if (self.folder / f"{name}.nii.gz").exists()}
        structures = {slug(name): name for name in self.names.values()}
        for path in sorted(self.folder.glob("probability_*.nii.gz")):
            part = path.name.removesuffix(".nii.gz").removeprefix("probability_")
            title = _("Probability of {structure}").format(structure=structures.get(part, part))
            found[f"probability_{part}"] = MapKind(title, "1", 1.0, "probability")
        return found

    def map(self, name: str):
        """The volume node of a map, with its unit, colors and window; read once."""
        node = self.maps.get(name)
        if node is not None and node.GetScene():
            return node
        kind = self.kinds()[name]
        compare.mapColors(kind.colors)  # all cases share it
        before = nodeIDs()
        node = readMap(self.folder / f"{name}.nii.gz", _("{name} {map}").format(name=self.name, map=name.replace("_", " ")), kind)
        self.maps[name] = node
        self._made |= nodeIDs() - before
        return node

    def legend(self, name: str) -> str:
        return legendTitle(self.kinds()[name])

    # --- samples

    def sampleFiles(self) -> list[Path]:
        return sorted(self.folder.glob("sample_*.nii.gz"))

    def sample(self, number: int):
        """The label map node that follows the sequence of samples, showing sample `number` (from 1)."""
        if self.browser is None or not self.browser.GetScene():
            self._readSamples()
        self.browser.SetSelectedItemNumber(number - 1)
        return self.browser.GetProxyNode(self.samples)

    def _readSamples(self) -> None:
        before = nodeIDs()
        self.samples = files.newNode("vtkMRMLSequenceNode", _("{name} samples").format(name=self.name))
        self.samples.SetIndexName("sample")
        self.samples.SetIndexUnit("")
        for number, path in enumerate(self.sampleFiles(), 1):
            node = slicer.vtkMRMLLabelMapVolumeNode()
            files.readImage(node, path)
            self.samples.SetDataNodeAtValue(node, str(number))
        self.browser = files.newNode("vtkMRMLSequenceBrowserNode", _("{name} browser").format(name=self.name))
        self.browser.SetAndObserveMasterSequenceNodeID(self.samples.GetID())
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(self.browser)
        proxy = self.browser.GetProxyNode(self.samples)
        proxy.SetName(_("{name} sample").format(name=self.name))
        proxy.CreateDefaultDisplayNodes()
        proxy.GetDisplayNode().SetAndObserveColorNodeID(self.colors.GetID())
        self._made |= nodeIDs() - before

    # --- numbers

    def measures(self) -> list[tuple[str, dict[str, str]]]:
        """What was measured: a title, and the text of each structure that has it."""
        result, volumes = self.result, self.result.get("volumes", {})
        predicted = (result.get("quality") or {}).get("predicted_dice", {})
        first = next(iter(volumes.values()), {})
        unit = first.get("unit", "ml")
        found = [
            (_("Volume, {unit} ({level:.0%})").format(unit=unit, level=first.get("level", 0)), volumes, lambda one: inside(one, one[unit])),
            (_("Border, mm"), result.get("border_band", {}), lambda one: plain(one["mean_mm"])),
            (_("Predicted Dice"), predicted, lambda one: inside(one, one["dice"])),
            (_("Dice"), (result.get("measured") or {}).get("dice", {}), plain),
        ]
        return [(title, {name: show(one) for name, one in values.items()}) for title, values, show in found if values]

    def columns(self) -> list[str]:
        return [_("Structure"), *(title for title, _texts in self.measures())]

    def rows(self) -> list[tuple[str, ...]]:
        """One row of text per structure; what was not measured is empty."""
        measures = [texts for _title, texts in self.measures()]
        return [(name, *(texts.get(name, "") for texts in measures)) for name in self.result.get("volumes", {})]

    def places(self) -> list[tuple[np.ndarray, float]]:
        """Where the result is most uncertain: points (RAS, mm) and their entropy in bits, the worst first."""
        node = self.map("entropy")
        array, matrix = slicer.util.arrayFromVolume(node), matrixOf(imageOf(node))
        smooth = compare.smooth(array.astype(np.float32), 1)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)[::-1]
        reach, found = np.ceil(APART / spacing).astype(int), []
        while len(found) < PLACES and smooth.max() > SHOWN_FROM:
            index = np.array(np.unravel_index(smooth.argmax(), smooth.shape))
            found.append(((matrix @ [*index[::-1], 1])[:3], float(array[tuple(index)])))
            smooth[tuple(slice(max(0, low), high) for low, high in zip(index - reach, index + reach + 1, strict=True))] = 0
        return found

    # --- changes

    def saveCorrection(self) -> Path | None:
        """Write the segmentation beside the result if a person has changed it; returns the file. Raises `NodeError`."""
        if self.segmentation.GetScene() is None:
            return None
        array, found = labelsOf(self.segmentation, self.grid, mayBeEmpty=True)
        (_own, table), names = valuesByName([{0: "", **self.names}, found])
        array = files.renumbered(array, table)
        if np.array_equal(array, arrayOf(self.grid)):
            return None
        files.writeValues(array, self.grid, names, self.folder / CORRECTED)
        return self.folder / CORRECTED

    def remove(self) -> None:
        """Take the nodes of this result out of the scene."""
        files.removeNode(self.browser)  # first: it makes the node of a sample anew
        for nodeID in self._made:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node and (legend := legendOf(node)):
                slicer.mrmlScene.RemoveNode(legend)
            files.removeNode(node)
        self._made, self.maps, self.samples, self.browser = set(), {}, None, None


def readMap(path: Path, name: str, kind: MapKind):
    """A map as a volume node with its unit, colors and window. Raises `NodeError`."""
    node, unit = files.readVolume(path, name), slicer.vtkCodedEntry()
    unit.SetValueSchemeMeaning(kind.unit, "UCUM", UNITS[kind.unit])
    node.SetVoxelValueUnits(unit)
    high, display = kind.high or usualHigh(slicer.util.arrayFromVolume(node)), node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(high, high / 2)
    display.SetAndObserveColorNodeID(compare.mapColors(kind.colors).GetID())
    display.SetThreshold(max(SHOWN_FROM * kind.high, 1e-3), 1e9)
    display.ApplyThresholdOn()
    return node


def legendTitle(kind: MapKind) -> str:
    title = kind.title.partition(":")[0]
    return title if kind.unit == "1" else f"{title} ({UNITS[kind.unit]})"


def usualHigh(array: np.ndarray) -> float:
    """A whole number that nearly all positive values are below."""
    positive = array[array > 0]
    return float(np.ceil(np.percentile(positive, 95))) if positive.size else 1.0


def legendOf(node):
    """The color legend of a volume, or None."""
    return slicer.modules.colors.logic().GetColorLegendDisplayNode(node) if node.IsA("vtkMRMLVolumeNode") else None


def read_job(folder: Path) -> dict[str, Any]:
    """job.json of a folder; empty if it cannot be read."""
    try:
        return json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def slug(name: str) -> str:
    """Left Hippocampus -> left_hippocampus, as in the names of the files."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def inside(interval: dict[str, Any], value: float) -> str:
    """A value with its interval: 2.59 (0.73–4.99)"""
    return f"{plain(value)} ({plain(interval['low'])}–{plain(interval['high'])})"


def plain(value) -> str:
    """Three digits are enough."""
    return "" if value is None else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def nodeIDs() -> set[str]:
    return {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}

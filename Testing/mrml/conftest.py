"""A Slicer session without Qt, and scenes to try things on."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs Slicer's MRML classes: pip install slicer-core")
vtk = pytest.importorskip("vtk")

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parent / "library")]
sys.modules.setdefault("slicer.i18n", types.SimpleNamespace(tr=lambda text: text))  # slicer-core lacks it

import slicer_app  # noqa: E402

from imagingai.transform_io import save_transform  # noqa: E402
from imagingai.volume import Volume, save  # noqa: E402


class Scene:
    """Makes nodes as a user has them: loaded from files."""

    def __init__(self, folder: Path) -> None:
        self.app, self.folder, self.count = slicer_app.start(), folder, 0

    def path(self, ending: str) -> Path:
        self.count += 1
        return self.folder / f"{self.count}{ending}"

    def volume(self, volume: Volume, name: str = "volume"):
        path = self.path(".nrrd")
        save(volume, path)
        return slicer.util.loadVolume(str(path), {"name": name})

    def labelMap(self, volume: Volume, names: dict[int, str] | None = None, name: str = "labels"):
        path = self.path(".nrrd")
        save(volume, path)
        node = slicer.util.loadLabelVolume(str(path), {"name": name})
        node.CreateDefaultDisplayNodes()
        if names:
            table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "my names")
            table.SetTypeToUser()
            table.SetNumberOfColors(max(names) + 1)
            for value, text in names.items():
                table.SetColor(value, text, 1, 0, 0, 1)
            node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
        return node

    def segmentation(self, reference, masks: dict[str, np.ndarray], name: str = "segmentation"):
        """Segments from masks (k, j, i) on the grid of a volume node."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        for segment, mask in masks.items():
            identity = node.GetSegmentation().AddEmptySegment("", segment)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, identity, reference)
        return node

    def markups(self, points, names=None, kind="vtkMRMLMarkupsFiducialNode", name="points"):
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        for number, point in enumerate(points):
            node.AddControlPoint(*map(float, point), names[number] if names else f"P-{number}")
        return node

    def transform(self, transform, *children, name="transform", parent=None):
        """A node of a transform (to parent, or a field of ours that pulls back), with nodes under it."""
        if isinstance(transform, np.ndarray):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
            node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(transform))
        else:
            path = self.path(".h5")
            save_transform(transform, path)
            node = slicer.util.loadTransform(str(path))
            node.SetName(name)
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        for child in children:
            child.SetAndObserveTransformNodeID(node.GetID())
        return node


@pytest.fixture
def scene(tmp_path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def untouched():
    """Fails if anything in the scene has changed since it was called."""
    before = {}

    def state() -> dict[str, int]:
        nodes = [slicer.mrmlScene.GetNthNode(k) for k in range(slicer.mrmlScene.GetNumberOfNodes())]
        times = {node.GetID(): node.GetMTime() for node in nodes}
        times |= {f"{node.GetID()} voxels": node.GetImageData().GetMTime() for node in nodes if node.IsA("vtkMRMLVolumeNode")}
        times |= {f"{node.GetID()} segments": node.GetSegmentation().GetMTime() for node in nodes if node.IsA("vtkMRMLSegmentationNode")}
        return times

    yield lambda: before.update(state())
    assert before and state() == before

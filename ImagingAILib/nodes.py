"""Nodes to files and files to nodes. What is written is in world space; the nodes of the user are only read.

`without` leaves out a transform that a node is under, and all above it: the output of an earlier run.
"""

from __future__ import annotations

import colorsys
import contextlib
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from ImagingAILib.labels import labelsOf, valuesByName
from ImagingAILib.world import NodeError, arrayOf, chainOf, checkVolume, emptyImage, mapPoints, matrixOf, toWorld, worldGrid, worldImage

LARGEST = 4e6  # voxels of a field that is sampled from another kind of transform
TOLERANCE = 1e-3  # mm, of the inverse of a displacement field: where markups go
COPY_OF = "ImagingAI.CopyOf"


# --- to files


def writeVolume(node, path, without=None) -> None:
    """Write a scalar volume as .nrrd or .nii.gz, where it is in the world."""
    checkVolume(node)
    _writeImage(worldImage(node, without), path)


def writeLabels(
    nodes: Sequence, references: Sequence, paths: Sequence, without=None, known: dict[int, str] | None = None
) -> dict[int, str]:
    """Write label map volumes or segmentations on the grids of their reference volumes; returns the name of every value.

    Equal names get equal values in all files. The values of a label map volume without names (a color table of its own)
    stay as they are. `known` names have their values already. Beside each file the names are written as .csv.
    """
    for reference in references:
        checkVolume(reference)
    grids = [worldGrid(reference, without) for reference in references]
    found = [labelsOf(node, grid, without) for node, grid in zip(nodes, grids, strict=True)]
    (_known, *tables), names = valuesByName([{0: "", **(known or {})}, *(names for _array, names in found)])
    for (array, _names), table, grid, path in zip(found, tables, grids, paths, strict=True):
        writeValues(renumbered(array, table), grid, names, path)
    return names


def writeValues(array: np.ndarray, grid, names: dict[int, str], path) -> None:
    """Write voxels (k, j, i) on a grid in the world, and the names of their values beside them as .csv."""
    _writeImage(_withArray(grid, array), path)
    _writeNames(Path(path), names)


def renumbered(array: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Values by a table of old -> new that has all of them."""
    low, high = min(table), max(table)
    new = np.zeros(high - low + 1, np.int16 if max(map(abs, table.values())) < 1 << 15 else np.int32)
    new[np.array(list(table)) - low] = list(table.values())
    return new[array - low]


def writeLandmarks(node, path, without=None) -> None:
    """Write the defined control points of a markups node as .mrk.json, in the world."""
    defined = slicer.vtkMRMLMarkupsNode.PositionDefined
    numbers = [k for k in range(node.GetNumberOfControlPoints()) if node.GetNthControlPointPositionStatus(k) == defined]
    if not numbers:
        raise NodeError(_("{name} has no points. Place some, or choose other landmarks.").format(name=node.GetName()))
    points = mapPoints(toWorld(node, without), np.array([node.GetNthControlPointPosition(k) for k in numbers]))
    controls = [
        {"id": str(k), "label": node.GetNthControlPointLabel(k), "position": point.tolist(), "positionStatus": "defined"}
        for k, point in zip(numbers, points, strict=True)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "RAS", "coordinateUnits": "mm", "controlPoints": controls}
    Path(path).write_text(json.dumps({"markups": [markup]}, indent=1), encoding="utf-8")


def writeTransform(node, path, reference=None) -> None:
    """Write a transform with its parents as ITK .h5 that maps fixed to moving, where `node` moves moving to fixed.

    Linear transforms and displacement fields are written as they are. Any other (B-spline, thin plate, the inverse of a
    field) becomes a displacement field on the grid of the reference volume in the world.
    """
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node, transform)
    if not all(map(_isWritable, _parts(transform))):
        if reference is None:
            text = _("{name} cannot be written without a reference volume. Choose the fixed volume, or convert it to a displacement field.")
            raise NodeError(text.format(name=node.GetName()))
        checkVolume(reference)
        transform = _sampled(transform, worldGrid(reference))
    copy = slicer.vtkMRMLTransformNode()
    copy.SetAndObserveTransformFromParent(transform)
    _write(slicer.vtkMRMLTransformStorageNode(), copy, path)


def _writeImage(image, path) -> None:
    """Write an image through a node that is in no scene."""
    node, plain = slicer.vtkMRMLScalarVolumeNode(), vtk.vtkImageData()
    plain.ShallowCopy(image)
    plain.SetOrigin(0, 0, 0)
    plain.SetSpacing(1, 1, 1)
    plain.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    node.SetAndObserveImageData(plain)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrixOf(image)))
    isPlain = Path(path).suffix == ".nrrd"
    _write(slicer.vtkMRMLVolumeArchetypeStorageNode(), node, path, arrayOf(image).nbytes if isPlain else 1)


def _write(storage, node, path, size: int = 1) -> None:
    """Write through a storage node; not all of them notice that a disk is full, so look at the file too."""
    path = Path(path)
    with contextlib.suppress(OSError):
        path.unlink()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    if not (storage.WriteData(node) and path.exists() and path.stat().st_size >= size):
        raise NodeError(_("Cannot write {path}. Check that the disk is not full and that you may write there.").format(path=path))


def _withArray(grid, array: np.ndarray):
    image = emptyImage(matrixOf(grid), grid.GetDimensions())
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    return image


def _writeNames(path: Path, names: dict[int, str]) -> None:
    with path.with_name(path.name.split(".")[0] + ".csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("value", "name"), *sorted(names.items())])


def _parts(transform) -> list:
    """The transforms of which a transform is made."""
    parts = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, transform)
    return [parts.GetItemAsObject(k) for k in range(parts.GetNumberOfItems())]


def _isWritable(part) -> bool:
    """Whether ITK has a transform for it that we read: a field only forward."""
    return part.IsA("vtkLinearTransform") or (part.IsA("vtkOrientedGridTransform") and not part.GetInverseFlag())


def _sampled(transform, grid):
    """The displacement field of a transform on a grid, or on a coarser one with the same corners if that is very large."""
    own = np.array(grid.GetDimensions())
    dimensions = np.ceil(own / max(1.0, (own.prod() / LARGEST) ** (1 / 3))).astype(int)
    matrix = matrixOf(grid) @ np.diag([*((own - 1) / np.maximum(dimensions - 1, 1)).clip(1), 1.0])
    index = np.stack(np.meshgrid(*map(np.arange, dimensions[::-1]), indexing="ij"), -1).reshape(-1, 3)[:, ::-1]
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    spacing, directions = np.linalg.norm(matrix[:3, :3], axis=0), np.eye(4)
    directions[:3, :3] = matrix[:3, :3] / spacing
    field = vtk.vtkImageData()
    field.SetDimensions(dimensions)
    field.SetSpacing(spacing)
    field.SetOrigin(matrix[:3, 3])
    field.GetPointData().SetScalars(numpy_to_vtk(mapPoints(transform, points) - points, deep=True))
    out = slicer.vtkOrientedGridTransform()
    out.SetDisplacementGridData(field)
    out.SetGridDirectionMatrix(slicer.util.vtkMatrixFromArray(directions))
    return out


# --- from files: a node that is given is updated and keeps its name and its display


def readVolume(path, name: str, node=None, labels: bool = False, colors: dict[int, str] | None = None):
    """A volume node in the world, a label map if `labels`; `colors` names its values."""
    kind = "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode"
    read = getattr(slicer, kind)()
    readImage(read, path)
    node = node or newNode(kind, name)
    node.SetAndObserveTransformNodeID(None)
    node.CopyOrientation(read)
    node.SetAndObserveImageData(read.GetImageData())
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    if colors:
        node.GetDisplayNode().SetAndObserveColorNodeID(_colorTable(node, colors).GetID())
    return node


def readImage(node, path) -> None:
    """Read a file into a volume node, which may be in no scene. Raises `NodeError`."""
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetSingleFile(1)  # else slices with names in a row, sample_01 sample_02, become one volume
    _read(storage, node, path)


def readTransform(path, name: str, node=None):
    """A transform node; what is put under it goes from the moving to the fixed space.

    Between its voxels a field is linear, as in the library; so is then the way of markups, the inverse that VTK finds.
    """
    read = slicer.vtkMRMLTransformNode()
    _read(slicer.vtkMRMLTransformStorageNode(), read, path)
    transform = read.GetTransformFromParent()
    setLinear(transform)
    parts = _parts(transform)
    isField = len(parts) == 1 and parts[0].IsA("vtkOrientedGridTransform")
    kind = "vtkMRMLLinearTransformNode" if read.IsLinear() else "vtkMRMLGridTransformNode" if isField else "vtkMRMLTransformNode"
    node = node or newNode(kind, name)
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformFromParent(transform)
    return node


def setLinear(transform) -> None:
    """Make the fields in a transform linear between voxels."""
    for part in _parts(transform):
        if part.IsA("vtkOrientedGridTransform"):
            part.SetInterpolationModeToLinear()
            part.SetInverseTolerance(TOLERANCE)


def readTable(rows: Sequence[Sequence], columns: Sequence[str], name: str, node=None):
    """A table node; a column of numbers (None is unknown) stays numbers."""
    node = node or newNode("vtkMRMLTableNode", name)
    table = vtk.vtkTable()
    for title, values in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        isNumber = all(value is None or isinstance(value, (int, float)) for value in values)
        column = vtk.vtkDoubleArray() if isNumber else vtk.vtkStringArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue((math.nan if value is None else value) if isNumber else "" if value is None else str(value))
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    return node


def moveWith(node, transformNode) -> None:
    """Put a node under a transform of the world. Its parent transforms are kept, as copies under it that are shared."""
    if transformNode not in chainOf(node):
        node.SetAndObserveTransformNodeID(_chainUnder(node.GetParentTransformNode(), transformNode).GetID())


def _chainUnder(parent, transformNode):
    """A copy of a chain of transforms under another transform; what was copied before is brought up to date."""
    if parent is None:
        return transformNode
    known = slicer.util.getNodesByClass(parent.GetClassName())
    copies = [other for other in known if other.GetNodeReference(COPY_OF) is parent and transformNode in chainOf(other)]
    copy = copies[0] if copies else newNode(parent.GetClassName(), f"{parent.GetName()} - {transformNode.GetName()}")
    copy.CopyContent(parent)
    copy.SetNodeReferenceID(COPY_OF, parent.GetID())
    copy.SetAndObserveTransformNodeID(_chainUnder(parent.GetParentTransformNode(), transformNode).GetID())
    return copy


def removeNode(node) -> None:
    """Take a node out of the scene, with the nodes that show it; None and removed nodes are fine."""
    if node is None or node.GetScene() is None:
        return
    count = node.GetNumberOfDisplayNodes() if node.IsA("vtkMRMLDisplayableNode") else 0
    shownBy = [node.GetNthDisplayNode(k) for k in range(count)]
    slicer.mrmlScene.RemoveNode(node)  # first: a slice view makes a new display node for a volume without
    for display in filter(None, shownBy):
        slicer.mrmlScene.RemoveNode(display)


def newNode(kind: str, name: str):
    """A node in the scene whose name no other has."""
    unique = slicer.mrmlScene.GenerateUniqueName(name) if slicer.mrmlScene.GetFirstNodeByName(name) else name
    return slicer.mrmlScene.AddNewNodeByClass(kind, unique)


def _read(storage, node, path) -> None:
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise NodeError(_("Cannot read the result {path}. See the log.").format(path=path))


def _colorTable(node, names: dict[int, str]):
    """A color table of the node: that of an earlier run, or a new one."""
    table = node.GetNodeReference("ImagingAI.Colors") or newNode("vtkMRMLColorTableNode", f"{node.GetName()} names")
    node.SetNodeReferenceID("ImagingAI.Colors", table.GetID())
    table.SetTypeToUser()
    table.SetNumberOfColors(max(names) + 1)
    for value in range(max(names) + 1):
        rgb = colorsys.hsv_to_rgb(value * 0.618 % 1, 0.6, 0.9)  # steps of the golden ratio: neighbors differ
        table.SetColor(value, names.get(value, "(none)"), *rgb, float(value in names))
    return table

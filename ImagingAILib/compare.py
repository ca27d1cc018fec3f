"""Look at results in the slice views: blended, as a checkerboard, as a lattice, as a map, where they are bad. MRML only, no Qt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from ImagingAILib import nodes as files
from ImagingAILib.world import arrayOf, imageOf, resampled, toWorld

TILES = 8  # of a checkerboard along the longest axis
MOVED_TILES = 0.8  # their brightness: seamless tiles can be told apart
LINES = 24  # of the lattice along the longest axis
MAP_OPACITY = 0.6
COLORS = {  # value or share of the highest, and its color: blue shrinks, white keeps, red grows; dark agrees, bright does not
    "jacobian": ((0.0, (0.1, 0.2, 0.6)), (0.5, (0.3, 0.6, 1.0)), (1.0, (1.0, 1.0, 1.0)), (1.5, (1.0, 0.6, 0.3)), (2.0, (0.6, 0.1, 0.1))),
    "similarity_map": ((0.0, (0.0, 0.0, 0.1)), (0.35, (0.5, 0.1, 0.4)), (0.7, (0.95, 0.45, 0.1)), (1.0, (1.0, 1.0, 0.6))),
    "uncertainty": ((0.0, (0.2, 0.0, 0.35)), (0.35, (0.7, 0.1, 0.4)), (0.7, (1.0, 0.5, 0.1)), (1.0, (1.0, 1.0, 0.6))),
    "probability": ((0.0, (0.27, 0.0, 0.33)), (0.33, (0.19, 0.41, 0.56)), (0.67, (0.21, 0.72, 0.47)), (1.0, (0.99, 0.91, 0.14))),
    "border_band": ((0.0, (0.0, 0.6, 0.6)), (0.5, (0.3, 0.9, 1.0)), (1.0, (1.0, 0.3, 1.0))),
}


def showBlend(fixed, moved, opacity: float = 0.5) -> None:
    """The moved volume over the fixed one."""
    setLayers(fixed, moved, opacity)


def showCheckerboard(fixed, moved, node=None):
    """Tiles of the fixed and the moved volume by turns, both in the gray window of the fixed one; returns the volume node."""
    grid = imageOf(moved)
    one, other = (windowed(arrayOf(image)) for image in (resampled(imageOf(fixed), toWorld(fixed), grid, linear=True), grid))
    size = max(1, max(one.shape) // TILES)
    isOther = sum(np.indices(one.shape, sparse=True)[axis] // size for axis in range(3)) % 2 == 1
    node = node or newVolume(_("Checkerboard"))
    node.CopyOrientation(moved)
    slicer.util.updateVolumeFromArray(node, np.where(isOther, MOVED_TILES * other, one).astype(np.uint8))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(255, 127.5)
    setLayers(node, None)
    return node


def showLattice(transform, fixed, isVisible: bool) -> None:
    """The deformation as a grid of lines in the slice views, over the field of view of the fixed volume."""
    transform.CreateDefaultDisplayNodes()
    display, bounds = transform.GetDisplayNode(), [0.0] * 6
    fixed.GetRASBounds(bounds)
    length = max(bounds[2 * axis + 1] - bounds[2 * axis] for axis in range(3))
    display.SetAndObserveRegionNode(fixed)
    display.SetVisualizationMode(slicer.vtkMRMLTransformDisplayNode.VIS_MODE_GRID)
    display.SetGridSpacingMm(length / LINES)
    display.SetGridShowNonWarped(False)
    display.SetVisibility(isVisible)
    display.SetVisibility2D(isVisible)


def showMap(fixed, path: Path, name: str, kind: str, node=None):
    """A map (`jacobian` or `similarity_map` file) in color over the fixed volume, with a legend; returns its volume node."""
    node = files.readVolume(path, name, node)
    high = 2.0 if kind == "jacobian" else max(float(np.percentile(slicer.util.arrayFromVolume(node), 99.5)), 1e-6)
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetAndObserveColorNodeID(mapColors(kind).GetID())
    display.SetWindowLevel(high, high / 2)
    setLayers(fixed, node, MAP_OPACITY)
    showLegend(node, name)
    return node


def showLegend(node, title: str) -> None:
    """The color bar of a volume."""
    legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.2f")
    legend.SetVisibility(True)


def hideMap(node) -> None:
    """Take a map and its legend away."""
    if node and node.GetScene():
        if legend := slicer.modules.colors.logic().GetColorLegendDisplayNode(node):
            slicer.mrmlScene.RemoveNode(legend)
        files.removeNode(node)


def mapColors(kind: str):
    """The color node of a kind of map."""
    name = f"ImagingAI {kind}"
    if known := slicer.mrmlScene.GetFirstNodeByName(name):
        return known
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLProceduralColorNode", name)
    node.SaveWithSceneOff()
    function = vtk.vtkDiscretizableColorTransferFunction()
    for value, rgb in COLORS[kind]:
        function.AddRGBPoint(value, *rgb)
    node.SetAndObserveColorTransferFunction(function)
    return node


def worstPlace(folder: Path, moved) -> tuple[np.ndarray, str]:
    """Where to look first (RAS, mm) and why: the deepest fold, or else where the images agree least."""
    jacobian = readArray(folder / "jacobian.nii.gz")
    if jacobian.min() <= 0:
        index, why = np.unravel_index(jacobian.argmin(), jacobian.shape), _("fold, Jacobian {value:.2f}").format(value=jacobian.min())
    else:
        disagreement = smooth(readArray(folder / "similarity_map.nii.gz"))
        index, why = np.unravel_index(disagreement.argmax(), disagreement.shape), _("least similar place")
    matrix = vtk.vtkMatrix4x4()
    moved.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ [*index[::-1], 1], why


def jumpTo(point: np.ndarray) -> None:
    """All slice views, and the crosshair, to a point (RAS, mm)."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *point[:3], slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    for node in slicer.util.getNodesByClass("vtkMRMLCrosshairNode"):
        node.SetCrosshairRAS(*point[:3])
        node.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)


def setLayers(background, foreground, opacity: float = 0.5) -> None:
    """What the slice views show, fit to what is new in the background; nothing without a main window."""
    if slicer.app.layoutManager():
        shown = {node.GetBackgroundVolumeID() for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
        slicer.util.setSliceViewerLayers(
            background=background, foreground=foreground, foregroundOpacity=opacity, fit=background.GetID() not in shown
        )


def layers() -> dict:
    """What the slice views show."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return {v.GetID(): (v.GetBackgroundVolumeID(), v.GetForegroundVolumeID(), v.GetForegroundOpacity()) for v in views}


def restoreLayers(before: dict, shown) -> None:
    """Show again what `layers()` told, in the views that still show the volume `shown`: others were changed by the user."""
    for viewID, (background, foreground, opacity) in before.items():
        view = slicer.mrmlScene.GetNodeByID(viewID)
        if view and shown.GetID() in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()):
            view.SetBackgroundVolumeID(background)
            view.SetForegroundVolumeID(foreground)
            view.SetForegroundOpacity(opacity)


def setOpacity(opacity: float) -> None:
    """How much the foreground covers."""
    if slicer.app.layoutManager():
        slicer.util.setSliceViewerLayers(foregroundOpacity=opacity)


def setLabels(labelMap, isOutline: bool) -> None:
    """What the slice views show as labels, or nothing."""
    if slicer.app.layoutManager():
        slicer.util.setSliceViewerLayers(label=labelMap, labelOpacity=1.0 if isOutline else 0.5)
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            view.SetUseLabelOutline(isOutline)


def windowed(array: np.ndarray) -> np.ndarray:
    """Gray values 0 to 255 between the 0.5th and the 99.5th percentile, so that two contrasts can stand side by side."""
    low, high = np.percentile(array, (0.5, 99.5))
    return np.clip((array - low) / max(high - low, 1e-12), 0, 1) * 255


def smooth(array: np.ndarray, times: int = 3) -> np.ndarray:
    """Means over neighbors, so that one noisy voxel is not the worst place."""
    for axis in range(3):
        for _time in range(times if array.shape[axis] > 2 else 0):
            padded = np.pad(array, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
            parts = [np.take(padded, range(k, k + array.shape[axis]), axis) for k in range(3)]
            array = sum(parts) / 3
    return array


def readArray(path: Path) -> np.ndarray:
    """Voxels of a file, k, j, i; no node stays in the scene."""
    storage, node = slicer.vtkMRMLVolumeArchetypeStorageNode(), slicer.vtkMRMLScalarVolumeNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise files.NodeError(_("Cannot read {path}. The job folder may have been removed.").format(path=path))
    return slicer.util.arrayFromVolume(node).astype(float)


def newVolume(name: str):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))

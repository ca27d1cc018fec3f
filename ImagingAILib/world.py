"""Where the voxels and points of a node are in the world, with all parent transforms applied to a copy.

The nodes themselves are only read. `without` is a transform that is left out, with all above it: the output of an earlier
run, under which a node may still be. Arrays of voxels are k, j, i as everywhere in Slicer.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

LATTICE = 9  # points along each axis of an image that tell how a transform changes its extent
GROWTH = 8  # times the voxels: more than this is an accident


class NodeError(Exception):
    """Why a node cannot be used, and what to do, in one sentence for the user."""


def toWorld(node, without=None):
    """From the coordinates of the node to the world."""
    transform, parent = vtk.vtkGeneralTransform(), node.GetParentTransformNode()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(parent, without if without in chainOf(node) else None, transform)
    return transform


def chainOf(node) -> list:
    """The parent transform nodes, nearest first."""
    chain = []
    while (node := node.GetParentTransformNode()) is not None:
        chain.append(node)
    return chain


def mapPoints(transform, points: np.ndarray) -> np.ndarray:
    """Where a transform moves points (N, 3)."""
    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    before.SetData(numpy_to_vtk(np.ascontiguousarray(points, float), deep=True))
    after.SetDataTypeToDouble()
    transform.TransformPoints(before, after)
    return vtk_to_numpy(after.GetData()).copy()


def linearMatrix(transform) -> np.ndarray | None:
    """The 4 x 4 matrix of a linear transform; None for any other."""
    whole = vtk.vtkTransform()
    if not slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(transform, whole):
        return None
    return slicer.util.arrayFromVTKMatrix(whole.GetMatrix())


def checkVolume(node) -> None:
    """Raise `NodeError` unless a volume has voxels with one value each."""
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or not image.GetNumberOfPoints():
        raise NodeError(_("{name} is empty. Load an image into it, or choose another volume.").format(name=node.GetName()))
    if (count := image.GetNumberOfScalarComponents()) != 1:
        text = _("{name} has {count} values per voxel (colors or vectors). Convert it to a scalar volume with Vector to Scalar Volume.")
        raise NodeError(text.format(name=node.GetName(), count=count))


# --- images: vtkOrientedImageData, an image with a matrix from voxels to a space


def imageOf(volumeNode):
    """The image of a volume node, in the coordinates of the node; it shares the voxels."""
    image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    image.ShallowCopy(volumeNode.GetImageData())
    image.SetImageToWorldMatrix(matrix)
    return image


def arrayOf(image) -> np.ndarray:
    """The voxels; they are shared."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def matrixOf(image) -> np.ndarray:
    """From voxels (i, j, k) to the space of the image."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def emptyImage(matrix: np.ndarray, dimensions):
    """A grid without voxels."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions([int(n) for n in dimensions])
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return image


def worldGrid(volumeNode, without=None):
    """The grid of a volume in the world: moved with a rigid or scaling parent, else an upright one that holds all of it."""
    image, transform = imageOf(volumeNode), toWorld(volumeNode, without)
    linear = linearMatrix(transform)
    if linear is not None and _isOrthogonal(moved := linear @ matrixOf(image)):
        return emptyImage(moved, image.GetDimensions())
    grid = _fittedGrid(image, transform)
    if grid.GetNumberOfPoints() > GROWTH * image.GetNumberOfPoints():
        text = _("The parent transforms of {name} enlarge it more than {factor} times. Check them, or harden the part that is right.")
        raise NodeError(text.format(name=volumeNode.GetName(), factor=GROWTH))
    return grid


def worldImage(volumeNode, without=None):
    """The image of a volume in the world, resampled only if a parent transform bends or shears it."""
    image, grid = imageOf(volumeNode), worldGrid(volumeNode, without)
    linear = linearMatrix(toWorld(volumeNode, without))
    if linear is not None and np.allclose(linear @ matrixOf(image), matrixOf(grid), atol=1e-9):
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrixOf(grid)))
        return image
    return resampled(image, toWorld(volumeNode, without), grid, linear=True, background=image.GetScalarRange()[0])


def resampled(image, transform, grid, linear: bool, background: float = 0.0):
    """The image, moved by the transform, on a grid; nearest neighbor if not linear."""
    out, resample = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageDataResample
    resample.ResampleOrientedImageToReferenceOrientedImage(image, grid, out, linear, False, transform, background)
    return out


def _isOrthogonal(matrix: np.ndarray) -> bool:
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return np.abs(axes.T @ axes - np.eye(3)).max() < 1e-6


def _fittedGrid(image, transform):
    """A grid of the same spacing that follows the mean direction of the moved image and covers it."""
    matrix, dimensions = matrixOf(image), np.array(image.GetDimensions())
    spacing, oneSlice = np.linalg.norm(matrix[:3, :3], axis=0), dimensions == 1
    ends = [np.linspace(-0.5, n - 0.5, LATTICE if n > 1 else 2) for n in dimensions]
    index = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    points = mapPoints(transform, index @ matrix[:3, :3].T + matrix[:3, 3])
    columns = np.linalg.lstsq(index - index.mean(0), points - points.mean(0), rcond=None)[0].T
    left, _sizes, right = np.linalg.svd(columns / spacing)
    axes = left @ right  # the rotation in the mean linear part
    low, high = (points @ axes).min(0), (points @ axes).max(0)
    count = np.where(oneSlice, 1, np.maximum(np.rint((high - low) / spacing), 1)).astype(int)
    fitted = np.eye(4)
    fitted[:3, :3] = axes * spacing
    fitted[:3, 3] = axes @ ((low + high) / 2 - (count - 1) / 2 * spacing)
    return emptyImage(fitted, count)

"""Label maps and segmentations as voxels with names, on the grid of a volume in the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import slicer
from slicer.i18n import tr as _

from ImagingAILib.world import NodeError, arrayOf, checkVolume, imageOf, resampled, toWorld

BINARY = "Binary labelmap"
TOUCHING = 0.01  # of the smaller segment: so much overlap comes from surfaces that touch
Names = Mapping[int, "str | None"]  # value -> name; None if it has none


def labelsOf(node, grid, without=None, mayBeEmpty: bool = False) -> tuple[np.ndarray, Names]:
    """Values on the grid (k, j, i), and their names. 0 is background."""
    isSegmentation = node.IsA("vtkMRMLSegmentationNode")
    array, names = (_segmentation if isSegmentation else _labelMap)(node, grid, without)
    if not (mayBeEmpty or array.any()):
        text = _("{name} has no label inside the image. Check that it belongs to this image, or leave it out.")
        raise NodeError(text.format(name=node.GetName()))
    return array, {0: "", **names}


def valuesByName(tables: Sequence[Names]) -> tuple[list[dict[int, int]], dict[int, str]]:
    """New values so that equal names have equal values: per table old -> new, and the name of each new value.

    A name keeps its first value if that is free. A value without a name stays.
    """
    values: dict[str, int] = {"": 0}
    for table in tables:
        for value, name in table.items():
            if name is not None and name not in values:
                values[name] = value if value not in values.values() else max(values.values()) + 1
    new = [{value: value if name is None else values[name] for value, name in table.items()} for table in tables]
    names = {value: name for name, value in values.items() if value}
    for table in tables:
        for value in (value for value, name in table.items() if name is None):
            names.setdefault(value, str(value))
    return new, names


def _labelMap(node, grid, without) -> tuple[np.ndarray, Names]:
    checkVolume(node)
    array = arrayOf(resampled(imageOf(node), toWorld(node, without), grid, linear=False))
    whole = array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer) and not np.array_equal(whole, array):
        raise NodeError(_("{name} has values that are not whole numbers, so it is no label map.").format(name=node.GetName()))
    colors = node.GetDisplayNode() and node.GetDisplayNode().GetColorNode()
    given = colors if colors is not None and not colors.GetSingletonTag() else None  # Slicer's own tables name nothing
    return whole, {int(value): _colorName(given, int(value)) for value in np.unique(whole) if value}


def _colorName(colors, value: int) -> str | None:
    if colors is None or not 0 <= value < colors.GetNumberOfColors():
        return None
    name = colors.GetColorName(value)
    return None if name in ("", colors.GetNoName()) else name


def _segmentation(node, grid, without) -> tuple[np.ndarray, Names]:
    """The segments numbered 1, 2, ... in their order."""
    segments, names = _segmentImages(node, grid, without), {}
    array = np.zeros(grid.GetDimensions()[::-1], np.int32)
    sizes: dict[int, int] = {}
    for number, (segment, inside) in enumerate(segments, 1):
        if (name := segment.GetName()) in names.values():
            text = _("{node} has two segments named {name}. Give every segment its own name.")
            raise NodeError(text.format(node=node.GetName(), name=name))
        others, counts = np.unique(array[inside], return_counts=True)
        sizes[number] = counts.sum()
        for other, count in zip(others, counts, strict=True):
            if other and count > TOUCHING * min(sizes[number], sizes[other]):
                text = _("The segments {a} and {b} of {node} overlap. Use one of them only, or remove the overlap in the Segment Editor.")
                raise NodeError(text.format(a=names[other], b=name, node=node.GetName()))
        names[number] = name
        array[inside & (array == 0)] = number
    return array, names


def _segmentImages(node, grid, without):
    """Every segment and where it is on the grid, one after the other."""
    segmentation, transform = node.GetSegmentation(), toWorld(node, without)
    if segmentation.GetSourceRepresentationName() != BINARY:
        segmentation, transform = _drawn(segmentation, transform, grid), None
    layers = {}  # several segments share an image
    for name in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(name)
        image = segment.GetRepresentation(BINARY)
        if image is None or not image.GetNumberOfPoints() or image.GetPointData().GetScalars() is None:
            continue
        if image not in layers:
            layers[image] = arrayOf(resampled(image, transform, grid, linear=False))
        yield segment, layers[image] == segment.GetLabelValue()


def _drawn(segmentation, transform, grid):
    """A copy of a segmentation of surfaces or contours, moved to the world and drawn on the grid."""
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(transform, None):
        copy.ApplyLinearTransform(transform)
    else:
        copy.ApplyNonLinearTransform(transform)
    converter = slicer.vtkSegmentationConverter
    copy.SetConversionParameter(converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(grid))
    copy.CreateRepresentation(BINARY, True)
    return copy

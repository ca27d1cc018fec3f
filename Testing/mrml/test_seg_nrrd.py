"""Slicer reads the .seg.nrrd of a result: names, colors and voxels, at the right place."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from imagingai.uncertainty.seg_nrrd import write_seg_nrrd
from imagingai.volume import Volume
from ImagingAILib.world import arrayOf


def test_segments_with_their_names_lie_where_they_are(scene, tmp_path):
    labels = np.zeros((1, 12, 10, 8), np.int16)
    labels[0, 2:5, 3:6, 1:4], labels[0, 7:11, 5:9, 4:7] = 3, 40
    affine = np.diag([-1.5, -1.0, 2.0, 1.0])
    affine[:3, 3] = (20, 30, -10)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", Volume(labels, affine), (3, 40), ("left ear", "tumor"))

    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    slicer.mrmlScene.AddNode(node)
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegment(k).GetName() for k in range(segmentation.GetNumberOfSegments())]
    assert names == ["left ear", "tumor"] and segmentation.GetNthSegment(1).GetLabelValue() == 40
    for number, center in ((0, (3, 4, 2)), (1, (8.5, 6.5, 5))):
        segment = segmentation.GetNthSegment(number)
        found = segment.GetRepresentation("Binary labelmap")
        matrix = vtk.vtkMatrix4x4()
        found.GetImageToWorldMatrix(matrix)
        index = np.argwhere(arrayOf(found) == segment.GetLabelValue())[:, ::-1] + np.array(found.GetExtent())[::2]
        world = slicer.util.arrayFromVTKMatrix(matrix) @ [*index.mean(0), 1]
        assert np.allclose(world, affine @ [*center, 1])

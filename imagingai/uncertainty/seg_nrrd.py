"""A segmentation as 3D Slicer saves it: .seg.nrrd, a label image with the names and colors of its segments in the header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imagingai.formats import write_image
from imagingai.pictures import structure_color
from imagingai.volume import Volume, to_sitk


def write_seg_nrrd(path: Path, labels: Volume, values: Sequence[int], names: Sequence[str]) -> None:
    """Write labels (1, X, Y, Z) with one segment for each of the values; raises the errors of `volume.save`."""
    from matplotlib.colors import to_rgb

    image = to_sitk(labels)
    extent = " ".join(f"0 {n - 1}" for n in labels.shape)
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap", "Segmentation_ReferenceImageExtentOffset": "0 0 0"}
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        segment = {
            "ID": f"Segment_{number + 1}",
            "Name": name,
            "LabelValue": value,
            "Layer": 0,
            "Extent": extent,
            "Color": " ".join(f"{c:.6g}" for c in to_rgb(structure_color(number + 1))),
        }
        fields |= {f"Segment{number}_{key}": str(text) for key, text in segment.items()}
    for key, text in fields.items():
        image.SetMetaData(key, text)
    write_image(image, path)

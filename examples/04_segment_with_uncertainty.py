"""Segment a brain with the model that comes along, and see where to look.

python examples/04_segment_with_uncertainty.py
"""

from pathlib import Path

import numpy as np

from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.evaluate import structure_volumes
from imagingai.uncertainty.model import load_model
from imagingai.uncertainty.segment import segment
from imagingai.volume import load

DATA = Path(__file__).parents[1] / "Testing" / "Data"


def main(samples: int = 4) -> float:
    image = load(DATA / "brain_moving.nii.gz")
    found = segment(image, load_model(), SegmentConfig(samples=samples))
    for name, volume in structure_volumes(found, 0.9).items():
        print(f"{name:30}{volume['ml']:8.1f} ml, {volume['low']:.1f} to {volume['high']:.1f} in the samples")

    # Where the samples differ, the model does not know; where each of them is unsure, the image does not tell.
    where = np.unravel_index(found.mutual_information.argmax(), image.shape)
    point = image.affine @ [*where, 1]
    print("most disputed at R {:.0f}, A {:.0f}, S {:.0f} mm".format(*point[:3]), f"{found.mutual_information[where]:.2f} bits")
    return float(found.entropy[found.segmentation > 0].mean())


if __name__ == "__main__":
    main()

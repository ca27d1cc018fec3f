"""Register two brains that come with the project, look at the numbers, save the result.

python examples/01_register_files.py [output folder]
"""

import sys
from pathlib import Path

from imagingai.metrics import dice
from imagingai.registration import register
from imagingai.transform import warp
from imagingai.transform_io import save_transform
from imagingai.volume import load, save

DATA = Path(__file__).parents[1] / "Testing" / "Data"


def main(output: Path) -> dict[int, float]:
    fixed, moving = load(DATA / "hippocampus_fixed.nii.gz"), load(DATA / "hippocampus_moving.nii.gz")
    result = register(fixed, moving, report=lambda fraction, text: print(f"{100 * fraction:3.0f} % {text}"))

    # The same transform moves labels; nearest keeps them whole.
    labels = load(DATA / "hippocampus_moving_labels.nii.gz", label=True)
    moved_labels = warp(labels, result.transform, fixed, interpolation="nearest")
    overlap = dice(load(DATA / "hippocampus_fixed_labels.nii.gz", label=True).data[0], moved_labels.data[0])
    print("Dice per structure:", overlap)

    output.mkdir(parents=True, exist_ok=True)
    save(result.moved, output / "moved.nii.gz")
    save_transform(result.transform, output / "transform.h5")  # opens in 3D Slicer, ANTs, SimpleITK
    return overlap


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-output"))

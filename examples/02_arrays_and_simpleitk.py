"""Register numpy arrays, torch tensors or SimpleITK images, with a preset and a mask.

python examples/02_arrays_and_simpleitk.py
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from imagingai.registration import PRESETS, RegistrationConfig, register

DATA = Path(__file__).parents[1] / "Testing" / "Data"


def main() -> float:
    # SimpleITK images keep their grid; a 2-D image is registered in 2-D.
    fixed, moving = (sitk.ReadImage(str(DATA / f"slice_{name}.png"), sitk.sitkFloat32) for name in ("fixed", "moving"))
    config = RegistrationConfig(**{**PRESETS["fast"], "similarity": "ncc+0.5*mind"})
    result = register(fixed, moving, config)

    # Arrays are (X, Y[, Z]) with 1 mm voxels; a mask limits what counts.
    array = np.transpose(sitk.GetArrayFromImage(fixed))
    again = register(array, np.transpose(sitk.GetArrayFromImage(moving)), config, fixed_mask=array > 0)
    difference = float(np.abs(again.moved.data - result.moved.data).mean())
    print(f"moved images differ by {difference:.2f} gray levels on average, because of the mask")
    return difference


if __name__ == "__main__":
    main()

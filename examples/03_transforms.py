"""What to do with a transform: points, the inverse, the Jacobian, the displacement in millimeters.

python examples/03_transforms.py
"""

from pathlib import Path

import numpy as np

from imagingai.registration import PRESETS, RegistrationConfig, register
from imagingai.transform import apply_to_points, to_displacement
from imagingai.volume import load

DATA = Path(__file__).parents[1] / "Testing" / "Data"


def main() -> float:
    fixed, moving = load(DATA / "hippocampus_fixed.nii.gz"), load(DATA / "hippocampus_moving.nii.gz")
    result = register(fixed, moving, RegistrationConfig(**PRESETS["fast"]))

    # A transform maps points (RAS mm) of the fixed image to the moving image ...
    point = fixed.affine[:3] @ [17, 25, 17, 1]
    partner = apply_to_points(result.transform, point[None])
    # ... and its inverse maps them back.
    inverse, error = result.inverse_and_error
    back = apply_to_points(inverse, partner)[0]
    print(f"{point.round(1)} -> {partner[0].round(1)} -> {back.round(1)}; mean inverse error {error['mean']:.3f} mm")

    displacement = to_displacement(result.transform, fixed)  # (3, X, Y, Z), mm, RAS
    print(f"displacements up to {np.linalg.norm(displacement.data, axis=0).max():.1f} mm")
    print(f"volume change from {result.jacobian.data.min():.2f} to {result.jacobian.data.max():.2f}")
    return float(np.linalg.norm(back - point))


if __name__ == "__main__":
    main()

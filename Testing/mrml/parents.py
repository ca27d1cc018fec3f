"""Parent transforms to put nodes under: 4 x 4 matrices."""

from __future__ import annotations

import numpy as np
from grids import turned


def rigid(*shift: float) -> np.ndarray:
    """A turn and a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned(8, -12, 15), shift
    return matrix


def sheared() -> np.ndarray:
    matrix = rigid(3, 4, -5)
    matrix[:3, :3] = matrix[:3, :3] @ [[1.1, 0.2, 0], [0, 0.9, 0.1], [0, 0, 1.0]]
    return matrix

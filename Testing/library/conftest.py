"""Small images that many tests use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imagingai.volume import Volume, save


def disk(center: tuple[float, float], shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    """A textured disk on a dark background, and the disk as a label."""
    x, y = np.meshgrid(*map(np.arange, shape), indexing="ij")
    inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 < 12**2
    texture = 1 + 0.5 * np.cos((x - center[0]) / 2.5) * np.cos((y - center[1]) / 3.5)
    return gaussian_filter(np.where(inside, 100 * texture, 0.0), 0.7), inside


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A folder with a 2-D pair: fixed.nii.gz and moving.nii.gz, shifted by (3, -2) voxels, with labels."""
    folder = tmp_path_factory.mktemp("pair")
    for name, center in (("fixed", (24, 20)), ("moving", (27, 18))):
        image, inside = disk(center)
        save(Volume(image[None, :, :, None].astype(np.float32), np.diag([1.5, 1.5, 1.5, 1.0])), folder / f"{name}.nii.gz")
        save(Volume(inside[None, :, :, None].astype(np.uint8), np.diag([1.5, 1.5, 1.5, 1.0])), folder / f"{name}_labels.nii.gz")
    return folder

"""Two balls to register, and the panel of DeepSimRegistration with them: quick, and real."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

IJK_TO_RAS = np.diag([-1.5, -1.5, 2.0, 1.0])
PATIENCE = 120  # seconds that a small registration may take on a busy machine


def blob(center, shape=(24, 28, 26)) -> tuple[np.ndarray, np.ndarray]:
    """A textured ball and its mask, k j i."""
    k, j, i = np.meshgrid(*map(np.arange, shape), indexing="ij")
    inside = (k - center[0]) ** 2 + (j - center[1]) ** 2 + (i - center[2]) ** 2 < 8**2
    texture = 1 + 0.5 * np.cos((i - center[2]) / 2.0) * np.cos((j - center[1]) / 2.5) * np.cos((k - center[0]) / 3.0)
    return gaussian_filter(np.where(inside, 100 * texture, 0.0), 0.7).astype("f4"), inside.astype("u1")


@pytest.fixture
def pair(host):
    """Two volumes in the scene: a ball here, and there."""
    import slicer  # not everywhere

    return [
        slicer.util.addVolumeFromArray(blob(c)[0], IJK_TO_RAS, name)
        for name, c in (("CT before", (12, 14, 13)), ("CT after", (13, 12, 15)))
    ]


@pytest.fixture
def panel(host, openModule, pair):
    """The panel with both volumes chosen, set to finish soon."""
    widget = openModule("DeepSimRegistration")
    host.choose(widget.ui.fixedSelector, "CT before")
    host.choose(widget.ui.movingSelector, "CT after")
    host.choose(widget.ui.presetOption, "fast")
    host.choose(widget.ui.alignmentOption, "none")  # the search is most of the time
    return widget


def finish(panel, waitUntil) -> None:
    waitUntil(lambda: panel.panel.run is None, PATIENCE)


@pytest.fixture
def done(panel, click, waitUntil):
    """The panel after a registration."""
    click(panel.ui.applyButton)
    finish(panel, waitUntil)
    return panel

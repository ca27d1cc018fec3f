"""The moved image while a registration runs, for those who watch: rarely enough to cost next to nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from imagingai.registration.deformable import resize_field
from imagingai.registration.images import Images
from imagingai.transform import compose, voxel_to_world_displacement, warp
from imagingai.volume import Volume, to_sitk

INTERVAL = 1.0  # seconds between two previews, at least
SHARE = 0.03  # of the time, at most: a large image is shown less often
LARGEST = 2e6  # voxels
FILE = "preview.nrrd"


class Preview:
    """Gives `show` the moved image so far, on the grid that is computed on or, if that is very large, a coarser one."""

    def __init__(self, images: Images, show: Callable[[Volume], None]) -> None:
        self.images, self.show, self.next, self.grid = images, show, 0.0, coarser(images.grid)

    def offer(self, displacement: Callable[[], Tensor]) -> None:
        """Show the image moved by a displacement (1, D, *any shape) in voxels of that shape, if it is time again."""
        began = time.monotonic()
        if began >= self.next:
            self.draw(displacement)
            ended = time.monotonic()
            self.next = ended + max(INTERVAL, (ended - began) / SHARE)

    def draw(self, displacement: Callable[[], Tensor]) -> None:
        """Show the image moved by the displacement now."""
        field = resize_field(displacement(), self.grid.shape[: self.grid.ndim])
        transform = compose(voxel_to_world_displacement(field, self.grid.affine), self.images.linear)
        self.show(warp(self.images.given["moving"], transform, self.grid))


def coarser(grid: Volume) -> Volume:
    """The grid, or one with the same corners that has at most `LARGEST` voxels."""
    factor = max(1.0, (np.prod(grid.shape) / LARGEST) ** (1 / grid.ndim))
    shape = [max(int(n / factor), 1) for n in grid.shape]
    steps = [(n - 1) / max(m - 1, 1) if n > 1 else 1.0 for n, m in zip(grid.shape, shape, strict=True)]
    return Volume(np.broadcast_to(np.float32(0), (1, *shape)), grid.affine @ np.diag([*steps, 1.0]))


@contextlib.contextmanager
def preview_file(partial: Path, wanted: bool) -> Iterator[Callable[[Volume], None] | None]:
    """A function that writes images to `preview.nrrd` beside the folder `partial`; afterwards the file is gone."""
    target = partial.parent / FILE

    def write(moved: Volume) -> None:
        import SimpleITK as sitk

        sitk.WriteImage(to_sitk(moved), str(partial / FILE), False)
        with contextlib.suppress(PermissionError):  # Windows: somebody reads the last one; the next will do
            os.replace(partial / FILE, target)

    try:
        yield write if wanted else None
    finally:
        for file in (partial / FILE, target):
            with contextlib.suppress(PermissionError):
                file.unlink(missing_ok=True)

"""The images of a registration, brought to the grid that is computed on."""

from __future__ import annotations

import logging
from itertools import product

import numpy as np
import torch
from torch import Tensor

from imagingai.metrics import common_labels
from imagingai.registration.config import RegistrationConfig
from imagingai.transform import Affine, Transform, warp
from imagingai.volume import Volume, resample_like, smooth_for

log = logging.getLogger(__name__)


class Images:
    """All images of a registration as tensors on one grid, the moving ones after the linear stage.

    given: fixed, moving, and any of fixed_mask, moving_mask, fixed_labels, moving_labels, rigid_labels.
    """

    def __init__(self, given: dict[str, Volume], grid: Volume, linear: Transform, device: torch.device) -> None:
        self.given, self.grid, self.linear, self.device = given, grid, linear, device

    def bring(self, name: str) -> Tensor | None:
        """(1, 1, *grid): an image normalized, a mask 0 or 1, labels as they are; None if it was not given."""
        if name not in self.given:
            return None
        is_image = name in ("fixed", "moving")
        image, how = self.given[name], "linear" if is_image else "nearest"
        image = smooth_for(fill_holes(image, self.given.get(f"{name}_mask")), self.grid.spacing) if is_image else image
        if name.startswith("moving"):
            on_grid = warp(image, self.linear, self.grid, interpolation=how, fill=background(image) if is_image else 0)
        else:
            on_grid = resample_like(image, self.grid, interpolation=how, fill=background(image) if is_image else 0)
        tensor = to_tensor(normalize(on_grid) if is_image else on_grid, self.device)
        return (tensor > 0).float() if name.endswith("mask") else tensor

    def moving_mask(self) -> Tensor | None:
        """What counts of the moving image: its mask, and the part of the grid that it covers; None if that is everything."""
        moving, mask = self.given["moving"], self.bring("moving_mask")
        if isinstance(self.linear, Affine) and _covers(moving, self.linear, self.grid):
            return mask
        ones = Volume(np.broadcast_to(np.uint8(1), moving.data.shape), moving.affine)
        covered = to_tensor(warp(ones, self.linear, self.grid, interpolation="nearest"), self.device)
        if bool((covered > 0).all()):
            return mask
        return covered if mask is None else covered * mask

    def one_hot(self) -> tuple[Tensor, Tensor]:
        """The labels of both images as channels (1, L, *grid), for the labels that both have."""
        names = ("fixed_labels", "moving_labels")
        values = common_labels(*(self.given[name].data for name in names))
        fixed, moving = (torch.cat([(self.bring(name) == value).float() for value in values], 1) for name in names)
        return fixed, moving


def _covers(moving: Volume, linear: Affine, grid: Volume) -> bool:
    """Whether all of the grid is mapped into the moving image: an affine transform is there as soon as its corners are."""
    corners = np.array(list(product(*[(0, n - 1) for n in grid.shape])), float).T
    index = np.linalg.inv(moving.affine) @ linear.matrix @ grid.affine @ np.vstack([corners, np.ones(corners.shape[1])])
    size = np.array(moving.shape)[:, None]
    return bool(np.all((index[:3] > -0.5) & (index[:3] < size - 0.5)))


def work_grid(fixed: Volume, config: RegistrationConfig) -> Volume:
    """An empty volume on the isotropic grid that is computed on; it covers all voxel centers of the fixed image.

    Its spacing is the finest of the fixed image, but not below two thirds of the cube root of a voxel (thick slices
    hold no more), and not so fine that the grid has more than `config.max_voxels` million voxels.
    """
    axes = 2 if fixed.ndim == 2 else 3
    spacing = fixed.spacing[:axes]
    extent = (np.array(fixed.shape[:axes]) - 1) * spacing
    finest = config.spacing or max(spacing.min(), np.prod(spacing) ** (1 / axes) / 1.5)
    limit = float((np.prod(extent + finest) / (config.max_voxels * 1e6)) ** (1 / axes))
    if limit > finest:
        log.warning("Computed on a grid of %.2f mm instead of %.2f mm: --max-voxels is %g million.", limit, finest, config.max_voxels)
    step = max(finest, limit)
    shape, size = np.ones(3, int), fixed.spacing.copy()
    shape[:axes] = np.ceil(extent / step - 1e-3).astype(int) + 1
    size[:axes] = step
    return Volume(np.broadcast_to(np.float32(0), (1, *shape)), fixed.affine @ np.diag([*(size / fixed.spacing), 1.0]))


def fill_holes(image: Volume, mask: Volume | None) -> Volume:
    """The image with every voxel in a hole of its mask (a lesion) like the nearest one that counts, so that no window sees it.

    What lies around the mask stays: the edge of a brain tells where the brain is.
    """
    if mask is None:
        return image
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    counts = np.squeeze(mask.data[0] > 0)  # a slice has no holes in 3-D
    hole = (binary_fill_holes(counts) & ~counts).reshape(image.shape)
    nearest = distance_transform_edt(hole, image.spacing, return_distances=False, return_indices=True)
    return image.with_data(image.data[(slice(None), *nearest)])


def background(image: Volume) -> float:
    """A gray value that stands for nothing: air is not 0 in a CT."""
    return float(np.percentile(image.data, 0.5))


def normalize(image: Volume) -> Volume:
    """Gray values scaled so that the background is about 0 and bright tissue about 1; outliers are cut at 1.5."""
    data = image.data.astype(np.float32)
    low = background(image)
    inside = data[data > low]
    high = np.percentile(inside, 99) if inside.size else low
    return image.with_data(np.clip((data - low) / max(high - low, 1e-12), 0, 1.5))


def to_tensor(volume: Volume, device: torch.device) -> Tensor:
    """(1, C, X, Y, Z), or (1, C, X, Y) for a 2-D image."""
    tensor = volume.tensor(device)
    return tensor[..., 0] if volume.ndim == 2 else tensor


def to_volume(tensor: Tensor, grid: Volume) -> Volume:
    """The inverse of `to_tensor`, on the grid."""
    return grid.with_data((tensor[..., None] if grid.ndim == 2 else tensor).float().cpu().numpy())

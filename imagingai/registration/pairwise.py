"""Register two images: check, align, deform, and put the result together in world coordinates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from imagingai.device import choose_device
from imagingai.errors import InputError
from imagingai.job import Report, ignore, part
from imagingai.registration.affine import align
from imagingai.registration.config import RegistrationConfig
from imagingai.registration.deformable import deform
from imagingai.transform import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    invert,
    jacobian_determinant,
    voxel_to_world_displacement,
    warp,
)
from imagingai.volume import Volume, check_image, check_labels, check_mask, check_pair, from_sitk, resample_like

log = logging.getLogger(__name__)

Image = Any  # a Volume, a SimpleITK image, a numpy array or a torch tensor (X, Y[, Z]), spacing 1 mm


@dataclass(frozen=True)
class RegistrationResult:
    """The transform and what follows from it; what is not asked for is not computed.

    `transform` maps points of the fixed image to the moving image (RAS mm): moved(p) = moving(transform(p)).
    `linear` is the part of it that comes before any deformation.
    """

    transform: Transform
    linear: Transform
    fixed: Volume
    moving: Volume

    @cached_property
    def moved(self) -> Volume:
        """The moving image on the grid of the fixed image."""
        return warp(self.moving, self.transform, self.fixed)

    @cached_property
    def inverse_and_error(self) -> tuple[Transform, dict[str, float]]:
        """The transform from the moving to the fixed image, and its measured inverse consistency (mm: mean, p95, max)."""
        return invert(self.transform, self.fixed, self.moving)

    @cached_property
    def jacobian(self) -> Volume:
        """Jacobian determinant on the fixed grid: 1 keeps the volume, 0 or less is a fold."""
        return jacobian_determinant(self.transform, self.fixed)


def register(
    fixed: Image,
    moving: Image,
    config: RegistrationConfig = RegistrationConfig(),
    *,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    fixed_labels: Image | None = None,
    moving_labels: Image | None = None,
    rigid_labels: Image | None = None,
    initial: Transform | None = None,
    report: Report = ignore,
    preview: Callable[[Volume], None] | None = None,
) -> RegistrationResult:
    """Find the transform (fixed -> moving, RAS mm) that brings `moving` onto `fixed`.

    Images may have any grid, spacing and orientation, 2-D or 3-D. Masks limit what counts; labels are used by the
    similarity `ncc_sup` only; every region of `rigid_labels` (on the fixed image) moves rigidly. `initial` is where
    to start. `preview` gets the moved image from time to time. Raises `InputError` for images that cannot be used.
    """
    fixed, moving = as_volume(fixed), as_volume(moving)
    extras = {"fixed_mask": fixed_mask, "moving_mask": moving_mask, "fixed_labels": fixed_labels, "moving_labels": moving_labels}
    given = {name: as_volume(image) for name, image in {**extras, "rigid_labels": rigid_labels}.items() if image is not None}
    _check(fixed, moving, given, config)
    share = 0.35 if config.deformation != "none" and config.alignment in ("rigid", "affine") else 0.05
    linear = _align(fixed, moving, given, config, initial, part(report, 0, share))
    if config.deformation == "none":
        report(1.0, "Registered")
        return RegistrationResult(linear, linear, fixed, moving)
    field = _deform(fixed, moving, given, config, linear, part(report, share, 1), preview)
    return RegistrationResult(Composite((field, *_parts(linear))), linear, fixed, moving)


def as_volume(image: Image) -> Volume:
    """A `Volume` of a SimpleITK image, or of an array (X, Y[, Z]) with 1 mm voxels along RAS."""
    if isinstance(image, Volume):
        return image
    return from_sitk(image) if hasattr(image, "GetDirection") else Volume.from_array(image)


def _check(fixed: Volume, moving: Volume, given: dict[str, Volume], config: RegistrationConfig) -> None:
    check_image(fixed, "fixed")
    check_image(moving, "moving")
    check_pair(fixed, moving)
    owner = {"fixed_mask": fixed, "moving_mask": moving, "fixed_labels": fixed, "moving_labels": moving, "rigid_labels": fixed}
    for name, image in given.items():
        (check_mask if name.endswith("mask") else check_labels)(image, owner[name], name)
    if "ncc_sup" in config.similarity and not {"fixed_labels", "moving_labels"} <= given.keys():
        raise InputError("--similarity ncc_sup compares labels too: give --fixed-labels and --moving-labels, or choose ncc.")


def _parts(transform: Transform) -> tuple[Transform, ...]:
    return transform.parts if isinstance(transform, Composite) else (transform,)


def _align(
    fixed: Volume, moving: Volume, given: dict[str, Volume], config: RegistrationConfig, initial: Transform | None, report: Report
) -> Transform:
    """The linear stage, after `initial` if there is one. A deformable `initial` is applied to the moving image first."""
    masks = {name: given[name] for name in ("fixed_mask", "moving_mask") if name in given}
    if initial is None or isinstance(initial, Affine):
        start = None if initial is None else initial.matrix
        return Affine(align(fixed, moving, config, initial=start, report=report, **masks))
    started = warp(moving, initial, fixed)
    if "moving_mask" in masks:
        masks["moving_mask"] = warp(masks["moving_mask"], initial, fixed, interpolation="nearest")
    return Composite((Affine(align(fixed, started, config, initial=np.eye(4), report=report, **masks)), *_parts(initial)))


def _deform(
    fixed: Volume,
    moving: Volume,
    given: dict[str, Volume],
    config: RegistrationConfig,
    linear: Transform,
    report: Report,
    preview: Callable[[Volume], None] | None,
) -> DisplacementField:
    """The deformable stage on an isotropic grid of the fixed image."""
    device, grid = choose_device(config.device), work_grid(fixed, config)
    onto = lambda image, how: resample_like(image, grid, interpolation=how)  # noqa: E731
    across = lambda image, how: warp(image, linear, grid, interpolation=how)  # noqa: E731
    bring = {"fixed": onto, "moving": across, "rigid": onto}
    tensors = {
        name: _tensor(bring[name.split("_")[0]](image, "nearest"), device) for name, image in given.items() if name in used(config, given)
    }
    images = [_tensor(normalize(onto(fixed, "linear")), device), _tensor(normalize(across(moving, "linear")), device)]
    raise NotImplementedError(images, tensors)


def used(config, given):
    return given


def work_grid(fixed: Volume, config: RegistrationConfig) -> Volume:
    """An empty volume on the isotropic grid that is computed on; it covers all voxel centers of the fixed image.

    Its spacing is the finest of the fixed image, but not below two thirds of the cube root of a voxel (thick slices
    hold no more) and not so fine that the grid has more than `config.max_voxels`.
    """
    axes = 2 if fixed.ndim == 2 else 3
    spacing, extent = fixed.spacing[:axes], (np.array(fixed.shape[:axes]) - 1) * fixed.spacing[:axes]
    finest = config.spacing or max(spacing.min(), np.prod(spacing) ** (1 / axes) / 1.5)
    limit = (np.prod(extent + finest) / (config.max_voxels * 1e6)) ** (1 / axes)
    if limit > finest:
        log.warning(
            "The grid is computed on with %.2f mm instead of %.2f mm, because of --max-voxels %g.", limit, finest, config.max_voxels
        )
    step = max(finest, limit)
    shape = np.ones(3, int)
    shape[:axes] = np.ceil(extent / step - 1e-4).astype(int) + 1
    scale = np.append(np.full(axes, step), fixed.spacing[axes:]) / fixed.spacing
    return Volume(np.broadcast_to(np.float32(0), (1, *shape)), fixed.affine @ np.diag([*scale, 1.0]))


def normalize(image: Volume) -> Volume:
    """Intensities scaled so that the background is about 0 and bright tissue about 1; outliers are cut at 1.5."""
    data = image.data.astype(np.float32)
    low = np.percentile(data[..., ::2], 0.5)
    inside = data[data > low]
    high = np.percentile(inside[::4] if inside.size > 4000 else inside, 99) if inside.size else low + 1
    return image.with_data(np.clip((data - low) / max(high - low, 1e-12), 0, 1.5))


def _tensor(volume: Volume, device: torch.device) -> torch.Tensor:
    """(1, 1, X, Y, Z), or (1, 1, X, Y) for a 2-D image."""
    tensor = volume.tensor(device)
    return tensor[..., 0] if volume.ndim == 2 else tensor

"""Register two images: check, align, deform, and put the result together in world coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagingai.device import choose_device
from imagingai.errors import InputError
from imagingai.job import Report, ignore, part
from imagingai.options import parse_sum
from imagingai.registration.affine import align
from imagingai.registration.config import SIMILARITIES as NAMES
from imagingai.registration.config import RegistrationConfig
from imagingai.registration.deformable import REACH, Comparison, Limits, deform
from imagingai.registration.images import Images, background, to_volume, work_grid
from imagingai.registration.preview import Preview
from imagingai.registration.similarity import SIMILARITIES, Settings, Term, WarpedFeatureCosine, warpable_features
from imagingai.transform import (
    Affine,
    Transform,
    compose,
    inverse_consistency,
    invert,
    jacobian_determinant,
    voxel_to_world_displacement,
    warp,
)
from imagingai.volume import Volume, as_volume, check_image, check_labels, check_mask, check_pair, resample_like

Image = Any  # a Volume, a path, a SimpleITK image, a numpy array or a torch tensor


@dataclass(frozen=True)
class RegistrationResult:
    """The transform and what follows from it; what is not asked for is not computed.

    `transform` maps points of the fixed image to the moving image (RAS mm): moved(p) = moving(transform(p)).
    `exact_inverse` is there with the velocity model only, where it comes for free.
    """

    transform: Transform
    images: Images
    config: RegistrationConfig
    exact_inverse: Transform | None = None

    @property
    def fixed(self) -> Volume:
        """The fixed image."""
        return self.images.given["fixed"]

    @property
    def moving(self) -> Volume:
        """The moving image."""
        return self.images.given["moving"]

    @cached_property
    def moved(self) -> Volume:
        """The moving image on the grid of the fixed image."""
        return warp(self.moving, self.transform, self.fixed)

    @cached_property
    def inverse_and_error(self) -> tuple[Transform, dict[str, float]]:
        """The transform from the moving to the fixed image, and its measured inverse consistency (mm: mean, p95, max)."""
        if self.exact_inverse is None:
            return invert(self.transform, self.fixed, self.moving)
        return self.exact_inverse, inverse_consistency(self.transform, self.exact_inverse, self.fixed, self.moving)

    @cached_property
    def jacobian(self) -> Volume:
        """Jacobian determinant on the fixed grid: 1 keeps the volume, 0 or less is a fold."""
        return jacobian_determinant(self.transform, self.fixed)

    @cached_property
    def similarity_map(self) -> Volume:
        """Where fixed and moved image differ by the similarity of the config, on the fixed grid: 0 is a perfect match."""
        images = Images(self.images.given, self.images.grid, self.transform, self.images.device)
        spacing = self.images.grid.spacing[0]
        with torch.no_grad():
            terms = [(c.weight, c.build(c.fixed, c.moving, round_reach(spacing))) for c in _comparisons(images, self.config)]
            total = sum(weight * term.map(term.moving) for weight, term in terms)
        return resample_like(to_volume(total, self.images.grid), self.fixed)


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

    Images may be volumes, files, SimpleITK images, arrays or tensors (X, Y[, Z]) of 1 mm voxels, with any grid, spacing
    and orientation, 2-D or 3-D. Masks limit what counts; labels are used by the similarity `ncc_sup` only; every region
    of `rigid_labels` (on the fixed image) moves rigidly. `initial` is where to start. `preview` gets the moved image
    after the alignment and then at most once a second, on the grid that is computed on. Raises `InputError` for images
    and settings that cannot be used.
    """
    named = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    named |= {"fixed_labels": fixed_labels, "moving_labels": moving_labels, "rigid_labels": rigid_labels}
    given = {name: as_volume(image) for name, image in named.items() if image is not None}
    _check(given, config)
    deforms = config.deformation != "none"
    share = (0.35 if config.alignment in ("rigid", "affine") else 0.05) if deforms else 1.0
    linear = _align(given, config, initial, part(report, 0, share))
    images = Images(given, work_grid(given["fixed"], config), linear, choose_device(config.device))
    if not deforms:
        return RegistrationResult(linear, images, config)
    return _deform(images, config, part(report, share, 1), preview)


def _check(given: dict[str, Volume], config: RegistrationConfig) -> None:
    for name in ("fixed", "moving"):
        check_image(given[name], f"{name} image")
    check_pair(given["fixed"], given["moving"])
    for name, image in given.items():
        if name not in ("fixed", "moving"):
            owner = given["moving" if name.startswith("moving") else "fixed"]
            (check_mask if name.endswith("mask") else check_labels)(image, owner, name.replace("_", " "))
    if "ncc_sup" in config.similarity and not {"fixed_labels", "moving_labels"} <= given.keys():
        raise InputError("--similarity ncc_sup compares labels too: give --fixed-labels and --moving-labels, or choose ncc.")
    if config.features and "deepsim" in config.similarity:
        from imagingai.weights import load_weights

        load_weights(config.features)  # a wrong name is told before the work


def _align(given: dict[str, Volume], config: RegistrationConfig, initial: Transform | None, report: Report) -> Transform:
    """The linear stage, after `initial` if there is one. A deformable `initial` is applied to the moving image first."""
    fixed, moving, fixed_mask, moving_mask = (given.get(name) for name in ("fixed", "moving", "fixed_mask", "moving_mask"))
    if initial is None or isinstance(initial, Affine):
        start = None if initial is None else initial.matrix
        return Affine(align(fixed, moving, config, fixed_mask=fixed_mask, moving_mask=moving_mask, initial=start, report=report))
    moving = warp(moving, initial, fixed, fill=background(moving))
    moving_mask = None if moving_mask is None else warp(moving_mask, initial, fixed, interpolation="nearest")
    found = align(fixed, moving, config, fixed_mask=fixed_mask, moving_mask=moving_mask, initial=np.eye(4), report=report)
    return compose(Affine(found), initial)


def _deform(images: Images, config: RegistrationConfig, report: Report, preview: Callable[[Volume], None] | None) -> RegistrationResult:
    """The deformable stage on the grid of the images, and all of it together."""
    report(0.0, "Deforming: preparing the images")
    grid, linear = images.grid, images.linear

    def total(displacement: Tensor) -> Transform:
        return compose(voxel_to_world_displacement(displacement, grid.affine), linear)

    limits = Limits(images.bring("fixed_mask"), images.moving_mask(), images.bring("rigid_labels"), _in_voxels(linear, grid))
    show = None if preview is None else Preview(images, preview).offer
    found = deform(_comparisons(images, config), config, grid.spacing[0], limits, report=report, preview=show)
    back = None
    if found.inverse is not None and isinstance(linear, Affine):
        back = compose(Affine(np.linalg.inv(linear.matrix)), voxel_to_world_displacement(found.inverse, grid.affine))
    return RegistrationResult(total(found.displacement), images, config, back)


def _in_voxels(linear: Transform, grid: Volume) -> Tensor | None:
    """An affine transform in voxels of the grid, (D + 1, D + 1); None if it is not affine."""
    if not isinstance(linear, Affine):
        return None
    matrix = np.linalg.inv(grid.affine) @ linear.matrix @ grid.affine
    keep = [0, 1, 3] if grid.ndim == 2 else [0, 1, 2, 3]
    return torch.from_numpy(matrix[np.ix_(keep, keep)])


def round_reach(spacing: float) -> int:
    """Half the side of the ncc window in voxels of this spacing."""
    return max(1, round(REACH / spacing))


def _comparisons(images: Images, config: RegistrationConfig) -> list[Comparison]:
    """The summands of the similarity, and what they compare."""
    fixed, moving = images.bring("fixed"), images.bring("moving")
    return [
        Comparison(weight, *_prepare(name, fixed, moving, images, config))
        for weight, name in parse_sum(config.similarity, NAMES, "similarity")
    ]


def _prepare(
    name: str, fixed: Tensor, moving: Tensor, images: Images, config: RegistrationConfig
) -> tuple[Callable[[Tensor, Tensor, int], Term], Tensor, Tensor]:
    """How to build the `Term` of a similarity on any grid, and the full-size channels of both images that go into it."""
    settings = Settings()
    if name.startswith("deepsim"):
        settings = _deepsim_settings(name, fixed, float(images.grid.spacing[0]), config)
        if settings.extract_first:
            first, second, sizes = warpable_features(fixed, moving, settings)
            return (lambda a, b, radius: WarpedFeatureCosine(a, b, sizes)), first, second
    if name == "ncc_sup":
        fixed, moving = (torch.cat(pair, 1) for pair in zip((fixed, moving), images.one_hot(), strict=True))
    return (lambda a, b, radius: SIMILARITIES[name](a, b, replace(settings, radius=radius))), fixed, moving


def _deepsim_settings(name: str, fixed: Tensor, spacing: float, config: RegistrationConfig) -> Settings:
    """The extractor that the config names, or the shipped one for 2-D or 3-D."""
    from imagingai.registration.features import extractor

    weights = config.features or f"{'brain3d' if fixed.ndim == 5 else 'general2d'}_{name.removeprefix('deepsim_')}"
    first = config.deepsim_order == "extract-warp"
    return Settings(features=extractor(weights, fixed.device, spacing), levels=config.deepsim_levels, extract_first=first)

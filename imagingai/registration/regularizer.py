"""What makes a displacement field plausible: smooth, hardly compressed, rigid where it must be. Fields (1, D, *grid) in voxels."""

from __future__ import annotations

from torch import Tensor

from imagingai.registration.config import RegistrationConfig
from imagingai.registration.filters import derivative, gaussian, second_derivative


def regularize(field: Tensor, config: RegistrationConfig, finest: bool) -> Tensor:
    """One step down the regularizers of the config."""
    smoothing = config.smoothing if finest else config.coarse_smoothing
    field = REGULARIZERS[config.regularizer](field, smoothing)
    return resist_volume_change(field, config.stiffness if finest else config.coarse_stiffness)


def diffuse(field: Tensor, sigma: float) -> Tensor:
    """Gradient flow of the diffusion energy |grad u|^2 / 2 for a time sigma^2 / 2: Gaussian smoothing."""
    return gaussian(field, sigma)


def bend(field: Tensor, sigma: float) -> Tensor:
    """A step down the bending energy: 2 G u - G G u, G Gaussian.

    Its response 1 - (1 - g)^2 = 1 - sigma^4 w^4 / 4 + ... is that of the bending energy with weight sigma^4 / 4: fields
    that are linear in space (scale, shear) are left alone.
    """
    smooth = gaussian(field, sigma)
    return 2 * smooth - gaussian(smooth, sigma)


REGULARIZERS = {"diffusion": diffuse, "bending": bend}


def resist_volume_change(field: Tensor, weight: float) -> Tensor:
    """A step u + weight grad(div u) down the energy (div u)^2 / 2 of a nearly incompressible elastic material.

    log det J is div u to first order, so this lowers the roughness SDlogJ while shear and rotation stay free.
    Differences are compact along an axis, so that no checkerboard escapes; stable for weights up to 0.5.
    """
    if not weight:
        return field
    size = field.shape[1]
    own = [derivative(field[:, axis : axis + 1], 2 + axis) for axis in range(size)]
    total = sum(own[1:], own[0].clone())
    steps = [derivative(total - own[axis], 2 + axis) + second_derivative(field[:, axis : axis + 1], 2 + axis) for axis in range(size)]
    for axis, step in enumerate(steps):
        field[:, axis : axis + 1].add_(step, alpha=weight)
    return field

"""Feature extractors of deepsim: an image in, a pyramid of features out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.errors import WeightsError
from imagingai.synthesis.appearance import normalize
from imagingai.synthesis.geometry import LINEAR
from imagingai.weights import load_weights

Features = Callable[[Tensor], list[Tensor]]  # image (1, 1, *grid) -> levels (1, C, *this or a coarser grid), see UNet.features


def extractor(name: str | Path, device: torch.device | str = "cpu", spacing: float = 0.0) -> Features:
    """The features of shipped weights (`brain3d_seg`, ...) or of a file of `imagingai train-features`.

    It takes an image of any gray values, (1, 1, X, Y[, Z]) with `spacing` mm between voxels (0: unknown), and brings it
    to the spacing that the network knows. Level 0 is the end of the decoder; level k of the encoder has cells of 2 ** k
    of its voxels. Differentiable.
    Raises `WeightsError` if the weights are missing, broken, or for images of another dimension.
    """
    network, description = load_weights(name)
    network = network.to(device)
    factor = spacing / description.spacing if spacing and description.spacing else 1.0

    def extract(image: Tensor) -> list[Tensor]:
        if image.dim() - 2 != description.dimension:
            raise WeightsError(f"The features {str(name)!r} are for {description.dimension}-D images, not {image.dim() - 2}-D ones.")
        return network.features(normalize(fit(image, factor)))

    return extract


def fit(image: Tensor, factor: float = 1.0, multiple: int = 8) -> Tensor:
    """About `factor` times as many voxels over the same field of view, a multiple along every axis.

    Resizing rather than padding, so that the cells of every level cover exactly the image.
    """
    size = [max(multiple, round(n * factor / multiple) * multiple) for n in image.shape[2:]]
    if size == list(image.shape[2:]):
        return image
    if factor < 0.7:
        return F.interpolate(image, size=size, mode="area")
    return F.interpolate(image, size=size, mode=LINEAR[image.dim() - 2], align_corners=False)

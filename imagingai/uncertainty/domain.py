"""Is an image like those that the model was trained on? Mahalanobis distance of what the network makes of it (Lee et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from imagingai.networks import UNet
from imagingai.uncertainty.model import SegmentationModel
from imagingai.uncertainty.networks import STAGES, ProbabilisticUNet

LEAST = 4  # training images from which there is a domain
COMPONENTS = 8  # directions in which the training images differ that are kept apart
FAR = 3.0  # robust deviations of the log distance from that of the training images
SLICES = 24  # of a volume that a model of slices looks at
VOXELS = 4_000_000  # of a larger image its middle is looked at

Domain = dict[str, Any]


def domain_features(model: SegmentationModel, image: np.ndarray) -> np.ndarray:
    """Mean and deviation (log) over the image of what every channel of the encoder says, (F,). image: (C, X, Y, Z) as the model sees it."""
    network = model.networks[0]
    unet = network.unet if isinstance(network, ProbabilisticUNet) else network
    encoder = unet.stages if isinstance(unet, UNet) else unet.encoder
    found: list[torch.Tensor] = []

    def look(_block: torch.nn.Module, _inputs: tuple, out: torch.Tensor) -> None:
        flat = out.float().movedim(1, 0).flatten(1)
        found.append(torch.cat([flat.mean(1), (flat.std(1) + 1e-3).log()]))

    hooks = [block.register_forward_hook(look) for block in encoder]
    try:
        with torch.inference_mode():
            network(_batch(model, image).to(next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found).cpu().numpy().astype(float)


def learn_domain(features: Sequence[np.ndarray]) -> Domain:
    """What is usual, from the features (F,) of the training images; empty if there are fewer than `LEAST`.

    `usual` and `spread` are of the log distances of images that were left out, so that 0 of `distance` is a typical new image.
    """
    x = np.array(features)
    if len(x) < LEAST:
        return {}
    left_out = [np.log(_distance(_fit(np.delete(x, k, 0)), x[k])) for k in range(len(x))]
    usual = float(np.median(left_out))
    spread = max(1.4826 * float(np.median(np.abs(np.array(left_out) - usual))), 0.05)
    return {**_fit(x), "usual": usual, "spread": spread, "images": len(x)}


def domain_distance(domain: Mapping[str, Any], features: np.ndarray) -> float | None:
    """How far an image is from the training images: 0 is typical, above 1 is outside; None if the model knows no domain."""
    if not domain:
        return None
    return max(0.0, float(np.log(_distance(domain, features)) - domain["usual"]) / (FAR * domain["spread"]))


def _fit(x: np.ndarray) -> Domain:
    """Mean, scale and principal directions with their variances; all other directions share one variance (probabilistic PCA)."""
    mean, scale = x.mean(0), x.std(0) + 1e-3
    z = (x - mean) / scale
    _, singular, directions = np.linalg.svd(z, full_matrices=False)
    count = min(COMPONENTS, len(x) // 2)
    variance = singular**2 / len(x)
    rest = max(float(variance[count:].sum()) / (x.shape[1] - count), 1e-3)
    return {
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "directions": directions[:count].tolist(),
        "variances": np.maximum(variance[:count], rest).tolist(),
        "rest": rest,
    }


def _distance(domain: Mapping[str, Any], features: np.ndarray) -> float:
    """Mahalanobis distance, by the square root of the number of features."""
    z = (features - domain["mean"]) / domain["scale"]
    along = np.array(domain["directions"]) @ z
    squared = (along**2 / domain["variances"]).sum() + max(z @ z - along @ along, 0.0) / domain["rest"]
    return float(np.sqrt(squared / len(z))) + 1e-6


def _batch(model: SegmentationModel, image: np.ndarray) -> torch.Tensor:
    """The image as one batch for the encoder: (1, C, X, Y, Z), or slices (N, C, X, Y), sides multiples of 8, the first 16 or more."""
    size = np.array(image.shape[1:])
    if model.description.dimension == 2:
        keep = np.unique(np.linspace(0.2 * (size[2] - 1), 0.8 * (size[2] - 1), SLICES).round().astype(int))
        batch = torch.from_numpy(np.ascontiguousarray(image[..., keep].transpose(3, 0, 1, 2)))
    else:
        batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    factor = min(1.0, (VOXELS / (batch.numel() / batch.shape[1])) ** (1 / (batch.ndim - 2)))
    step = 2**STAGES
    for axis in range(2, batch.ndim):
        n = batch.shape[axis]
        least = 2 * step if axis == 2 else step  # so that more than one voxel is left at the coarsest stage
        keep = max(least, int(n * factor) // step * step)
        index = torch.arange(keep) + max(0, (n - keep) // 2)  # the middle; a side of fewer voxels is repeated at its end
        batch = batch.index_select(axis, index.clamp(max=n - 1))
    return batch.float()

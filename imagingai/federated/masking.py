"""What secure aggregation masks: an update and figures as one vector of numbers, the masks, and the numbers that all agree on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.common.secure_aggregation.secaggplus_constants import Key
from torch import Tensor

from imagingai.errors import InputError

Weights = dict[str, Tensor]
CLIP = 64.0  # the largest change of a weight in a round, and of a figure / SCALE; larger ones are refused
SCALE = 64.0
MEASURED = ("loss", "score", "accuracy", "sensitivity", "specificity", "auc", "dice", "mae", "r2")
FIGURES = ("loss", *(f"{name}_before" for name in MEASURED))
site_side = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
server_side = import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")


def masks(seed: bytes, num_range: int, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Uniform numbers below num_range (a power of 2 up to 2^32), int64 of these shapes: AES-256 in counter mode, as in Bonawitz et al."""
    stream = Cipher(AES(hashlib.sha256(seed).digest()), CTR(bytes(16))).encryptor()
    numbers = [np.frombuffer(stream.update(bytes(4 * math.prod(shape))), "<u4").reshape(shape) for shape in shapes]
    return [n.astype(np.int64) & (num_range - 1) for n in numbers]


# Flower folds the 256-bit seed of a mask to 32 bits for NumPy's Mersenne Twister: an aggregator could simply try all of them.
site_side.pseudo_rand_gen = server_side.pseudo_rand_gen = masks


def protocol(sites: int) -> dict[str, Any]:
    """The numbers that all agree on. A majority must help to remove masks, so that nobody can be asked for both secrets of a site."""
    return {
        Key.SAMPLE_NUMBER: sites,
        Key.SHARE_NUMBER: sites,
        Key.THRESHOLD: sites // 2 + 1,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: 2 ** (31 - math.ceil(math.log2(sites))),  # the sum over the sites must stay below the modulus
        Key.MOD_RANGE: 2**32,
    }


def encode(received: Weights, weights: Weights, metrics: Mapping[str, Any]) -> np.ndarray:
    """One vector, float64: the changes of the weights in the order of their names, then figures / SCALE, then which figures there are.

    Raises InputError for a change that is no number or larger than CLIP.
    """
    changes = [(weights[name].double() - received[name].double()).flatten() for name in sorted(weights)]
    figures = torch.tensor([float(metrics.get(name, math.nan)) for name in FIGURES], dtype=torch.float64) / SCALE
    there = figures.abs() <= CLIP  # False for NaN
    vector = torch.cat([*changes, torch.where(there, figures, 0.0), there.double()]).numpy()
    if not np.abs(vector).max() <= CLIP:
        raise InputError(
            f"A weight changed by more than {CLIP:g}, or to no number, which secure aggregation cannot carry. "
            "Take a smaller --learning-rate."
        )
    return vector


def decode(vector: np.ndarray, sent: Weights) -> tuple[Weights, dict[str, float]]:
    """The new model and the mean figures, from the mean of the vectors of `encode`. sent: what the sites started from."""
    weights, begin = {}, 0
    for name in sorted(sent):
        change = torch.from_numpy(vector[begin : begin + sent[name].numel()]).reshape(sent[name].shape)
        weights[name] = (sent[name] + change).to(sent[name].dtype)
        begin += change.numel()
    figures, there = vector[begin:].reshape(2, -1)
    everywhere = there > 0.999  # else it would be the figure of a few sites, perhaps of one
    return weights, {name: float(SCALE * figures[k]) for k, name in enumerate(FIGURES) if everywhere[k]}

"""Segment an image and tell how sure that is: samples of a model, their mean, and maps of the uncertainty, in native space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagingai.device import choose_device
from imagingai.job import Report, ignore
from imagingai.synthesis.geometry import random_matrix
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.data import augment
from imagingai.uncertainty.frame import Frame, prepare
from imagingai.uncertainty.measures import entropy
from imagingai.uncertainty.model import SegmentationModel
from imagingai.uncertainty.networks import STAGES
from imagingai.volume import Volume, as_volume

STRETCH = 1.125
MEMORY = 1 << 27  # bytes for the logits of the samples that are computed together
TURN, SCALE, NOISE = 6.0, 0.05, 0.3  # degrees, relative, strength: test-time augmentation


@dataclass(frozen=True)
class Segmentation:
    """A segmentation and how uncertain it is, on the grid (X, Y, Z) of the image. K classes, class 0 is the background.

    probability: (K, X, Y, Z) float32, mean over the samples; segmentation: (X, Y, Z) uint8, the most probable class;
    expected_entropy: (X, Y, Z) float32 bits, mean entropy of the samples; samples: (S, X, Y, Z) uint8, most probable class of each.
    """

    image: Volume
    classes: tuple[str, ...]
    values: tuple[int, ...]
    probability: np.ndarray
    segmentation: np.ndarray
    expected_entropy: np.ndarray
    samples: np.ndarray

    @cached_property
    def entropy(self) -> np.ndarray:
        """(X, Y, Z) bits: all uncertainty, the entropy of the mean probability (Czolbe et al. 2021, 4.3)."""
        return entropy(self.probability)

    @property
    def mutual_information(self) -> np.ndarray:
        """(X, Y, Z) bits: what the model does not know, entropy - expected entropy (Houlsby et al. 2011)."""
        return np.maximum(self.entropy - self.expected_entropy, 0)

    @property
    def labels(self) -> Volume:
        """The segmentation with the label values of the model, int16 (int32 for large values)."""
        return self.to_labels(self.segmentation)

    def to_labels(self, classes: np.ndarray) -> Volume:
        """Class numbers (X, Y, Z) as a label image."""
        kind = np.int16 if max(map(abs, self.values)) < 1 << 15 else np.int32
        return self.image.with_data(np.array(self.values, kind)[classes])


def segment(
    image: Volume | Sequence[Volume],
    model: SegmentationModel,
    config: SegmentConfig = SegmentConfig(),
    *,
    report: Report = ignore,
) -> Segmentation:
    """Draw samples of a model for an image (or for its channels, on one grid) and bring them to the grid of the image.

    Raises InputError if the image does not fit the model: channels, dimension, NaN, constant.
    """
    channels = [as_volume(image)] if not isinstance(image, (list, tuple)) else [as_volume(channel) for channel in image]
    frame, seen = prepare(channels, model.description)
    device, classes = choose_device(config.device), len(model.description.classes)
    mean, expected = np.zeros((classes, *seen.shape[1:]), np.float32), np.zeros(seen.shape[1:], np.float32)
    samples, count = [], count_samples(model, config)
    for number, probability in enumerate(draw_samples(torch.from_numpy(seen), model.to(device), config, count, report)):
        mean += probability
        expected += entropy(probability)
        samples.append(most_probable(frame, probability)[0])
        report(0.05 + 0.9 * (number + 1) / count, f"Sample {number + 1} of {count}")
    segmentation, native = most_probable(frame, mean / count, keep=True)
    description = model.description
    expected = frame.to_native(expected / count)
    return Segmentation(channels[0], description.classes, description.values, native, segmentation, expected, np.stack(samples))


def count_samples(model: SegmentationModel, config: SegmentConfig) -> int:
    """Samples that differ: a U-Net has one and an ensemble one for each member, unless the image is augmented."""
    distinct = {"unet": 1, "ensemble": len(model.networks)}.get(model.description.model, config.samples)
    return config.samples if config.tta else min(config.samples, distinct)


def draw_samples(
    seen: Tensor, model: SegmentationModel, config: SegmentConfig, count: int, report: Report = ignore
) -> Iterator[np.ndarray]:
    """Probabilities (K, X, Y, Z) of one sample after the other, on the grid of the model. seen: (C, X, Y, Z)."""
    voxels = int(np.prod(seen.shape[1:])) * len(model.description.classes)
    together = 1 if config.tta else max(1, min(count, MEMORY // (4 * voxels)))
    for first in range(0, count, together):
        numbers = range(first, min(first + together, count))
        seeds = [number if model.description.model == "ensemble" else config.seed * 1_000_003 + number for number in numbers]
        progress = _window_report(report, first, len(numbers), count)
        if not config.tta:
            logits = predict(seen[None], model, seeds, config, progress)
            yield from (torch.softmax(sample, 0).cpu().numpy() for sample in logits[0])
            continue
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + first)
        matrix = _random_matrix(model.description.dimension, random)
        view = augment(_turn(seen, matrix), random, NOISE, model.description.intensity)
        probability = torch.softmax(predict(view[None], model, seeds, config, progress)[0, 0], 0).cpu()
        yield (back := _turn(probability, torch.linalg.inv(matrix), border=True)).div_(back.sum(0)).numpy()


def predict(seen: Tensor, model: SegmentationModel, seeds: Sequence[int], config: SegmentConfig, report: Report = ignore) -> Tensor:
    """Logits (1, S, K, X, Y, Z) of an image (1, C, X, Y, Z), window by window (MONAI's sliding windows, blended).

    The windows have about the size of the training: the networks scale by the statistics of what they see, and a whole
    image of 35 x 53 x 35 instead of windows of 32^3 cost 0.10 Dice.
    """
    from monai.inferers import sliding_window_inference

    description, device = model.description, next(model.networks[0].parameters()).device
    classes, slices, done = len(description.classes), description.dimension == 2, [0]
    window = tuple(choose_window(n, p, config.overlap) for n, p in zip(seen.shape[2:], description.patch, strict=True))
    total = int(np.prod([count_windows(n, w, config.overlap) for n, w in zip(seen.shape[2:], window, strict=True)]))

    def run(image: Tensor) -> Tensor:
        report(done[0] / total, "")
        done[0] += 1
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = model.sample(image[..., 0] if slices else image, seeds)
        return logits.float().flatten(1, 2)[(..., None) if slices else ...]

    with torch.inference_mode():
        logits = sliding_window_inference(
            seen, window, 1, run, config.overlap, mode="gaussian", sw_device=device, device="cpu", padding_mode="replicate"
        )
    return logits.unflatten(1, (-1, classes))


def most_probable(frame: Frame, probability: np.ndarray, keep: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """The most probable class of every voxel of the image, uint8, and with `keep` the probabilities there.

    Class by class, so that only one is held; a class that is nowhere above 1/K can be nowhere the most probable.
    """
    best = frame.to_native(probability[0], fill=1.0)
    winner = np.zeros(best.shape, np.uint8)
    native = np.empty((len(probability), *best.shape), np.float32) if keep else None
    if native is not None:
        native[0] = best
    for k in range(1, len(probability)):
        if native is None and probability[k].max() < 1 / len(probability):
            continue
        values = frame.to_native(probability[k])
        if native is not None:
            native[k] = values
        larger = values > best
        winner[larger], best = k, np.maximum(best, values)
    return winner, native


def choose_window(length: int, patch: int, overlap: float) -> int:
    """The window along an axis: of those up to `STRETCH` times the patch, in steps of 8 voxels, the one with the least to compute."""
    step = 2**STAGES
    widths = range(patch, int(STRETCH * patch) + 1, step) if patch > 1 else [1]
    return min(widths, key=lambda width: count_windows(length, width, overlap) * width)


def count_windows(length: int, width: int, overlap: float) -> int:
    """Windows along an axis, as MONAI counts them."""
    return 1 if length <= width else -(-(length - width) // max(1, int(width * (1 - overlap)))) + 1


def _window_report(report: Report, first: int, some: int, count: int) -> Report:
    """Progress of the windows of some samples as progress of all."""
    return lambda fraction, _text: report(0.05 + 0.9 * (first + fraction * some) / count, f"Sample {first + 1} of {count}")


def _random_matrix(dimension: int, random: torch.Generator) -> Tensor:
    """A small random turn, in the plane of the slices for a model of slices, and scale, (3, 3)."""
    matrix = torch.eye(3)
    matrix[:dimension, :dimension] = random_matrix(dimension, random, TURN, SCALE, 0.0)
    return matrix


def _turn(image: Tensor, matrix: Tensor, border: bool = False) -> Tensor:
    """An image (C, X, Y, Z) sampled at matrix @ (point - center) + center, in voxels; what is outside is 0, or as the border."""
    size = torch.tensor(image.shape[1:], dtype=torch.float32)
    theta = (torch.diag(1 / size) @ matrix @ torch.diag(size)).flip(0, 1)  # normalized coordinates, z first
    grid = F.affine_grid(torch.cat([theta, torch.zeros(3, 1)], 1)[None], [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, padding_mode="border" if border else "zeros", align_corners=False)[0]

"""What is measured on a segmentation: volumes, border band, features of its uncertainty, and its distance from readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.datasets import CaseFiles, list_images, stem
from imagingai.uncertainty import measures
from imagingai.uncertainty.data import class_index, load_labels
from imagingai.uncertainty.domain import domain_distance, domain_features
from imagingai.uncertainty.features import image_features, uncertainty_features
from imagingai.uncertainty.frame import prepare
from imagingai.uncertainty.model import SegmentationModel
from imagingai.uncertainty.segment import Segmentation
from imagingai.volume import Volume


def examine(segmentation: Segmentation, channels: Sequence[Volume], model: SegmentationModel) -> dict[str, Any]:
    """What quality control looks at: {"uncertainty": {structure: numbers}, "image": numbers, with domain if the model knows one}."""
    image = image_features(channels[0])
    if model.description.domain:
        seen = prepare(channels, model.description)[1]
        image["domain"] = domain_distance(model.description.domain, domain_features(model, seen))
    return {"uncertainty": uncertainty_features(segmentation), "image": image}


def structure_volumes(segmentation: Segmentation, level: float) -> dict[str, dict[str, Any]]:
    """Volume of every structure in ml with the interval of the samples."""
    voxel_ml = float(abs(np.linalg.det(segmentation.image.affine[:3, :3]))) / 1000
    return measures.volumes(segmentation.samples, voxel_ml, segmentation.classes, level)


def border_bands(segmentation: Segmentation) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """Where the samples disagree on the border of any structure: width in mm (X, Y, Z), and a summary per structure."""
    largest, summary = np.zeros(segmentation.image.shape, np.float32), {}
    for k, name in enumerate(segmentation.classes[1:], 1):
        band = measures.border_band(segmentation.samples == k, segmentation.image.spacing)
        summary[name] = measures.band_summary(band)
        np.maximum(largest, band, out=largest)
    return largest, summary


def read_readers(labels: Path, segmentation: Segmentation) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the readers and their labels (R, X, Y, Z) as class indices, from a file or from a folder with one per reader."""
    files = {stem(file): file for file in ([labels] if labels.is_file() else list_images(labels))}
    found = load_labels(CaseFiles("image", (Path("the image"),), files), segmentation.image)
    maps = [class_index(volume.data[0], segmentation.values, files[reader]) for reader, volume in found.items()]
    return tuple(found), np.stack(maps)


def compare(segmentation: Segmentation, readers: tuple[str, ...], labels: np.ndarray) -> dict[str, Any]:
    """Dice with every reader, energy distance to all of them (eq. 3), and how diverse samples and readers are."""
    count = len(segmentation.classes)
    pairs = measures.pairwise_dice(segmentation.segmentation[None], labels, count)[:, 0]
    dice = {
        reader: {name: None if np.isnan(d) else float(d) for name, d in zip(segmentation.classes[1:], pairs[:, r], strict=True)}
        for r, reader in enumerate(readers)
    }
    found: dict[str, Any] = {"dice": dice, "dice_mean": float(np.nanmean(pairs)) if np.isfinite(pairs).any() else None}
    return found | {
        "ged": measures.ged(labels, segmentation.samples, count),
        "diversity": measures.diversity(segmentation.samples, count),
        "reader_diversity": measures.diversity(labels, count),
    }

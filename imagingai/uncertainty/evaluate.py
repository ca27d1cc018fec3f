"""What is measured on a segmentation: volumes, border band, features of its uncertainty, and its distance from readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.datasets import CaseFiles, list_images, read_label_names, stem
from imagingai.uncertainty import measures
from imagingai.uncertainty.data import class_index, load_labels
from imagingai.uncertainty.domain import domain_distance, domain_features
from imagingai.uncertainty.features import image_features, uncertainty_features
from imagingai.uncertainty.frame import prepare
from imagingai.uncertainty.model import ModelDescription, SegmentationModel
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
    return measures.volumes(segmentation.samples, segmentation.image.voxel_ml, segmentation.classes, level)


def border_bands(segmentation: Segmentation) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """Where the samples disagree on the border of any structure: width in mm (X, Y, Z), and a summary per structure."""
    largest, summary = np.zeros(segmentation.image.shape, np.float32), {}
    for k, name in enumerate(segmentation.classes[1:], 1):
        band = measures.border_band(segmentation.samples == k, segmentation.image.spacing)
        summary[name] = measures.band_summary(band)
        np.maximum(largest, band, out=largest)
    return largest, summary


def read_readers(labels: Path, image: Volume, description: ModelDescription) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the readers and their labels (R, X, Y, Z) as class indices, from a file or from a folder with one per reader.

    Raises InputError if they are not on the grid of the image, or have a label that the model does not know.
    """
    files = {stem(file): file for file in ([labels] if labels.is_file() else list_images(labels))}
    found = load_labels(CaseFiles("image", (Path("the image"),), files), image)
    maps = [_classes_of(volume.data[0], files[reader], description) for reader, volume in found.items()]
    return tuple(found), np.stack(maps)


def _classes_of(labels: np.ndarray, file: Path, description: ModelDescription) -> np.ndarray:
    """Class indices of labels: by the names beside the file if the model knows them all, otherwise by their values."""
    known = {name.lower(): k for k, name in enumerate(description.classes)}
    names = {value: known.get(name.lower()) for value, name in read_label_names(file).items() if value}
    if not names or None in names.values():
        return class_index(labels, description.values, file)
    values = (0, *names)
    return np.array([0, *names.values()], np.uint8)[class_index(labels, values, file)]


def compare(segmentation: Segmentation, readers: tuple[str, ...], labels: np.ndarray) -> dict[str, Any]:
    """Dice with the readers (mean, and each), energy distance to all of them (eq. 3), and how diverse samples and readers are."""
    count = len(segmentation.classes)
    pairs = measures.pairwise_dice(segmentation.segmentation[None], labels, count)[:, 0]  # (K - 1, R)
    names = segmentation.classes[1:]
    found: dict[str, Any] = {"dice_by_reader": {reader: _named(names, pairs[:, r]) for r, reader in enumerate(readers)}}
    means = [np.nan if np.isnan(row).all() else np.nanmean(row) for row in pairs]
    found |= {"dice": _named(names, means), "dice_mean": None if np.isnan(means).all() else float(np.nanmean(means))}
    return found | {
        "ged": measures.ged(labels, segmentation.samples, count),
        "diversity": measures.diversity(segmentation.samples, count),
        "reader_diversity": measures.diversity(labels, count),
    }


def _named(names: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    """structure -> Dice; None where neither side has the structure."""
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}

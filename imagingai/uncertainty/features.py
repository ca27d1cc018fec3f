"""What a quality control looks at: figures of a segmentation with its samples, and figures of an image. No labels are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imagingai.pictures import otsu
from imagingai.uncertainty import measures
from imagingai.volume import Volume, check_image

if TYPE_CHECKING:
    from imagingai.uncertainty.segment import Segmentation

Numbers = dict[str, float]
IMAGE_FEATURES = {  # name -> in words, with the unit
    "noise": "the noise",
    "contrast": "the contrast between bright and dark",
    "sharpness": "the sharpness",
    "shading": "the shading",
    "air": "the signal in the dark background",
    "saturation": "the share of saturated voxels",
    "foreground": "the bright share of the image",
    "spacing_mm": "the largest voxel spacing (mm)",
    "extent_mm": "the smallest side of the image (mm)",
}


def uncertainty_features(segmentation: Segmentation) -> dict[str, Numbers]:
    """structure -> how sure the model is of it, in numbers that do not depend on the image's size.

    volume_ml: of the segmentation; expected_dice: of the segmentation with its own probability; samples_dice: mean Dice between
    two samples; mean_dice: of the samples with the segmentation; volume_spread: deviation of the samples' volumes by their mean;
    probability: mean inside; entropy, mutual_information, expected_entropy: mean bits where any sample has the structure;
    border_mm: mean width of the border band; largest_part: share of the largest connected part. A structure that is
    neither in the segmentation nor in a sample has volume_ml and probability (its highest) only.
    """
    classes = len(segmentation.classes)
    between = measures.pairwise_dice(segmentation.samples, segmentation.samples, classes)
    within = measures.pairwise_dice(segmentation.samples, segmentation.segmentation[None], classes)
    maps = {name: getattr(segmentation, name) for name in ("entropy", "mutual_information", "expected_entropy")}
    return {
        name: _structure(segmentation, k, maps) | _agreement(between[k - 1], within[k - 1])
        for k, name in enumerate(segmentation.classes)
        if k
    }


def _structure(segmentation: Segmentation, k: int, maps: dict[str, np.ndarray]) -> Numbers:
    """What the voxels of one structure tell."""
    inside = segmentation.segmentation == k
    drawn = segmentation.samples == k
    somewhere = inside | drawn.any(0)
    probability = segmentation.probability[k]
    found = {"volume_ml": float(inside.sum()) * segmentation.image.voxel_ml}
    if not somewhere.any():
        return found | {"probability": float(probability.max())}
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(somewhere))
    sizes = drawn.reshape(len(drawn), -1).sum(1)
    found |= {name: float(values[somewhere].mean()) for name, values in maps.items()}
    return found | {
        "probability": float(probability[inside if inside.any() else somewhere].mean()),
        "expected_dice": float(2 * probability[inside].sum() / max(inside.sum() + probability.sum(), 1e-12)),
        "volume_spread": float(sizes.std() / max(sizes.mean(), 1)),
        "border_mm": measures.band_summary(measures.border_band(drawn, segmentation.image.spacing))["mean_mm"],
        "largest_part": _largest_part(inside[box]),
    }


def _agreement(between: np.ndarray, within: np.ndarray) -> Numbers:
    """Dice among the samples (S, S) and with the segmentation (S, 1); pairs that both lack the structure do not count."""
    pairs = between[~np.eye(len(between), dtype=bool)] if len(between) > 1 else between
    found = {"samples_dice": pairs[np.isfinite(pairs)], "mean_dice": within[np.isfinite(within)]}
    return {name: float(values.mean()) for name, values in found.items() if values.size}


def _largest_part(mask: np.ndarray) -> float:
    from scipy.ndimage import label

    sizes = np.bincount(label(mask, np.ones((3, 3, 3)))[0].ravel())[1:]
    return float(sizes.max() / sizes.sum()) if sizes.size else 0.0


def image_features(image: Volume) -> Numbers:
    """The `IMAGE_FEATURES` of the first channel; all but spacing_mm and extent_mm are without unit and unchanged by brightness.

    Intensities are scaled to 0..1 between the 1st and 99th percentile; bright is what lies above Otsu's threshold. noise: deviation
    of a voxel from its neighbors in bright tissue; sharpness: difference of neighbors by that of voxels four apart; shading: how
    much the brightness changes from region to region. Raises InputError for an image with NaN or of one value.
    """
    check_image(image, "image")
    data = image.data[0].astype(np.float32)
    low, high = np.percentile(data, (1, 99))
    if low == high:  # more than 98 % have one value
        low, high = float(data.min()), float(data.max())
    x = (data - low) / (high - low)
    bright = x > otsu(x)
    if bright.all() or not bright.any():  # almost all voxels have one value
        bright = x > 0.5
    axes = [axis for axis, n in enumerate(x.shape) if n >= 8] or [int(np.argmax(x.shape))]
    sides = np.array(image.shape)[[n > 1 for n in image.shape]] * image.spacing[[n > 1 for n in image.shape]]
    dark, level = x[~bright], float(np.median(x[bright]))
    return {
        "noise": min(_noise(x, bright, axis) for axis in axes),
        "contrast": level - float(np.median(dark)),
        "sharpness": float(np.mean([_sharpness(x, axis) for axis in axes])),
        "shading": _shading(x, bright) / max(level, 1e-3),
        "air": float(np.percentile(dark, 75)) / max(level, 1e-3),
        "saturation": float((data == data.max()).mean()),
        "foreground": float(bright.mean()),
        "spacing_mm": float(image.spacing[[n > 1 for n in image.shape]].max()),
        "extent_mm": float(sides.min()),
    }


def _noise(x: np.ndarray, bright: np.ndarray, axis: int) -> float:
    """Robust deviation of voxels from the mean of both neighbors, for white noise its standard deviation (0..1 intensities)."""
    x, bright = np.moveaxis(x, axis, 0), np.moveaxis(bright, axis, 0)
    inner = bright[1:-1] & bright[:-2] & bright[2:]
    difference = (x[1:-1] - (x[:-2] + x[2:]) / 2)[inner]
    return float(1.4826 * np.median(np.abs(difference)) / np.sqrt(1.5)) if difference.size else 0.0


def _sharpness(x: np.ndarray, axis: int) -> float:
    x = np.moveaxis(x, axis, 0)
    far = float(np.abs(x[4:] - x[:-4]).mean())
    return float(np.abs(x[1:] - x[:-1]).mean()) / far if far else 0.0


def _shading(x: np.ndarray, bright: np.ndarray) -> float:
    """Deviation of the mean brightness of four regions along each axis."""
    regions = [np.array_split(np.arange(n), 4 if n >= 8 else 1) for n in x.shape]
    means = []
    for i in regions[0]:
        for j in regions[1]:
            for k in regions[2]:
                inside = bright[np.ix_(i, j, k)]
                if inside.mean() > 0.2:
                    means.append(float(x[np.ix_(i, j, k)][inside].mean()))
    return float(np.std(means)) if means else 0.0

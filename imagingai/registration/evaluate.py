"""Measure a registration: overlap and surface distance before and after, landmark error, smoothness, folding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imagingai import landmarks, metrics
from imagingai.datasets import read_label_names
from imagingai.errors import InputError
from imagingai.options import flag
from imagingai.pictures import otsu
from imagingai.transform import Transform, warp
from imagingai.volume import Volume, check_labels


@dataclass(frozen=True)
class Reference:
    """What a result is compared with: labels and landmarks of both images; any of it may be missing."""

    labels: tuple[Volume, Volume] | None = None  # fixed, moving
    landmarks: tuple[np.ndarray, np.ndarray] | None = None  # (N, 3) RAS mm each
    names: Mapping[int, str] = field(default_factory=dict)


def read_reference(inputs: Mapping[str, Path], images: Mapping[str, Volume], labels: Mapping[str, Volume]) -> Reference:
    """Check labels and landmarks before any work starts. `labels` may hold fixed_labels and moving_labels."""
    for kind in ("labels", "landmarks"):
        given = [name for name in (f"fixed_{kind}", f"moving_{kind}") if name in inputs]
        if len(given) == 1:
            other = f"moving_{kind}" if given[0].startswith("fixed") else f"fixed_{kind}"
            raise InputError(f"{flag(given[0])} needs {flag(other)} too, to compare with.")
    pair = points = None
    if "fixed_labels" in labels:
        pair = (labels["fixed_labels"], labels["moving_labels"])
        for name, volume in zip(("fixed", "moving"), pair, strict=True):
            if name in images:
                check_labels(volume, images[name], f"{name} labels")
        metrics.common_labels(pair[0].data, pair[1].data)
    if "fixed_landmarks" in inputs:
        _, *both = landmarks.match(*(landmarks.load_landmarks(inputs[f"{name}_landmarks"]) for name in ("fixed", "moving")))
        points = (both[0], both[1])
    return Reference(pair, points, read_label_names(inputs["fixed_labels"]) if pair else {})


def measure(
    transform: Transform, before: Transform, fixed: Volume, jacobian: Volume, reference: Reference, mask: Volume | None = None
) -> dict[str, Any]:
    """All metrics of a transform; those that end with `_before` are of the transform `before`.

    Smoothness and folding are measured in the mask, or else where the fixed image is not background.
    """
    found: dict[str, Any] = {}
    for ending, candidate in (("_before", before), ("", transform)):
        if reference.labels:
            labels, moved = (
                reference.labels[0].data[0],
                warp(reference.labels[1], candidate, reference.labels[0], interpolation="nearest").data[0],
            )
            values = metrics.common_labels(reference.labels[0].data, reference.labels[1].data)
            found["dice" + ending] = metrics.dice(labels, moved, values)
            found["hd95" + ending] = metrics.hd95(labels, moved, reference.labels[0].spacing, values)
        if reference.landmarks:
            errors = metrics.tre(candidate, *reference.landmarks)
            found["tre" + ending] = {"mean": errors.mean(), "median": np.median(errors), "max": errors.max()}
    if reference.landmarks:
        apart = metrics.tre(before, *reference.landmarks)
        found["tre_by_displacement"] = metrics.tre_by_displacement(metrics.tre(transform, *reference.landmarks), apart)
    where = (mask.data[0] > 0) if mask is not None else foreground(fixed)
    found["sdlogj"] = metrics.sdlogj(jacobian.data[0], where)
    found["folding_percent"] = metrics.folding_percent(jacobian.data[0], where)
    return found


def foreground(image: Volume) -> np.ndarray:
    """(X, Y, Z) bool: what is not background, holes filled."""
    from scipy.ndimage import binary_fill_holes

    data = image.data[0].astype(np.float32)
    return binary_fill_holes(data > otsu(data) / 2)


def summary(found: Mapping[str, Any]) -> dict[str, float]:
    """One number a metric: the mean over structures, the mean of a set of errors."""
    flat = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            value = value["mean"] if "mean" in value else np.mean(list(value.values()))
        if isinstance(value, (int, float, np.number)):
            flat[name] = float(value)
    return flat

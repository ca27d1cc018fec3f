"""What the predictions of a model on test images say about its uncertainty: the numbers behind figures 4, 5 and 6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from common import quantiles
from scipy.stats import pointbiserialr, spearmanr, wilcoxon

from imagingai.uncertainty.calibration import ece, reliability
from imagingai.uncertainty.measures import diversity, entropy, ged, ged_curve, pairwise_dice, reader_entropy, repeated_measures_correlation

COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Prediction:
    """One test image. labels: (R, X, Y, Z), samples: (S, X, Y, Z) class index; probability: (K, X, Y, Z)."""

    labels: np.ndarray
    probability: np.ndarray
    samples: np.ndarray

    @property
    def classes(self) -> int:
        """How many, with the background."""
        return len(self.probability)

    @property
    def segmentation(self) -> np.ndarray:
        """(X, Y, Z) most probable class."""
        return self.probability.argmax(0)


def evaluate(predictions: list[Prediction]) -> dict[str, Any]:
    """All numbers of one model on one data set, plain data."""
    several = len(predictions[0].labels) > 1
    found = {
        "dice": per_case(dice, predictions),
        "by_outcome": by_outcome(predictions),
        "error_correlation": error_correlation(predictions),
    }
    found |= {"case_correlation": case_correlation(predictions), "ece": calibration(predictions)}
    found["diversity"] = float(np.mean([diversity(p.samples, p.classes) for p in predictions]))
    if several:
        found |= {"by_agreement": by_agreement(predictions), "ged": [ged(p.samples, p.labels, p.classes) for p in predictions]}
        found["ged_curve"] = (
            {n: [float(np.median(v[k])) for v in curves] for k, n in enumerate(COUNTS)} if (curves := _curves(predictions)) else {}
        )
        found["reader_diversity"] = float(np.mean([diversity(p.labels, p.classes) for p in predictions]))
        found["marked_by_all"] = [bool(p.labels.any((1, 2, 3)).all()) for p in predictions]
    return found


def _curves(predictions: list[Prediction]) -> list[np.ndarray]:
    return [ged_curve(p.samples, p.labels, p.classes, COUNTS, draws=50) for p in predictions]


def per_case(measure: Any, predictions: list[Prediction]) -> list[float]:
    """One number a case."""
    return [float(measure(p)) for p in predictions]


def dice(prediction: Prediction) -> float:
    """Mean Dice of the segmentation with each reader and structure; 1 where both are empty."""
    overlap = pairwise_dice(prediction.segmentation[None], prediction.labels, prediction.classes)
    return float(np.nan_to_num(overlap, nan=1.0).mean())


def agreed(prediction: Prediction) -> np.ndarray:
    """(X, Y, Z) bool: all readers have the same class. The others have no true class (figure 4 leaves them out)."""
    return (prediction.labels == prediction.labels[0]).all(0)


def by_outcome(predictions: list[Prediction]) -> dict[str, Any]:
    """Entropy (bits) of the pixels that are true or false, positive or negative (figure 4)."""
    found: dict[str, list[np.ndarray]] = {"TP": [], "FP": [], "FN": [], "TN": []}
    for p in predictions:
        bits, truth, segmented, where = entropy(p.probability), p.labels[0], p.segmentation, agreed(p)
        right = segmented == truth
        masks = {"TP": right & (truth > 0), "FP": ~right & (segmented > 0), "FN": ~right & (segmented == 0), "TN": right & (truth == 0)}
        for name, mask in masks.items():
            found[name].append(bits[mask & where])
    return {name: quantiles(np.concatenate(values)) for name, values in found.items()}


def error_correlation(predictions: list[Prediction]) -> dict[str, float]:
    """Correlation of entropy with error (0, 1) over pixels, one intercept an image (section 4.3).

    Pixels are not independent, so that p is too small. `images` and `p_images` need no such assumption: in how many of the images
    that have an error the correlation is positive, and Wilcoxon's test of the correlations of the images.
    """
    x, y, subject, alone = [], [], [], []
    for number, p in enumerate(predictions):
        where = agreed(p)
        bits, wrong = entropy(p.probability)[where], (p.segmentation != p.labels[0])[where]
        x, y, subject = [*x, bits], [*y, wrong], [*subject, np.full(len(bits), number)]
        if wrong.any() and not wrong.all():
            alone.append(pointbiserialr(wrong, bits)[0])
    r, _, probability = repeated_measures_correlation(*(np.concatenate(values) for values in (x, y, subject)))
    positive = int(np.sum(np.array(alone) > 0))
    return {
        "r": r,
        "p": probability,
        "images": len(alone),
        "positive": positive,
        "p_images": float(wilcoxon(alone, alternative="greater").pvalue),
    }


def case_correlation(predictions: list[Prediction]) -> dict[str, float]:
    """Spearman's correlation of mean entropy in what any sample calls a structure with 1 - Dice, over images: for a queue."""
    doubt = [entropy(p.probability)[where].mean() if (where := (p.samples > 0).any(0)).any() else 0.0 for p in predictions]
    if not np.ptp(doubt):  # nothing was segmented
        return {"r": 0.0, "p": 1.0}
    r, probability = spearmanr(doubt, [1 - dice(p) for p in predictions])
    return {"r": float(r), "p": float(probability)}


def calibration(predictions: list[Prediction]) -> float:
    """Expected calibration error over the pixels near a structure: any reader, or any class above 5 %; every reader counts."""
    confidence, correct = [], []
    for p in predictions:
        where = (p.labels > 0).any(0) | (p.probability[1:].max(0) > 0.05)
        for labels in p.labels:
            confidence.append(p.probability.max(0)[where])
            correct.append((p.segmentation == labels)[where])
    return ece(reliability(np.concatenate(confidence), np.concatenate(correct)))


def by_agreement(predictions: list[Prediction]) -> dict[str, Any]:
    """Entropy (bits) of the pixels on which readers agree, partly agree, and are split (figure 5), and its correlation with theirs."""
    found: dict[str, list[np.ndarray]] = {"agree": [], "partly": [], "split": []}
    x, y, subject = [], [], []
    for number, p in enumerate(predictions):
        model, readers = entropy(p.probability), reader_entropy(p.labels, p.classes)
        most = readers.max() if len(p.labels) % 2 else 1.0
        masks = {"agree": readers == 0, "partly": (readers > 0) & (readers < most - 1e-6), "split": readers >= most - 1e-6}
        for name, mask in masks.items():
            found[name].append(model[mask])
        x, y, subject = [*x, model.ravel()], [*y, readers.ravel()], [*subject, np.full(model.size, number)]
    r, _, probability = repeated_measures_correlation(*(np.concatenate(values) for values in (x, y, subject)))
    return {"groups": {name: quantiles(np.concatenate(values)) for name, values in found.items()}, "r": r, "p": probability}

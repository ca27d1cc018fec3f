"""Predicts the Dice of a structure from how sure the model is of it: ridge regression of the logit of the Dice, kept as plain JSON.

The features and the strength of the penalty are chosen by cross-validation that leaves out whole cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LIMITS = (0.01, 0.995)  # of a Dice, so that its logit is finite
AGREEMENTS = ("expected_dice", "samples_dice", "mean_dice", "probability", "largest_part")  # shares: their logit is linear
SMALL = ("entropy", "mutual_information", "expected_entropy", "volume_spread", "border_mm", "volume_ml")  # their logarithm is
SETS = (("expected_dice",), AGREEMENTS, AGREEMENTS + SMALL)
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FOLDS = 10

Regressor = dict[str, Any]  # features, structures, mean, scale, weights, penalty: as in quality.json


class Row(NamedTuple):
    """A structure of a case whose true Dice is known; spoiled: of a copy with worse image quality."""

    case: str
    structure: str
    features: Mapping[str, float]
    dice: float
    spoiled: bool = False


def logit(share: np.ndarray | float) -> np.ndarray:
    """log(p / (1 - p)) of a share, limited."""
    p = np.clip(share, *LIMITS)
    return np.log(p / (1 - p))


def expit(value: np.ndarray | float) -> np.ndarray:
    """The share of a logit."""
    return 1 / (1 + np.exp(-np.asarray(value, float)))


def fit(rows: Sequence[Row]) -> tuple[Regressor, np.ndarray]:
    """The best regressor, and the logit (n,) that was predicted for each row by one that had not seen its case."""
    best, held_out, least = None, np.empty(0), np.inf
    for names in SETS:
        for penalty in PENALTIES:
            predicted = _cross_validate(rows, names, penalty)
            error = float(np.abs(expit(predicted) - [row.dice for row in rows]).mean())
            if error < least:
                best, held_out, least = (names, penalty), predicted, error
    return _fit(rows, *best), held_out


def predict(regressor: Regressor, structure: str, features: Mapping[str, float]) -> float:
    """The predicted logit of the Dice of a structure."""
    x = _columns(features, structure, regressor["features"], regressor["structures"])
    return float((x - regressor["mean"]) / regressor["scale"] @ np.array(regressor["weights"]) + regressor["offset"])


def _columns(features: Mapping[str, float], structure: str, names: Sequence[str], structures: Sequence[str]) -> np.ndarray:
    values = [
        float(logit(features[name]) if name in AGREEMENTS else np.log(max(features[name], 0.0) + 1e-3)) if name in features else 0.0
        for name in names
    ]
    return np.array(values + [float(structure == name) for name in structures])


def _fit(rows: Sequence[Row], names: Sequence[str], penalty: float) -> Regressor:
    structures = sorted({row.structure for row in rows})
    x = np.array([_columns(row.features, row.structure, names, structures) for row in rows])
    y = logit(np.array([row.dice for row in rows]))
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = 1.0  # what never varies has no weight: its column is 0
    z = (x - mean) / scale
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    numbers = {"mean": mean.tolist(), "scale": scale.tolist(), "weights": weights.tolist(), "offset": float(y.mean())}
    return {"features": list(names), "structures": structures, "penalty": penalty, **numbers}


def _cross_validate(rows: Sequence[Row], names: Sequence[str], penalty: float) -> np.ndarray:
    cases = sorted({row.case for row in rows})
    folds = {case: k % FOLDS for k, case in enumerate(cases)}
    predicted = np.empty(len(rows))
    for fold in set(folds.values()):
        regressor = _fit([row for row in rows if folds[row.case] != fold], names, penalty)
        for k, row in enumerate(rows):
            if folds[row.case] == fold:
                predicted[k] = predict(regressor, row.structure, row.features)
    return predicted

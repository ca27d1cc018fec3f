"""Whether probabilities mean what they say: reliability, temperature, and intervals with a promised coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imagingai.errors import InputError

Table = list[dict[str, float]]  # one row for each bin of confidence, plain numbers that fit into JSON
TEMPERATURES = (0.05, 20.0)  # limits of the search: labels that are never wrong would drive the temperature to 0


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Table:
    """What a reliability diagram shows: how often predictions of a confidence are right (Guo et al. 2017, section 2).

    confidence: (N,) 0 to 1, the largest probability; correct: (N,) bool. Bins have the same width; an empty one has the
    confidence and the accuracy 0. Returns rows {from, to, count, confidence, accuracy} that `merge` can add up.
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    means = [np.bincount(index, values, bins) / np.maximum(count, 1) for values in (confidence, correct)]
    names = ("from", "to", "count", "confidence", "accuracy")
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), count.tolist(), *(mean.tolist() for mean in means), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def merge(tables: Sequence[Table]) -> Table:
    """The table of all cases together, from those of the cases (with the same bins)."""
    merged = []
    for rows in zip(*tables, strict=True):
        total = sum(row["count"] for row in rows)
        means = {name: sum(row["count"] * row[name] for row in rows) / max(total, 1) for name in ("confidence", "accuracy")}
        merged.append({"from": rows[0]["from"], "to": rows[0]["to"], "count": total, **means})
    return merged


def ece(table: Table) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, weighted by the counts (Guo et al. 2017, eq. 5)."""
    total = sum(row["count"] for row in table)
    return sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in table) / max(total, 1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that makes softmax(logits / T) most likely (Guo et al. 2017, section 4.2), within `TEMPERATURES`.

    logits: (N, K), or log-probabilities, which give the same, or (S, N, K) of samples, whose mean probability counts;
    labels: (N,) class indices. T above 1: the model is too sure.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = np.asarray(logits, float).reshape(-1, *np.shape(logits)[-2:])
    true = logits[:, np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        likelihood = true * inverse - logsumexp(logits * inverse, axis=2)
        return float(np.log(len(logits)) - np.mean(logsumexp(likelihood, axis=0)))

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6}).x))


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The score that a new case stays below with probability `coverage` or more, if it is like the (n,) cases that are given.

    Split conformal prediction: the ceil((n + 1) coverage)-th smallest score (Angelopoulos & Bates 2023, "Conformal
    prediction: a gentle introduction", section 1); infinite if there are too few cases to promise the coverage.
    """
    scores = np.sort(np.asarray(scores, float))
    if not np.all(np.isfinite(scores)):
        raise InputError("Conformal intervals need finite scores. Leave out cases that could not be measured.")
    rank = int(np.ceil((len(scores) + 1) * coverage - 1e-9))
    return float(scores[rank - 1]) if rank <= len(scores) else float("inf")


def interval_scores(low: np.ndarray, high: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """How far outside of its interval each true value lies (below 0: inside), in units of `scale`; all (n,).

    Conformalized quantile regression (Romano et al. 2019, eq. 6). For volumes the scale is the predicted volume.
    """
    return np.maximum(low - truth, truth - high) / scale


def widen(low: float, high: float, quantile: float, scale: float) -> tuple[float, float]:
    """The interval with the coverage of `quantile`, the conformal quantile of `interval_scores`; no end lies below 0."""
    low, high = low - quantile * scale, high + quantile * scale
    middle = (low + high) / 2  # a negative quantile can turn a narrow interval over
    return max(0.0, min(low, middle)), max(0.0, high, middle)

"""Distance-based outlier suppression: sites whose update is far from all others lose their weight (Alkhunaizi et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

USUAL = 4.0  # so many times the usual size of an update may the others be away; honest sites that differ stay near 2


def copod(features: np.ndarray) -> np.ndarray:
    """Outlier score of each row of (rows, columns); higher is farther out (Copula-based outlier detection, Li et al. 2020, algorithm 1).

    The sum over the columns of -log of the empirical tail probability: of the tail that the skewness points to, or the mean of both.
    """
    left = -np.log((features[None] <= features[:, None]).mean(1))
    right = -np.log((features[None] >= features[:, None]).mean(1))
    skewness = ((features - features.mean(0)) ** 3).mean(0)
    return np.maximum(np.where(skewness < 0, left, right), (left + right) / 2).sum(1)


def distances(updates: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Euclidean (K, K) and cosine (K, K) distances of K updates, each (parameters,), and their lengths (K,)."""
    lengths = np.array([np.linalg.norm(update) for update in updates])
    euclidean = np.array([[np.linalg.norm(a - b) for b in updates] for a in updates], float)
    products = (lengths[:, None] ** 2 + lengths**2 - euclidean**2) / 2
    norms = np.outer(lengths, lengths)
    return euclidean, 1 - np.divide(products, norms, out=np.zeros_like(products), where=norms > 0), lengths


def suppress_outliers(updates: Sequence[np.ndarray]) -> np.ndarray:
    """Factor of the weight of each site, 0 to 1 (K,), from its update (model - received model), (parameters,).

    The paper's weight is exp(-r), r the mean COPOD score on both matrices of distances. Because COPOD looks at ranks, somebody is
    always the farthest, and with three sites a poisoned one would keep 7 %. So r counts only for sites whose median distance to
    the others exceeds `USUAL` median updates, and by the square of that: exp(-r (distance / (USUAL median update))^2).
    Fewer than half of the sites may be poisoned; of two sites nobody can say which one is. An update of the usual size counts in full,
    whatever its direction: against those take the median, the trimmed mean or krum.
    """
    if len(updates) < 3:
        return np.ones(len(updates))
    euclidean, cosine, lengths = distances(updates)
    scores = (copod(euclidean) + copod(cosine)) / 2
    near = np.sort(euclidean, axis=1)[:, len(updates) // 2]  # lower median of the others: the first in a row is the site itself
    usual = USUAL * np.sort(lengths)[(len(updates) - 1) // 2]
    excess = np.divide(near, usual, out=np.zeros_like(near), where=usual > 0)
    exponents = np.where(excess > 1, scores * excess**2, 0)
    return np.exp(exponents.min() - exponents)

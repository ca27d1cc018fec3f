"""Bring the intensities of all sites to their average histogram (Nyul et al. 2000; Linardos et al. 2022, "Data harmonization")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from imagingai.errors import InputError

BINS, TOP = 128, 1.5  # of images that `normalize` has scaled to 0..1.5
PERCENTILES = np.array([1, *range(10, 100, 10), 99]) / 100  # the landmarks
EDGES = np.linspace(0, TOP, BINS + 1)


def site_histogram(images: Iterable[np.ndarray]) -> list[float]:
    """Average of the histograms of the foreground of some images, `BINS` shares that sum to 1. Images are scaled robustly to 0..1.5."""
    histograms = []
    for image in images:
        counts = np.histogram(foreground(image), EDGES)[0]
        histograms.append(counts / counts.sum())
    return np.mean(histograms, 0).tolist()


def average_histogram(sites: Sequence[tuple[Sequence[float], int]]) -> list[float]:
    """H_average = sum_k N_k / N H^k of sites (histogram, number of images), by the formula of Linardos et al.

    H^k is the mean of the histograms of the images of center k. The paper writes their sum, but says "the average histogram
    of all images": with the sum a center would count by the square of its size. Raises InputError for what is no histogram.
    """
    for histogram, count in sites:
        check_histogram(histogram)
        if count < 1:
            raise InputError(f"A histogram of {count} images came; a site needs at least one.")
    total = sum(count for _, count in sites)
    return sum(np.array(histogram) * (count / total) for histogram, count in sites).tolist()


def check_histogram(histogram: Sequence[float]) -> None:
    """Raise InputError unless it is `BINS` shares that sum to 1."""
    values = np.asarray(histogram, float)
    if values.shape != (BINS,) or not np.all(values >= 0) or abs(values.sum() - 1) > 1e-3:
        raise InputError(
            f"That is no histogram of intensities: {BINS} shares that sum to 1 are needed, not {values.size} of sum {values.sum():g}."
        )


def standardize(image: np.ndarray, average: Sequence[float]) -> np.ndarray:
    """The image with the landmarks of its foreground moved to those of the average histogram, linear between them, float32.

    The image is scaled robustly to 0..1.5, and its lowest value stays 0.
    """
    check_histogram(average)
    cumulated = np.concatenate([[0], np.cumsum(average)])
    targets = np.interp(PERCENTILES, cumulated / cumulated[-1], EDGES)
    own = np.quantile(foreground(image), PERCENTILES)
    own, first = np.unique(np.concatenate([[image.min()], own, [max(TOP, image.max())]]), return_index=True)
    return np.interp(image, own, np.concatenate([[0], targets, [TOP]])[first]).astype(np.float32)


def foreground(image: np.ndarray) -> np.ndarray:
    """The values above the mean, which tells the head or the heart from the air around it (Nyul et al. 2000)."""
    above = image[image > image.mean()]
    return above if above.size else image.ravel()  # a piece of air alone

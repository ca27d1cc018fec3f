"""Harmonization of intensities: the average histogram of the sites, and images that are brought to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from site_data import CLASSES, image_site

from imagingai.errors import InputError
from imagingai.federated.classifier import load_classifier, predict
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import open_learner
from imagingai.federated.nyul import BINS, EDGES, PERCENTILES, average_histogram, foreground, site_histogram, standardize
from imagingai.synthesis.appearance import normalize


def tissue(seed: int = 0) -> np.ndarray:
    """A smooth image of a bright body in air, 0..1 (N, N)."""
    random = np.random.default_rng(seed)
    body = np.hypot(*np.meshgrid(np.arange(64) - 32, np.arange(64) - 32)) < 24
    texture = gaussian_filter(random.normal(size=(64, 64)), 2)
    return body * (0.6 + 0.3 * texture / abs(texture).max()) + 0.02 * random.random((64, 64))


def seen(image: np.ndarray) -> np.ndarray:
    """Scaled robustly, as a network sees it."""
    return normalize(torch.from_numpy(np.ascontiguousarray(image))).numpy()


def test_average_histogram_is_the_formula_of_linardos():
    random = np.random.default_rng(0)
    sites = [[random.random((8, 8)) for _ in range(count)] for count in (3, 1, 6)]
    average = average_histogram([(site_histogram(images), len(images)) for images in sites])
    single = [site_histogram([image]) for images in sites for image in images]  # "the average histogram of all images"
    np.testing.assert_allclose(average, np.mean(single, 0))
    by_hand = sum(len(images) / 10 * np.mean([site_histogram([image]) for image in images], 0) for images in sites)
    np.testing.assert_allclose(average, by_hand)
    assert sum(average) == pytest.approx(1) and len(average) == BINS


def test_histogram_is_that_of_the_foreground():
    image = np.full((10, 10), 0.01)
    image[:3] = 1.0
    histogram = site_histogram([image])
    assert histogram[np.searchsorted(EDGES, 1.0, "right") - 1] == 1.0 and sum(histogram) == 1.0


@pytest.mark.parametrize("scanner", [lambda x: 900 * x + 40, lambda x: x**0.5, lambda x: 3 * x**1.7])
def test_images_of_two_scanners_get_the_same_intensities(scanner):
    """A scale is removed by the robust scaling alone; a curve only by the landmarks."""
    image, average = tissue(), site_histogram([seen(tissue(seed)) for seed in range(1, 6)])
    one, two = seen(image), seen(scanner(image))
    harmonized = [standardize(some, average) for some in (one, two)]
    inside = one > 0.3
    assert abs(harmonized[0] - harmonized[1])[inside].mean() < max(0.005, 0.3 * abs(one - two)[inside].mean())


def test_landmarks_are_moved_to_those_of_the_average_histogram():
    average = site_histogram([seen(tissue(seed)) for seed in range(1, 6)])
    image = seen(tissue() ** 0.5)
    result = standardize(image, average)
    wanted = np.interp(PERCENTILES, np.cumsum(average), EDGES[1:])
    np.testing.assert_allclose(np.quantile(result[image > image.mean()], PERCENTILES), wanted, atol=EDGES[1])
    assert result.dtype == np.float32 and result.min() == 0 and result.max() <= EDGES[-1]
    order = np.argsort(image, axis=None)
    assert np.all(np.diff(result.ravel()[order]) >= 0)  # brighter stays brighter


def test_image_of_two_values_can_be_harmonized():
    image = np.zeros((8, 8))
    image[2:6, 2:6] = 1.0
    assert np.isfinite(standardize(image, site_histogram([seen(tissue())]))).all()
    assert np.all(foreground(image) == 1.0)


def test_empty_piece_of_an_image_can_be_harmonized():
    air = np.zeros((8, 8))
    assert site_histogram([air])[0] == 1.0 and not standardize(air, site_histogram([seen(tissue())])).any()


@pytest.mark.parametrize("histogram", [[1.0], [0.0] * BINS, [2.0 / BINS] * BINS, [-1.0, 2.0] + [0.0] * (BINS - 2), [float("nan")] * BINS])
def test_what_is_no_histogram_is_refused(histogram):
    with pytest.raises(InputError, match=r"That is no histogram of intensities: 128 shares that sum to 1 are needed"):
        average_histogram([(histogram, 3)])
    with pytest.raises(InputError, match=r"That is no histogram"):
        standardize(tissue(), histogram)


def test_site_without_images_is_refused():
    with pytest.raises(InputError, match="A histogram of 0 images came"):
        average_histogram([([1 / BINS] * BINS, 0)])


def test_sites_share_a_histogram_and_learn_from_harmonized_images(tmp_path):
    project = ProjectConfig(
        task="image-classification", classes=CLASSES, dimension=2, patch=(24,), augmentation="none", harmonization="nyul"
    )
    inputs = [{name: place for name, place in image_site(tmp_path / str(k), 6 + 2 * k).items() if name != "labels"} for k in range(2)]
    sites = [open_learner(project, data) for data in inputs]
    with pytest.raises(InputError, match="the aggregator has sent no average histogram"):
        sites[0].example(0, 0)
    average = average_histogram([(site.histogram(), site.examples) for site in sites])
    learner = open_learner(project, inputs[0], histogram=average)
    assert learner.histogram() == sites[0].histogram()  # of the images as they were
    np.testing.assert_allclose(learner.example(0, 0)[0][0], standardize(learner.raw[0], average)[0])
    learner.save(tmp_path / "model.safetensors", learner.network, {})
    model = load_classifier(tmp_path / "model.safetensors")
    assert model.description.histogram == tuple(average)
    learner.network.eval()
    expected = torch.softmax(learner.network(learner.inputs), 1)[:, 1].tolist()
    assert [row["sick"] for row in predict(model, inputs[0])] == pytest.approx(expected, abs=2e-3)

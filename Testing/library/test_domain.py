"""Is an image like the training images? What the network makes of it tells, even one that has learned nothing yet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from imagingai.uncertainty.domain import domain_distance, domain_features, learn_domain
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, build_network


def description(dimension: int, kind: str = "dropout", channels: int = 1) -> ModelDescription:
    patch = (32, 32, 1) if dimension == 2 else (16, 16, 16)
    return ModelDescription(kind, "light", dimension, channels, ("background", "Ball"), (0, 1), (1.0, 1.0, 1.0), patch)


def network(dimension: int, kind: str = "dropout", channels: int = 1) -> SegmentationModel:
    torch.manual_seed(0)
    made = description(dimension, kind, channels)
    return SegmentationModel(made, [build_network(made).eval()])


def disk(seed: int, shape=(32, 40, 3)) -> np.ndarray:
    """A disk with a soft edge, (1, *shape)."""
    random = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in shape[:2]], indexing="ij"))
    inside = np.hypot(*x) < 9 + random.standard_normal()
    image = gaussian_filter(inside.astype(float), 0.7)[..., None] + 0.03 * random.standard_normal(shape)
    return image[None].astype(np.float32)


@pytest.fixture(scope="module")
def learned():
    model = network(2)
    return model, learn_domain([domain_features(model, disk(seed)) for seed in range(20)])


def distance(learned, image: np.ndarray) -> float:
    model, domain = learned
    return domain_distance(domain, domain_features(model, image))


def test_new_images_of_the_same_kind_are_inside(learned):
    assert max(distance(learned, disk(100 + seed)) for seed in range(20)) < 1


@pytest.mark.parametrize(
    "foreign",
    [
        lambda: 1 - disk(200),
        lambda: np.random.default_rng(0).random((1, 32, 40, 3)).astype(np.float32),
        lambda: gaussian_filter(disk(200), (0, 4, 4, 0)),
        lambda: np.zeros((1, 32, 40, 3), np.float32),
    ],
    ids=["inverted", "noise", "blurred", "empty"],
)
def test_foreign_images_are_outside(learned, foreign):
    assert distance(learned, foreign()) > 1


@pytest.mark.parametrize("dimension", [2, 3])
def test_images_smaller_than_the_network_can_halve_have_features(dimension):
    assert np.all(np.isfinite(domain_features(network(dimension), np.random.default_rng(0).random((1, 7, 6, 5)).astype(np.float32))))


@pytest.mark.parametrize("kind", ["unet", "dropout", "probabilistic"])
def test_every_kind_of_network_has_features(kind):
    for dimension, shape in ((2, (30, 41, 7)), (3, (20, 17, 9))):
        model = network(dimension, kind, channels=2)
        image = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
        first, again = domain_features(model, image), domain_features(model, image)
        assert np.array_equal(first, again) and np.all(np.isfinite(first)), "no dropout, no samples"


def test_large_images_are_looked_at_in_their_middle(monkeypatch):
    monkeypatch.setattr("imagingai.uncertainty.domain.VOXELS", 16**3)
    model, image = network(3, "unet"), np.random.default_rng(0).random((1, 40, 40, 40)).astype(np.float32)
    changed = image.copy()
    changed[:, :8] = 0  # far from the middle
    assert np.array_equal(domain_features(model, image), domain_features(model, changed))


def test_a_few_images_are_no_domain():
    assert learn_domain([np.zeros(4)] * 3) == {}
    assert domain_distance({}, np.zeros(4)) is None


def test_images_that_are_all_the_same_are_a_domain():
    domain = learn_domain([np.ones(6)] * 5)
    assert domain_distance(domain, np.ones(6)) == 0.0 < 1 < domain_distance(domain, np.zeros(6))

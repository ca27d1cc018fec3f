"""Samples of a model in native space: a model whose answer is known, on every grid; then each kind of network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grids import GRIDS, textured
from torch import nn

from imagingai.errors import InputError
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, build_network
from imagingai.uncertainty.segment import count_samples, segment
from imagingai.volume import Volume, resample_like


class Threshold(nn.Module):
    """Class 1 where the image is bright; sample s has another threshold. What a model of known answers looks like."""

    def __init__(self, level: float = 0.6) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def sample(self, image, seeds):
        logits = [200 * (image[:, 0] - self.level - 0.05 * (seed % 3 - 1)) for seed in seeds]
        return torch.stack([torch.stack([-x, x], 1) for x in logits], 1)


def threshold_model(dimension: int = 3, spacing=(), patch=(16, 16, 16), **more) -> SegmentationModel:
    description = ModelDescription("dropout", "light", dimension, 1, ("background", "bright"), (0, 7), spacing, patch, **more)
    return SegmentationModel(description, [Threshold()])


@pytest.mark.parametrize("name", ["RAS", "LAS", "LPS", "sagittal", "oblique", "slice"])
def test_the_answer_lies_where_it_belongs(name):
    """On any orientation, window by window, the result is that of the whole image."""
    image = textured(GRIDS[name])
    flat = image.ndim == 2
    found = segment(image, threshold_model(2 if flat else 3, patch=(16, 16, 1) if flat else (16, 16, 16)), SegmentConfig(samples=3, seed=0))
    top = np.quantile(image.data[image.data > image.data.min()], 0.99)
    seen = np.clip((image.data[0] - image.data.min()) / (top - image.data.min()), 0, 1.5)
    clear = np.abs(seen - 0.6) > 0.02
    assert np.array_equal(found.segmentation[clear], (seen > 0.6)[clear])
    assert set(np.unique(found.labels.data)) == {0, 7} and found.labels.data.dtype == np.int16
    assert found.probability.shape == (2, *image.shape) and np.allclose(found.probability.sum(0), 1, atol=1e-5)


def test_samples_mean_and_entropies_belong_together():
    image = textured(GRIDS["RAS"])
    found = segment(image, threshold_model(), SegmentConfig(samples=6))
    assert found.samples.shape == (6, *image.shape)
    sizes = (found.samples == 1).sum((1, 2, 3))
    assert len(set(sizes)) == 3  # three thresholds
    disputed = (found.samples == 1).mean(0)
    between = (disputed > 0.3) & (disputed < 0.7)
    assert between.any() and found.entropy[between].mean() > 0.8  # samples are sure, and differ: the model does not know
    assert found.expected_entropy[between].mean() < 0.3 < found.mutual_information[between].mean()
    assert (found.entropy <= 1 + 1e-6).all() and (found.mutual_information >= 0).all()


def test_a_coarser_model_comes_back_to_the_grid_of_the_image():
    image = textured(GRIDS["oblique"])
    found = segment(image, threshold_model(spacing=(3.0, 3.0, 3.0)), SegmentConfig(samples=3))
    fine = segment(image, threshold_model(), SegmentConfig(samples=3))
    assert found.segmentation.shape == image.shape
    both = (found.segmentation & fine.segmentation).sum() * 2 / (found.segmentation.sum() + fine.segmentation.sum())
    assert both > 0.75  # texture of 1.5 voxels at 3 mm


def test_a_model_of_slices_works_on_volumes():
    image = textured(GRIDS["sagittal"])
    found = segment(image, threshold_model(2, patch=(16, 16, 1)), SegmentConfig(samples=3))
    whole = segment(image, threshold_model(), SegmentConfig(samples=3))
    assert (found.segmentation == whole.segmentation).mean() > 0.999


def test_test_time_augmentation_is_undone():
    image = textured(GRIDS["RAS"])
    plain = segment(image, threshold_model(), SegmentConfig(samples=3))
    turned = segment(image, threshold_model(), SegmentConfig(samples=8, tta=True))
    both = (plain.segmentation & turned.segmentation).sum() * 2 / (plain.segmentation.sum() + turned.segmentation.sum())
    assert both > 0.8 and len(turned.samples) == 8


@pytest.mark.parametrize(("model", "samples"), [("unet", 1), ("ensemble", 3), ("dropout", 5), ("probabilistic", 5)])
@pytest.mark.parametrize(("dimension", "network"), [(2, "light"), (3, "light"), (3, "fast")])
def test_every_model_draws_its_samples(model, samples, dimension, network):
    patch, members = ((16, 16, 1) if dimension == 2 else (16, 16, 8)), 3 if model == "ensemble" else 1
    description = ModelDescription(model, network, dimension, 1, ("background", "a", "b"), (0, 1, 2), (), patch, members=members)
    torch.manual_seed(0)
    networks = [build_network(description) for _ in range(members)]
    for name, weight in networks[0].named_parameters():
        if any(part in name for part in ("head", "combine", "last.1")):
            nn.init.normal_(weight)  # a new network is nearly indifferent
    image = Volume(np.random.default_rng(0).random((1, 20, 18, 1 if dimension == 2 else 9), dtype=np.float32), np.eye(4))
    config = SegmentConfig(samples=5, seed=3)
    model = SegmentationModel(description, networks)
    found, again = segment(image, model, config), segment(image, model, config)
    assert len(found.samples) == samples == count_samples(model, config)
    assert np.array_equal(found.samples, again.samples)  # the seed decides
    assert (samples == 1) == (not found.mutual_information.max() > 1e-4)


def test_windows_of_one_sample_fit_together():
    """A sample is drawn once for the whole image: in a uniform image all windows say the same."""
    description = ModelDescription("dropout", "light", 2, 1, ("background", "a"), (0, 1), (), (16, 16, 1))
    torch.manual_seed(1)
    model = SegmentationModel(description, [build_network(description).eval()])
    tile = np.random.default_rng(0).random((16, 16, 1), dtype=np.float32)
    from imagingai.uncertainty.segment import predict

    logits = predict(torch.from_numpy(np.tile(tile, (3, 1, 1)))[None, None], model, [1, 2], SegmentConfig(overlap=0.0))
    assert torch.allclose(logits[..., :16, :, :], logits[..., 16:32, :, :], atol=1e-5)
    assert not torch.allclose(logits[:, 0], logits[:, 1], atol=1e-3)


def test_only_dropout_is_random():
    """Nothing but the dropout layers is in training mode while samples are drawn."""
    description = ModelDescription("dropout", "light", 2, 1, ("background", "a"), (0, 1), (), (16, 16, 1))
    network = build_network(description).eval()
    network.sample(torch.rand(1, 1, 16, 16), [0, 1])
    assert not any(module.training for module in network.modules())
    assert torch.equal(*[network(torch.ones(1, 1, 16, 16).cumsum(-1)) for _ in range(2)])


def test_slices_of_two_kinds():
    image = Volume(np.random.default_rng(0).random((1, 20, 18, 1)), np.eye(4))
    with pytest.raises(InputError, match=r"The model works in 3-D and the image is 2-D \(20, 18, 1\)\. Choose a 2-D model or a volume\."):
        segment(image, threshold_model(3))


def test_another_number_of_channels():
    image = textured(GRIDS["RAS"])
    with pytest.raises(InputError, match=r"The model needs 1 channels and got 2\. Give --image, --image2 \.\.\. as in its training\."):
        segment([image, image], threshold_model())


def test_channels_on_other_grids():
    image = textured(GRIDS["RAS"])
    model = threshold_model()
    model = SegmentationModel(ModelDescription(**{**vars(model.description), "channels": 2}), model.networks)
    with pytest.raises(
        InputError, match=r"Channel 2 has \(40, 31, 16\) voxels on another grid than channel 1 \(30, 34, 28\)\. Resample it\."
    ):
        segment([image, textured(GRIDS["LPS"])], model)
    assert segment([image, resample_like(textured(GRIDS["LPS"]), image)], model, SegmentConfig(samples=1)).samples.shape[0] == 1


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinite"), (None, "constant: every voxel is 3")])
def test_images_that_hold_nothing(value, message):
    data = np.full((1, 16, 16, 16), 3.0, np.float32) if value is None else textured(GRIDS["RAS"]).data.copy()
    if value is not None:
        data[0, 3, 3, 3] = value
    with pytest.raises(InputError, match=message):
        segment(Volume(data, np.eye(4)), threshold_model())

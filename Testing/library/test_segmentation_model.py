"""Models in files: what is written is read; a broken or foreign file says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imagingai.errors import WeightsError
from imagingai.uncertainty.config import SegmentConfig
from imagingai.uncertainty.model import SHIPPED, ModelDescription, SegmentationModel, build_network, load_model, save_model
from imagingai.uncertainty.segment import segment
from imagingai.volume import Volume, load
from imagingai.weights import FOLDER

DATA = Path(__file__).parents[1] / "Data"


def new_model(kind="ensemble", network="light", members=2):
    description = ModelDescription(
        kind,
        network,
        2,
        1,
        ("background", "lesion"),
        (0, 4),
        (1.0, 1.0, 1.0),
        (32, 32, 1),
        members=members,
        domain={"mean": [0.5], "images": 9},
    )
    torch.manual_seed(0)
    return SegmentationModel(description, [build_network(description).eval() for _ in range(members)])


@pytest.mark.parametrize("kind", ["unet", "dropout", "ensemble", "probabilistic"])
@pytest.mark.parametrize("network", ["light", "fast"])
def test_a_model_comes_back_as_it_was(tmp_path, kind, network):
    model = new_model(kind, network, 2 if kind == "ensemble" else 1)
    save_model(tmp_path / "m.safetensors", model)
    again = load_model(tmp_path / "m.safetensors")
    assert again.description == model.description
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(again.sample(image, [0, 1]), model.sample(image, [0, 1]), atol=0.02)  # half precision


def test_models_can_be_told_apart(tmp_path):
    model = new_model()
    save_model(tmp_path / "m.safetensors", model)
    same, again = load_model(tmp_path / "m.safetensors").identity, load_model(tmp_path / "m.safetensors").identity
    model.networks[0].head.bias.data += 1
    assert same == again != model.identity


def test_the_temperature_flattens(tmp_path):
    model = new_model("unet", members=1)
    flat = SegmentationModel(ModelDescription(**{**vars(model.description), "temperature": 2.0}), model.networks)
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(flat.sample(image, [0]) * 2, model.sample(image, [0]))


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(WeightsError, match=r"There is no model .*none\.safetensors\. Train one with imagingai train-segmentation"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"holds no segmentation model\. Take a file that imagingai train-segmentation wrote\."):
        load_model(FOLDER / "general2d_ae.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(WeightsError, match=r"cannot be read .* Copy or download the file again\."):
        load_model(tmp_path / "broken.safetensors")


def test_a_model_is_no_feature_extractor(tmp_path):
    from imagingai.weights import load_weights

    save_model(tmp_path / "m.safetensors", new_model())
    with pytest.raises(WeightsError, match=r"holds no feature extractor\. Take a file that imagingai train-features wrote\."):
        load_weights(tmp_path / "m.safetensors")


def test_the_shipped_model_is_small_and_has_a_card():
    model = load_model()
    assert SHIPPED.stat().st_size < 4e6 and len(SHIPPED.with_suffix(".md").read_text()) > 500
    assert model.description.domain["images"] >= 20 and "hippocampus" in model.description.classes


def test_the_shipped_model_segments_a_real_brain():
    """Colin27 as it comes, and in another orientation: the same answer, and like the labels of another network."""
    image = load(DATA / "brain_moving.nii.gz")
    turned = Volume(np.flip(image.data.transpose(0, 3, 1, 2), 1), image.affine[:, [2, 0, 1, 3]] @ flip(image.shape[2]))
    config = SegmentConfig(samples=2)
    found, other = segment(image, load_model(), config), segment(turned, load_model(), config)
    back = np.flip(other.segmentation, 0).transpose(1, 2, 0)
    assert (back == found.segmentation).mean() > 0.999
    labels = load(DATA / "brain_moving_labels.nii.gz", label=True).data[0]
    for name, value in (("thalamus", 7), ("hippocampus", 14), ("cerebral white matter", 1)):
        a, b = found.segmentation == found.classes.index(name), labels == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.65


def flip(length: int) -> np.ndarray:
    """Index to index: the first axis the other way round."""
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = length - 1
    return matrix

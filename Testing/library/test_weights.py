"""Weights come back as they were saved, and what is wrong with a file is said in one sentence."""

from __future__ import annotations

import pytest
import torch

from imagingai.errors import WeightsError
from imagingai.networks import build
from imagingai.registration.features import extractor
from imagingai.weights import FOLDER, Description, load_weights, save_weights, shipped

DESCRIPTION = Description("light", "seg", 2, ("ground", "cell", "nucleus"), 0.0)


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "net.safetensors", build("light", "seg", 2, 3), DESCRIPTION)
    return tmp_path / "net.safetensors"


def test_a_network_comes_back(file):
    torch.manual_seed(0)
    network, (again, description) = build("light", "seg", 2, 3).eval(), load_weights(file)
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(network(image), again(image), atol=2e-2), "half precision"
    assert description == DESCRIPTION and not any(p.requires_grad for p in again.parameters())


def test_the_extractor_gives_levels_for_any_size_and_contrast(file):
    extract = extractor(str(file))
    image = torch.rand(1, 1, 45, 38)
    levels = extract(image)
    assert [tuple(level.shape[2:]) for level in levels] == [(48, 40), (24, 20), (12, 10), (6, 5)]
    for level, other in zip(levels, extract(700 * image + 3), strict=True):
        assert torch.allclose(level, other, atol=1e-3), "the scale of gray values does not matter"


def damage(file, where):
    content = bytearray(file.read_bytes())
    content[where] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "There are no weights"),
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "cannot be read"),
        (lambda file: file.write_text("hello"), "cannot be read"),
        (lambda file: damage(file, -100), "are damaged: their checksum does not fit. Copy or download the file again."),
    ],
)
def test_files_that_cannot_be_used(file, spoil, message):
    spoil(file)
    with pytest.raises(WeightsError) as error:
        load_weights(file)
    assert message in str(error.value)


def test_other_safetensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"holds no network of ImagingAI\. Take a file that imagingai has trained"):
        load_weights(tmp_path / "other.safetensors")


def test_an_extractor_for_another_dimension(file):
    with pytest.raises(WeightsError, match=r"are for 2-D images, not 3-D ones"):
        extractor(str(file))(torch.rand(1, 1, 16, 16, 16))


def test_shipped_weights_are_whole_small_and_have_a_card():
    names = shipped()
    assert names, "no weights are shipped"
    for name in names:
        network, description = load_weights(name)
        image = torch.rand(1, 1, *[32] * description.dimension)
        assert network(image).shape == (1, len(description.classes), *image.shape[2:])
        assert (FOLDER / f"{name}.md").exists()
    assert sum((FOLDER / f"{name}.safetensors").stat().st_size for name in names) < 40e6

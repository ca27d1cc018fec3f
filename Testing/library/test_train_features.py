"""Training of extractors: learns, resumes exactly, says what it cannot use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from imagingai.__main__ import main
from imagingai.errors import Cancelled
from imagingai.job import ignore
from imagingai.volume import Volume, save
from imagingai.weights import load_weights

SMALL = ["--batch", "2", "--patch", "32", "--every", "10", "--threads", "1"]


def test_random_shapes_are_learned_a_little(tmp_path):
    assert main(["train-features", "--steps", "40", *SMALL, "--output", f"{tmp_path}/net"]) == 0
    history = json.loads((tmp_path / "net" / "history.json").read_text())
    assert [figures["step"] for figures in history] == [10, 20, 30, 40]
    assert history[-1]["loss"] < history[0]["loss"]
    network, description = load_weights(tmp_path / "net" / "features.safetensors")
    assert description.kind == "seg" and network(torch.rand(1, 1, 32, 32)).shape == (1, 5, 32, 32)


def test_a_stopped_training_goes_on_exactly(tmp_path):
    """Cut after the first validation; the resumed run ends with the weights of an unbroken one."""
    from imagingai.features.config import TrainFeaturesConfig
    from imagingai.features.task import run

    def stop(fraction, text):
        if fraction > 0.6:
            raise Cancelled("stop")

    config, results = TrainFeaturesConfig(steps=20, batch=1, patch=(32,), every=10, threads=1), []
    for name, reports in (("whole", [ignore]), ("broken", [stop, ignore])):
        folder = tmp_path / name / "partial"
        folder.mkdir(parents=True)
        for report in reports:
            try:
                run({}, config, folder, report)
            except Cancelled:
                assert (tmp_path / name / "training" / "checkpoint.pt").exists()
        results.append(load_weights(folder / "features.safetensors")[0].state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.fixture
def folders(tmp_path):
    random = np.random.default_rng(0)
    for number in range(3):
        image = random.random((1, 40, 44, 1), dtype=np.float32)
        for name in ("images", "labels"):
            (tmp_path / name).mkdir(exist_ok=True)
        save(Volume(image, np.eye(4)), tmp_path / "images" / f"{number}.nii.gz")
        save(Volume((image > 0.5).astype(np.uint8), np.eye(4)), tmp_path / "labels" / f"{number}.nii.gz")
    return tmp_path


@pytest.mark.parametrize("more", [["--kind", "ae"], ["--labels", "{}/labels"]], ids=["auto-encoder", "segmentation"])
def test_a_folder_of_ones_own(folders, more):
    command = ["train-features", "--images", f"{folders}/images", *[text.format(folders) for text in more], "--steps", "4", *SMALL]
    assert main([*command, "--output", f"{folders}/net"]) == 0
    load_weights(folders / "net" / "features.safetensors")
    assert "Trained on" in (folders / "net" / "model_card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--images", "{}/images"],
            "--kind seg learns from labels: give --labels, a folder with files of the same names, or choose --kind ae.",
        ),
        (["--images", "{}", "--kind", "ae"], "holds no images (.nii.gz,"),
        (["--images", "{}/images", "--labels", "{}"], "holds no images (.nii.gz,"),
        (["--label-maps", "{}"], "holds no images (.nii.gz,"),
        (["--patch", "33"], "--patch 33 33: give one number, or 2, that are multiples of 8."),
    ],
)
def test_what_cannot_be_trained_on(folders, capsys, more, message):
    command = ["train-features", *[text.format(folders) for text in more], "--steps", "2", "--output", f"{folders}/net"]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (folders / "net" / "features.safetensors").exists()

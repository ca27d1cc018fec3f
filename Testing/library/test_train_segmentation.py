"""Training on several readers: learns, resumes exactly, gives each member its reader, says what it cannot use."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from disk import full_disk
from scipy.ndimage import gaussian_filter

from imagingai.__main__ import main
from imagingai.errors import Cancelled, InputError, WeightsError
from imagingai.job import ignore
from imagingai.uncertainty.config import TrainSegmentationConfig
from imagingai.uncertainty.model import load_model
from imagingai.uncertainty.training_task import find_source, train_files
from imagingai.volume import Volume, save

SMALL = ["--patch", "32", "--batch", "2", "--every", "30", "--threads", "1", "--network", "light"]


def write_case(folder, name, readers=("strict", "generous"), shape=(36, 40, 1)):
    """A bright disk on a noisy ground; strict draws it small, generous large, and a third reader draws nothing."""
    random = np.random.default_rng(int(name[-1]))
    x, y, z = np.indices(shape)
    center = random.uniform(12, 24, 2)
    distance = np.hypot(x - center[0], y - center[1]) + (0 if shape[2] == 1 else abs(z - shape[2] / 2))
    image = gaussian_filter(100.0 * (distance < 7), 1) + random.normal(0, 8, shape)
    (folder / "images").mkdir(exist_ok=True)
    save(Volume(image[None].astype(np.float32), np.eye(4)), folder / "images" / f"{name}.nii.gz")
    for reader, radius in {"strict": 6, "generous": 9, "none": -1}.items():
        if reader in readers:
            (folder / "labels" / reader).mkdir(parents=True, exist_ok=True)
            save(Volume((distance < radius)[None].astype(np.uint8) * 5, np.eye(4)), folder / "labels" / reader / f"{name}.nii.gz")


@pytest.fixture
def data(tmp_path):
    for number in range(5):
        write_case(tmp_path, f"case{number}")
    return tmp_path


def inputs_of(data):
    return {"images": data / "images", "labels": data / "labels"}


def test_the_command_trains_and_segment_uses_the_model(data):
    folders = ["--images", f"{data}/images", "--labels", f"{data}/labels"]
    assert main(["train-segmentation", *folders, *SMALL, "--steps", "60", "--names", "disk", "--output", f"{data}/net"]) == 0
    model = load_model(data / "net" / "model.safetensors")
    assert model.description.classes == ("background", "disk") and model.description.values == (0, 5)
    (history,) = json.loads((data / "net" / "history.json").read_text())
    assert history[-1]["loss_validation"] < history[0]["loss_validation"]
    assert (
        not (data / "net" / "training").exists()
        and "5 images with labels by 2 readers, 1 of them" in (data / "net" / "model_card.md").read_text()
    )
    more = ["--labels", f"{data}/labels/strict/case0.nii.gz", "--samples", "4", "--threads", "1", "--output", f"{data}/result"]
    assert main(["segment", "--image", f"{data}/images/case0.nii.gz", "--model", f"{data}/net/model.safetensors", *more]) == 0
    result = json.loads((data / "result" / "result.json").read_text())
    assert result["measured"]["dice_mean"] > 0.6 and set(result["volumes"]) == {"disk"}
    files = {
        "segmentation.nii.gz",
        "segmentation.csv",
        "probability_disk.nii.gz",
        "entropy.nii.gz",
        "sample_04.nii.gz",
        "volumes.csv",
        "report.html",
    }
    assert files <= set(result["outputs"])


@pytest.mark.parametrize("model", ["dropout", "ensemble", "probabilistic"])
def test_a_stopped_training_goes_on_exactly(data, model):
    """Cut in the middle; the resumed run ends with the weights of an unbroken one."""

    def stop(fraction, text):
        if fraction > 0.7:
            raise Cancelled("stop")

    config = TrainSegmentationConfig(model=model, steps=8, batch=1, patch=(32,), every=4, threads=1, members=2)
    results = []
    for name, reports in (("whole", [ignore]), ("broken", [stop, ignore])):
        folder = data / name / "partial"
        folder.mkdir(parents=True)
        for report in reports:
            try:
                train_files(inputs_of(data), config, folder, report)
            except Cancelled:
                assert (data / name / "training" / "member1" / "checkpoint.pt").exists()
        results.append([network.state_dict() for network in load_model(folder / "model.safetensors").networks])
    for one, other in zip(*results, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_each_member_of_an_ensemble_learns_its_reader(data):
    config = TrainSegmentationConfig(model="ensemble", patch=(32,), augmentation=0.0, flip=False, members=2)
    source, description, _ = find_source(inputs_of(data), config)
    assert source.readers == ("generous", "strict") and description.members == 2
    generous, strict = (source.training(reader) for reader in source.readers)
    for seed in range(5):
        (same, large), (image, small) = generous(seed), strict(seed)
        assert torch.equal(same, image) and (small <= large).all() and small.sum() < large.sum()


def test_a_view_depends_on_its_seed_only(data):
    source, *_ = find_source(inputs_of(data), TrainSegmentationConfig(patch=(32,)))
    draw = source.training(None)
    assert torch.equal(draw(7)[0], draw(7)[0]) and not torch.equal(draw(7)[0], draw(8)[0])


def test_volumes_are_learned_from_in_slices_or_whole(tmp_path):
    for number in range(3):
        write_case(tmp_path, f"case{number}", ("strict",), (34, 36, 18))
    for dimension, shape in ((2, (1, 32, 32)), (3, (1, 16, 16, 16))):
        config = TrainSegmentationConfig(dimension=dimension, patch=(32,) if dimension == 2 else (16,))
        source, description, _ = find_source(inputs_of(tmp_path), config)
        image, classes = source.training(None)(3)
        assert tuple(image.shape) == shape and tuple(classes.shape) == shape[1:] and description.dimension == dimension


def test_early_stopping(data):
    config = TrainSegmentationConfig(model="unet", steps=200, batch=1, patch=(16,), every=2, patience=2, learning_rate=0.5, threads=1)
    (data / "job" / "partial").mkdir(parents=True)
    result = train_files(inputs_of(data), config, data / "job" / "partial", ignore)
    history = json.loads((data / "job" / "partial" / "history.json").read_text())[0]
    assert len(history) < 60 and result["best"][0]["score"] == max(row["score"] for row in history)


def test_channels_of_a_case(tmp_path):
    for number in range(3):
        write_case(tmp_path, f"case{number}", ("strict",))
        image = tmp_path / "images" / f"case{number}.nii.gz"
        for channel in range(2):
            (tmp_path / "images" / f"case{number}_000{channel}.nii.gz").write_bytes(image.read_bytes())
        image.unlink()
    source, description, _ = find_source(inputs_of(tmp_path), TrainSegmentationConfig(patch=(32,)))
    assert description.channels == 2 and source.training(None)(0)[0].shape == (2, 32, 32)


def labels_of(data, reader="strict", case="case1"):
    return data / "labels" / reader / f"{case}.nii.gz"


def other_grid(data):
    save(Volume(np.ones((1, 20, 20, 1), np.uint8), np.eye(4)), labels_of(data))


def empty(data):
    for file in (data / "labels").rglob("*.nii.gz"):
        save(Volume(np.zeros((1, 36, 40, 1), np.uint8), np.eye(4)), file)


def fractions(data):
    save(Volume(np.full((1, 36, 40, 1), 0.5, np.float32), np.eye(4)), labels_of(data))


def one_image(data):
    for file in (data / "images").glob("case[1-9]*"):
        file.unlink()


def not_a_number(data):
    image = np.ones((1, 36, 40, 1), np.float32)
    image[0, 3, 3] = np.nan
    save(Volume(image, np.eye(4)), data / "images" / "case1.nii.gz")


def rare_structure(data):
    """The held-out case alone has the label 9."""
    labels = np.zeros((1, 36, 40, 1), np.uint8)
    labels[0, 5:9, 5:9] = 9
    save(Volume(labels, np.eye(4)), labels_of(data, case="case2"))


def volume_among_slices(data):
    save(Volume(np.random.default_rng(0).random((1, 36, 40, 8), dtype=np.float32), np.eye(4)), data / "images" / "case1.nii.gz")
    for reader in ("strict", "generous"):
        save(Volume(np.ones((1, 36, 40, 8), np.uint8), np.eye(4)), labels_of(data, reader))


def mixed_folder(data):
    save(Volume(np.ones((1, 36, 40, 1), np.uint8), np.eye(4)), data / "labels" / "case1.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_grid, r"case1\.nii\.gz \(20, 20, 1\) is on another grid than case1\.nii\.gz \(36, 40, 1\)\. Resample it onto the image"),
        (empty, r"The labels of all 5 images are empty: every voxel is 0\. Check that these are the right files\."),
        (fractions, r"holds 0\.5, which is not a whole number, so it is no label image"),
        (one_image, r"1 labeled image is not enough to train: at least one more is needed, which is held out to validate\."),
        (not_a_number, r"case1\.nii\.gz has \d+ voxels that are NaN or infinite"),
        (rare_structure, r"None of the 4 images to learn from has label 9: only images that are held out have it\."),
        (volume_among_slices, r"The images are 2-D and 3-D: train on one kind at a time\."),
        (mixed_folder, r"holds both label images and folders \(generous\)\. Put the labels of every reader into a folder\."),
    ],
)
def test_what_cannot_be_learned_from(data, spoil, message):
    spoil(data)
    with pytest.raises(InputError, match=message):
        find_source(inputs_of(data), TrainSegmentationConfig(patch=(32,)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("a", "b")}, r"--names has 2 names, and the labels have 1 values: \(5,\)\."),
        ({"names": ("Background",)}, r"Two structures have the name background: give every value a name of its own\."),
        ({"patch": (33,)}, r"--patch 33 33: give one number, or 2, that are multiples of 8\."),
        ({"dimension": 3}, r"--dimension 3 needs volumes, and the images are 2-D\. Leave it out\."),
    ],
)
def test_settings_that_do_not_fit(data, settings, message):
    with pytest.raises(InputError, match=message):
        find_source(inputs_of(data), TrainSegmentationConfig(**{"patch": (32,), **settings}))


def test_a_label_that_the_model_does_not_know(data):
    from imagingai.datasets import find_cases
    from imagingai.uncertainty.data import load_case

    _, description, _ = find_source(inputs_of(data), TrainSegmentationConfig(patch=(32,)))
    rare_structure(data)
    case = find_cases(data / "images", data / "labels")[2]
    with pytest.raises(InputError, match=r"case2\.nii\.gz has the label 9, which the model does not know: its labels are 0, 5\."):
        load_case(case, description)


def test_a_stopped_training_with_other_options_starts_anew(data):
    folder = data / "job" / "partial"
    folder.mkdir(parents=True)

    def stop(fraction, text):
        if fraction > 0.7:
            raise Cancelled("stop")

    config = TrainSegmentationConfig(model="unet", steps=4, batch=1, patch=(16,), every=2, threads=1)
    with pytest.raises(Cancelled):
        train_files(inputs_of(data), config, folder, stop)
    assert (data / "job" / "training" / "member1" / "checkpoint.pt").exists()
    result = train_files(inputs_of(data), replace(config, steps=2, seed=5), folder, ignore)
    assert result["best"][0]["step"] == 2  # a resumed one would have been past the end


def test_a_folder_of_the_user_is_not_touched(data):
    folder = data / "job" / "partial"
    folder.mkdir(parents=True)
    (data / "job" / "training").mkdir()
    (data / "job" / "training" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"training already exists, and the training keeps its state there\."):
        train_files(inputs_of(data), TrainSegmentationConfig(patch=(16,)), folder, ignore)
    assert (data / "job" / "training" / "thesis.txt").read_text() == "mine"


def test_a_file_in_the_way_is_told_before_the_training(data, monkeypatch):
    """Told afterwards, the training of hours would be lost."""
    folder = data / "job" / "partial"
    folder.mkdir(parents=True)
    (data / "job" / "model.safetensors").write_text("mine")
    monkeypatch.setattr("imagingai.uncertainty.training_task.train_model", lambda *a, **k: pytest.fail("it must be said before the work"))
    with pytest.raises(InputError, match=r"job already has model\.safetensors, which would be replaced\. Choose another output folder\."):
        train_files(inputs_of(data), TrainSegmentationConfig(patch=(16,)), folder, ignore)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    from imagingai.training import _save

    _save(tmp_path, {"state": {"history": []}, "network": {}})
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with full_disk(), pytest.raises(OSError, match="File too large"):  # which a job tells as a full disk
        _save(tmp_path, {"state": {"history": []}, "network": {"weights": torch.zeros(10_000)}})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "history.json"]


def test_one_image_is_always_left_to_learn_from(data):
    _, _, text = find_source(inputs_of(data), TrainSegmentationConfig(patch=(32,), held_out=0.9))
    assert "5 images with labels by 2 readers, 4 of them held out" in text
    _, _, text = find_source(inputs_of(data), TrainSegmentationConfig(patch=(32,), held_out=0.0))
    assert text == "5 images with labels by 2 readers, none of them held out"


def test_an_extractor_to_start_from(data):
    from imagingai.weights import FOLDER

    with pytest.raises(WeightsError, match=r"is a feature extractor; only --network fast can go on from one of size unet\."):
        train_files(
            {**inputs_of(data), "initial": FOLDER / "general2d_seg.safetensors"}, TrainSegmentationConfig(patch=(16,)), data, ignore
        )

"""Active learning: what is scored, who chooses what, rounds on files, a stop at any time, and what it says about bad input."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from imagingai.datasets import CaseFiles
from imagingai.errors import Cancelled, InputError
from imagingai.job import Job, run
from imagingai.uncertainty import active, train
from imagingai.uncertainty.active_task import native_slice, select_cases_files
from imagingai.uncertainty.config import SelectCasesConfig
from imagingai.uncertainty.data import Case
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, load_model
from imagingai.uncertainty.segment import Segmentation
from imagingai.volume import Volume, load, save

DISK = ModelDescription("dropout", "light", 2, 1, ("background", "disk"), (0, 1), (1.0, 1.0, 1.0), (32, 32, 1))
QUICK = {"steps": 2, "batch": 3, "patch": [32], "samples": 2, "count": 2, "threads": 1, "device": "cpu", "strategy": "entropy"}


# --- scores


def segmentation(samples: np.ndarray) -> Segmentation:
    """From the probability of the disk in each sample, (S, X, Y, Z)."""
    both = np.stack([1 - samples, samples], 1).astype(np.float32)
    entropies = -np.where(both > 0, both * np.log2(np.where(both > 0, both, 1)), 0).sum(1)
    image, hard = Volume.from_array(np.zeros(samples.shape[1:], np.float32)), (samples > 0.5).astype(np.uint8)
    return Segmentation(image, DISK.classes, DISK.values, both.mean(0), hard[0], entropies.mean(0).astype(np.float32), hard)


def test_the_sum_of_the_pixel_entropies():
    known, torn, noisy = np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 1))
    torn[1, 1, :3] = 1  # three voxels on which the samples contradict each other
    noisy[:, 2, :2] = 0.5  # two voxels on which every sample is in doubt
    assert [active.score("entropy", segmentation(s)) for s in (known, torn, noisy)] == pytest.approx([0, 3, 2], abs=1e-5)
    assert [active.score("mutual_information", segmentation(s)) for s in (known, torn, noisy)] == pytest.approx([0, 3, 0], abs=1e-5)
    assert [active.score("diversity", segmentation(s)) for s in (known, torn, noisy)] == pytest.approx([0, 0.5, 0])


@pytest.mark.parametrize("strategy", ["entropy", "mutual_information", "diversity"])
def test_the_slice_that_tells_most(strategy):
    samples = np.zeros((2, 4, 4, 3))
    samples[:, 1:3, 1:3, 0] = 1  # certain
    samples[1, 1:3, 1:3, 2] = 1
    assert active.score_slices(strategy, segmentation(samples)) == pytest.approx([0, 0, 0.5 if strategy == "diversity" else 4], abs=1e-5)


def test_chance_follows_the_seed_and_the_round():
    names = ["a", "b", "c", "d"]
    assert active.random_scores(names, 0, 1) == active.random_scores(names[::-1], 0, 1)
    assert len({tuple(active.random_scores(names, seed, number).values()) for seed in (0, 1) for number in (1, 2)}) == 4


class Threshold(nn.Module):
    """Bright voxels are disk, each with probability 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def sample(self, image, seeds):
        disk = torch.where(image > 0.5, 0.9, 0.1)
        return torch.cat([1 - disk, disk], 1).log()[:, None].expand(-1, len(seeds), -1, -1, -1)


def test_dice_and_likelihood_of_a_known_model():
    image = np.zeros((1, 32, 32, 1), np.float32)
    image[0, 8:16, 8:16] = 1
    right, half = image.astype(np.uint8), np.zeros_like(image, np.uint8)
    half[0, 8:12, 8:16] = 1
    case = Case("case", image, np.concatenate([right, half]), ("ann", "bob"))
    found = active.measure_case(case, SegmentationModel(DISK, [Threshold()]), SelectCasesConfig(samples=2, device="cpu"))
    assert found["dice"] == {"disk": pytest.approx((1 + 2 / 3) / 2)}
    wrong = 32 / 1024 / 2  # share of the voxels of both readers
    assert found["nll"] == pytest.approx(-(1 - wrong) * np.log(0.9) - wrong * np.log(0.1), rel=1e-5)


# --- who chooses what


def test_labeled_cases_are_never_chosen():
    scores = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}
    assert active.choose(scores, 2) == ["b", "d"]
    assert active.choose(scores, 3, taken=["b"]) == ["d", "c", "a"]


def test_the_arms_take_turns_and_both_get_as_many():
    scores = {name: float(k) for k, name in enumerate("abcdef")}
    arms = {"entropy": scores, "random": scores}  # both want the same
    assert active.draft(arms, 2, first=0) == {"entropy": ["f", "c"], "random": ["e", "d"]}
    assert active.draft(arms, 2, first=1) == {"entropy": ["e", "d"], "random": ["f", "c"]}
    few = {"a": 1.0, "b": 2.0, "c": 3.0}
    chosen = active.draft({"entropy": few, "random": few}, 2)
    assert [len(cases) for cases in chosen.values()] == [2, 2] and set(chosen["entropy"] + chosen["random"]) == set(few)
    assert [len(cases) for cases in active.draft({"entropy": few, "random": few}, 9).values()] == [3, 3]
    assert active.draft({"entropy": {}, "random": {}}, 2) == {"entropy": [], "random": []}


# --- rounds on files


def write_disks(images: Path, labels: Path, names: str, labeled: str) -> None:
    """Noisy disks of 32 x 32 pixels, one for each letter, with labels of some of them."""
    for folder in (images, labels):
        folder.mkdir(exist_ok=True)
    for name in names:
        random = np.random.default_rng(ord(name))
        x, y = np.indices((32, 32)) - random.uniform(12, 20, (2, 1, 1))
        disk = x**2 + y**2 < random.uniform(4, 9) ** 2
        save(Volume.from_array((100 * disk + random.normal(0, 20, disk.shape)).astype(np.float32)), images / f"{name}.nii.gz")
        if name in labeled:
            save(Volume.from_array(disk.astype(np.uint8)), labels / f"{name}.nii.gz")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Inputs of a campaign: images a to h, of which a and b are labeled, and two that validate."""
    monkeypatch.setitem(train.VIEWS, 2, 2)  # fewer views after a training: quicker
    write_disks(tmp_path / "images", tmp_path / "labels", "abcdefgh", "ab")
    write_disks(tmp_path / "validation_images", tmp_path / "validation_labels", "yz", "yz")
    return {name: tmp_path / name for name in ("images", "labels", "validation_images", "validation_labels")}


def play(folder: Path, inputs: dict, **options) -> dict:
    """Run the task as the command line does."""
    Job("select-cases", {name: str(path) for name, path in inputs.items()}, QUICK | options).write(folder)
    return run(folder)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "next.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def label(inputs: dict, names: str) -> None:
    write_disks(inputs["images"], inputs["labels"], "", "")
    write_disks(inputs["images"], inputs["labels"], names, names)


def test_a_campaign_until_all_images_are_labeled(folders, tmp_path):
    labeled, previous = {"a", "b"}, {}
    for number, left in ((1, 6), (2, 2), (3, 0)):
        out = tmp_path / f"round{number}"
        result = play(out, folders | previous)
        rows, campaign = rows_of(out), json.loads((out / "campaign.json").read_text())
        chosen = [row["case"] for row in rows]
        assert not set(chosen) & labeled, "labeled images are never chosen again"
        assert len(chosen) == 2 * min(2, left) and len(set(chosen)) == min(4, left)
        assert all(len(curve) == number for curve in campaign["curves"].values())
        sizes = {arm: curve[-1]["labeled"] for arm, curve in campaign["curves"].items()}
        assert sizes == dict.fromkeys(("entropy", "random"), 2 * number)
        labeled |= set(chosen)
        label(folders, "".join(set(chosen)))
        previous = {"previous": out}
    first, *later = zip(*campaign["curves"].values(), strict=True)
    assert first[0] == first[1], "both sides begin with the same model"
    assert all(a["nll"] != b["nll"] for a, b in later), "then each learns from its own choice"
    assert rows == [] and result["message"].startswith("All 8 images are labeled")


def test_the_files_of_a_round(folders, tmp_path):
    result = play(tmp_path / "out", folders)
    assert result["outputs"] == ["campaign.json", "curves.png", "model.safetensors", "next.csv", "report.html"]
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == ["case", "arm", "rank", "score", "file", "slice"]
    assert [(row["arm"], row["rank"]) for row in rows] == [("entropy", "1"), ("entropy", "2"), ("random", "1"), ("random", "2")]
    assert all(row["file"] == f"{row['case']}.nii.gz" and row["slice"] == "" for row in rows)
    assert load_model(tmp_path / "out" / "model.safetensors").description.classes == ("background", "label 1")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "did not beat choosing at random" in page and page.count("data:image/png;base64,") == 1
    assert all(f">{row['case']}</th>" in page for row in rows) and not re.search(r"https?://", page)
    assert "entropy Dice" in result["table"] and not (tmp_path / "out" / "training").exists()


class Watch:
    """A report that keeps what was said, and stops the task when it says `stop`."""

    def __init__(self, stop: str = "never") -> None:
        self.stop, self.said = stop, ""

    def __call__(self, fraction: float, text: str) -> None:
        self.said += f"{text}\n"
        if self.stop in text:
            raise Cancelled(text)


def test_a_stop_at_any_time_loses_nothing(folders, tmp_path):
    config = SelectCasesConfig(**QUICK | {"patch": (32,), "every": 1})
    whole, pieces = (tmp_path / name / ".partial" for name in ("whole", "pieces"))
    for folder in (whole, pieces):
        folder.mkdir(parents=True)
    select_cases_files(folders, config, whole, Watch())
    for stop in ("entropy: Step 1 of 2", "Measuring z", "Scoring e"):
        with pytest.raises(Cancelled, match=stop):
            select_cases_files(folders, config, pieces, Watch(stop))
    last = Watch()
    select_cases_files(folders, config, pieces, last)
    assert "Step" not in last.said and last.said.count("Scoring d") == 1 < last.said.count("Scoring f"), "went on where it was stopped"
    for name in ("campaign.json", "next.csv", "model.safetensors"):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()


def test_what_was_not_asked_for_counts_for_both_sides(folders, tmp_path):
    play(tmp_path / "round1", folders)
    chosen = {row["case"] for row in rows_of(tmp_path / "round1")}
    label(folders, "abcdefgh")
    result = play(tmp_path / "round2", folders | {"previous": tmp_path / "round1"})
    sides = json.loads((tmp_path / "round2" / "campaign.json").read_text())["labeled"]
    extra = set("abcdefgh") - chosen
    assert set(sides["entropy"]) & set(sides["random"]) == extra and result["measured"]["random"]["labeled"] == 6


def test_chance_alone_has_one_side(folders, tmp_path):
    result = play(tmp_path / "out", folders, strategy="random")
    assert {row["arm"] for row in rows_of(tmp_path / "out")} == {"random"} and list(result["measured"]) == ["random"]


def test_another_round_does_not_go_on_from_a_stopped_one(folders, tmp_path):
    config = SelectCasesConfig(**QUICK | {"patch": (32,)})
    (tmp_path / "out" / ".partial").mkdir(parents=True)
    with pytest.raises(Cancelled):
        select_cases_files(folders, config, tmp_path / "out" / ".partial", Watch("Scoring"))
    label(folders, "h")
    again = Watch()
    select_cases_files(folders, config, tmp_path / "out" / ".partial", again)
    assert "Step 1 of 2" in again.said, "trained anew, now also on h"


def test_slices_of_volumes_are_counted_as_in_the_file(folders, tmp_path):
    thick = np.zeros((1, 3, 32, 32), np.float32)
    thick[0, 1] = 1 + (np.indices((32, 32))[0] > 12)
    for images, labels, names, labeled in (("images", "labels", "abcdefgh", "ab"), ("validation_images", "validation_labels", "yz", "yz")):
        for name in names:
            save(Volume(thick, np.diag([5.0, 1, 1, 1])), folders[images] / f"{name}.nii.gz")
        for name in labeled:
            save(Volume((thick == 2).astype(np.uint8), np.diag([5.0, 1, 1, 1])), folders[labels] / f"{name}.nii.gz")
    play(tmp_path / "out", folders, dimension=2)
    rows = rows_of(tmp_path / "out")
    assert all(re.fullmatch("i [0-2]", row["slice"]) for row in rows if row["arm"] == "entropy")
    assert not any(row["slice"] for row in rows if row["arm"] == "random")


def test_a_slice_of_the_model_in_the_file(tmp_path):
    flipped = np.array([[0, 0, 1, 0], [-5, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])  # i runs to the back in steps of 5 mm
    save(Volume(np.zeros((1, 6, 8, 8), np.float32), flipped), tmp_path / "x.nii.gz")
    assert native_slice(CaseFiles("x", (tmp_path / "x.nii.gz",)), 1, DISK) == "i 4"


# --- what it says about bad input


@pytest.fixture
def second(folders, tmp_path):
    """Inputs of a second round: a campaign whose only round chose c and d, and e and f by chance, which are labeled."""
    row = {"round": 1, "labeled": 2, "score": 0.5, "dice": {"label 1": 0.5}, "nll": 0.6}
    campaign = {
        "config": QUICK,
        "grid": {"dimension": 2, "spacing": [1, 1, 1], "intensity": "robust"},
        "validation": ["y", "z"],
        "labeled": {"entropy": ["a", "b"], "random": ["a", "b"]},
        "next": {"entropy": ["c", "d"], "random": ["e", "f"]},
        "curves": {"entropy": [row], "random": [row]},
        "version": 1,
    }
    (tmp_path / "round1").mkdir()
    (tmp_path / "round1" / "campaign.json").write_text(json.dumps(campaign))
    label(folders, "abcdef")
    return folders | {"previous": tmp_path / "round1"}


def test_chosen_cases_must_be_labeled_first(second, tmp_path):
    for name in "cdef":
        (second["labels"] / f"{name}.nii.gz").unlink()
    with pytest.raises(InputError, match=r"4 of the cases of the round before have no labels yet: c, d, e, f\. Put their labels into"):
        play(tmp_path / "out", second)
    (second["labels"] / "b.nii.gz").unlink()
    (second["labels"] / "a.nii.gz").rename(second["labels"] / "g.nii.gz")
    with pytest.raises(InputError, match=r"6 of the cases .* yet: a, b, c, d, e and 1 more"):
        play(tmp_path / "out", second)


def test_rounds_must_be_comparable(second, tmp_path):
    with pytest.raises(InputError, match="--steps is 3 and was 2 in the rounds before"):
        play(tmp_path / "out", second, steps=3)
    with pytest.raises(InputError, match="--strategy is diversity and was entropy"):
        play(tmp_path / "out", second, strategy="diversity")
    (second["validation_labels"] / "z.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labeled validation images are not those of .*round1: z is in one of both only"):
        play(tmp_path / "out", second)


def test_the_images_must_be_those_of_the_campaign(second, tmp_path):
    for kind in ("images", "labels"):
        (second[kind] / "c.nii.gz").rename(second[kind] / "w.nii.gz")
    with pytest.raises(InputError, match=r"--images lacks c of .*round1"):
        play(tmp_path / "out", second)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no campaign.json"),
        ("{", "cannot be read"),
        ('{"version": 1}', "is no campaign of this version"),
        ("[]", "is no campaign"),
    ],
)
def test_a_previous_round_that_is_none(second, tmp_path, content, message):
    file = second["previous"] / "campaign.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=message):
        play(tmp_path / "out", second)


def test_a_structure_that_one_side_lacks_is_its_own_fault(second, tmp_path):
    rare = load(second["labels"] / "c.nii.gz", label=True)  # c is of the strategy only
    rare.data[0, :3, :3] = 2
    save(rare, second["labels"] / "c.nii.gz")
    result = play(tmp_path / "out", second)
    assert set(result["measured"]["random"]["dice"]) == {"label 1", "label 2"}
    assert result["measured"]["random"]["dice"]["label 2"] is None, "the validation images lack it too"


def test_a_structure_of_the_validation_images_only(folders, tmp_path):
    rare = load(folders["validation_labels"] / "y.nii.gz", label=True)
    rare.data[0, :3, :3] = 7
    save(rare, folders["validation_labels"] / "y.nii.gz")
    with pytest.raises(InputError, match="None of the 2 labeled images has label 7, which the validation images have"):
        play(tmp_path / "out", folders)


def test_validation_images_must_be_others(folders, tmp_path):
    with pytest.raises(InputError, match="--images and --validation-images are the same folder"):
        play(tmp_path / "out", folders | {"validation_images": folders["images"], "validation_labels": folders["labels"]})


def test_a_folder_of_the_user_is_not_taken_for_the_state(folders, tmp_path):
    own = tmp_path / "out" / "training" / "precious.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(InputError, match="training already exists, and the training keeps its state there"):
        play(tmp_path / "out", folders)
    assert own.read_text() == "mine"


def test_one_sample_cannot_disagree():
    with pytest.raises(InputError, match="--model unet has one sample only, so --strategy diversity is 0 everywhere"):
        SelectCasesConfig(model="unet", strategy="diversity")

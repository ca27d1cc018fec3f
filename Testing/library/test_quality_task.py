"""learn-quality and check-quality with files: from folders of images to quality.json and a queue."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imagingai.errors import InputError
from imagingai.job import Job, run
from imagingai.uncertainty import quality_task, queue
from imagingai.uncertainty.config import LearnQualityConfig
from imagingai.uncertainty.model import ModelDescription, SegmentationModel, build_network, save_model
from imagingai.uncertainty.quality import load_quality
from imagingai.uncertainty.segment import Segmentation
from imagingai.volume import Volume, save

DESCRIPTION = ModelDescription("unet", "light", 2, 1, ("background", "Ball"), (0, 3), (1.0, 1.0, 1.0), (32, 32, 1))


def disk(seed: int) -> tuple[Volume, Volume]:
    """A noisy picture of a disk, and its label 3."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(*[np.arange(32) - 15.5] * 2, indexing="ij")
    inside = np.hypot(x, y) < 8 + random.standard_normal()
    image = gaussian_filter(inside * 100.0, 0.7) + 5 * random.standard_normal(inside.shape)
    return Volume.from_array(image.astype(np.float32)), Volume.from_array(3 * inside.astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Six labeled images, and an untrained model."""
    for seed in range(6):
        for kind, volume in zip(("images", "labels"), disk(seed), strict=True):
            (tmp_path / kind).mkdir(exist_ok=True)
            save(volume, tmp_path / kind / f"case{seed}.nii.gz")
    save_model(tmp_path / "model.safetensors", SegmentationModel(DESCRIPTION, [build_network(DESCRIPTION)]))
    return tmp_path


def threshold(channels, model, config, *, report) -> Segmentation:
    """Stands in for a network that has learned: soft thresholds of the image."""
    report(0.5, "Sample")
    low, high = np.percentile(channels[0].data, (5, 95))
    x = (channels[0].data[0] - low) / (high - low)
    soft = [1 / (1 + np.exp(-20 * (x - level))) for level in np.linspace(0.35, 0.65, 8)]
    inside = np.mean(soft, 0).astype(np.float32)
    found = (inside > 0.5).astype(np.uint8)
    samples = (np.array(soft) > 0.5).astype(np.uint8)
    return Segmentation(channels[0], DESCRIPTION.classes, DESCRIPTION.values, np.stack([1 - inside, inside]), found, 0 * inside, samples)


@pytest.fixture
def learned(folder, monkeypatch):
    monkeypatch.setattr(quality_task, "segment", threshold)
    inputs = {"images": folder / "images", "labels": folder / "labels", "model": folder / "model.safetensors"}
    (folder / "quality").mkdir()
    seen = []
    found = quality_task.learn_quality_files(
        inputs, LearnQualityConfig(threads=1, device="cpu"), folder / "quality", lambda fraction, text: seen.append((fraction, text))
    )
    return folder / "quality", found, seen


def test_quality_is_learned_from_folders(learned):
    folder, found, seen = learned
    quality = load_quality(folder / "quality.json", found["model"])
    assert quality.controls == found["controls"] == 6 and quality.present == {"Ball": 1.0}
    assert [case["name"] for case in quality.cases] == [f"case{k}" for k in range(6)]
    assert min(case["dice"]["Ball"] for case in quality.cases) > 0.9
    assert 0 < found["measured"]["mean_absolute_error"] < 0.1
    assert np.exp(quality.volumes["Ball"][0]) == pytest.approx(np.pi * 8**2 / 1000, rel=0.2)
    assert "case3" in (text := " ".join(text for _, text in seen)) and "its image spoiled" in text
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    json.dumps(found)


def test_the_calibration_is_measured_on_other_cases(learned):
    _, found, _ = learned
    assert 0.05 < found["calibration"]["temperature"] < 20
    assert found["calibration"]["ece_after"] < found["calibration"]["ece_before"] + 0.02
    page = (learned[0] / "report.html").read_text(encoding="utf-8")
    assert "What is normal" in page and "Ball" in page


def test_one_case_is_too_few(folder):
    for seed in range(1, 6):
        (folder / "images" / f"case{seed}.nii.gz").unlink()
    inputs = {"images": folder / "images", "labels": folder / "labels", "model": folder / "model.safetensors"}
    with pytest.raises(InputError, match=r"has 1 labeled image, too few to learn what is normal: give 5 or more, better 20"):
        quality_task.learn_quality_files(inputs, LearnQualityConfig(), folder, lambda fraction, text: None)


def test_a_label_that_the_model_does_not_know_is_told(folder, monkeypatch):
    monkeypatch.setattr(quality_task, "segment", threshold)
    save(disk(0)[1].with_data(7 * (disk(0)[1].data > 0).astype(np.uint8)), folder / "labels" / "case2.nii.gz")
    inputs = {"images": folder / "images", "labels": folder / "labels", "model": folder / "model.safetensors"}
    with pytest.raises(InputError, match=r"case2\.nii\.gz has the label 7"):
        quality_task.learn_quality_files(inputs, LearnQualityConfig(threads=1, device="cpu"), folder, lambda fraction, text: None)


# --- the cohort


def cohort(folder: Path) -> Path:
    """Three results of segment, one of them failed."""
    for name, values in {
        "anna": {"state": "done", "quality": {"light": "good", "reasons": ["Fine."], "predicted_dice": {"Ball": {"dice": 0.95}}}},
        "bert": {"state": "done", "quality": {"light": "look", "reasons": ["Noisy."], "predicted_dice": {"Ball": {"dice": 0.8}}}},
        "clara": {"state": "failed", "error": "The image is constant."},
    }.items():
        (folder / name).mkdir(parents=True)
        job = {"task": "segment", "inputs": {}, "config": {}}
        (folder / name / "job.json").write_text(json.dumps(job))
        (folder / name / "result.json").write_text(json.dumps(values | {"job": job, "started": "2025-01-01", "model": "m"}))
    return folder


def test_a_cohort_is_sorted_and_decisions_last(tmp_path):
    results, output = cohort(tmp_path / "results"), tmp_path / "queue"
    Job("check-quality", {"results": str(results)}, {"title": "My cohort"}).write(output)
    found = run(output)
    assert (found["cases"], found["lights"], found["decided"]) == (3, {"bad": 1, "look": 1, "good": 1}, 0)
    with (output / "queue.csv").open(encoding="utf-8", newline="") as lines:
        assert [(row["case"], row["light"]) for row in csv.DictReader(lines)] == [("clara", "bad"), ("bert", "look"), ("anna", "good")]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "My cohort" in page and "It failed: The image is constant." in page
    queue.decide(output / "queue.csv", "bert", "accept", "me")
    assert run(output)["decided"] == 1, "the same folder again"
    other = tmp_path / "other"
    Job("check-quality", {"results": str(results), "previous": str(output / "queue.csv")}, {}).write(other)
    assert run(other)["decided"] == 1, "another folder, with --previous"
    assert next(row for row in queue.read(other / "queue.csv") if row["case"] == "bert")["reader"] == "me"


def test_a_queue_may_lie_among_the_results(tmp_path):
    results = cohort(tmp_path / "results")
    for _ in range(2):
        Job("check-quality", {"results": str(results)}, {}).write(results / "queue")
        assert run(results / "queue")["cases"] == 3


def test_a_folder_without_results_or_a_broken_queue_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    Job("check-quality", {"results": str(tmp_path / "empty")}, {}).write(tmp_path / "out")
    with pytest.raises(InputError, match="holds no result of segment"):
        run(tmp_path / "out")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    inputs = {"results": str(cohort(tmp_path / "results")), "previous": str(tmp_path / "wrong.csv")}
    Job("check-quality", inputs, {}).write(tmp_path / "out")
    with pytest.raises(InputError, match="has no column case"):
        run(tmp_path / "out")

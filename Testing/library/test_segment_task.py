"""`imagingai segment` with files: every input and output, cancel, bad input. The network is a soft threshold of known answer."""

from __future__ import annotations

import csv
import json

import numpy as np
import pydicom
import pytest
from grids import GRIDS, placed, textured
from test_dicom import write_series
from test_segment import threshold_model

from imagingai.errors import Cancelled, InputError
from imagingai.job import Job, run
from imagingai.uncertainty import task
from imagingai.uncertainty.evaluate import read_readers
from imagingai.uncertainty.segment import segment
from imagingai.volume import Volume, load, save


@pytest.fixture
def known(monkeypatch):
    """The threshold instead of the model of a file."""
    monkeypatch.setattr(task, "load_model", lambda path=None: threshold_model())


@pytest.fixture
def image(tmp_path):
    save(textured(GRIDS["oblique"]), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


def result_of(folder, inputs, **config):
    Job("segment", {name: str(path) for name, path in inputs.items()}, {"samples": 3, "threads": 1, **config}).write(folder)
    return run(folder)


def test_files_lie_on_the_grid_of_the_image(known, image, tmp_path):
    result = result_of(tmp_path / "result", {"image": image})
    reference = load(image)
    maps = ("segmentation", "probability_bright", "entropy", "mutual_information", "expected_entropy", "border_band", "sample_03")
    for name in maps:
        found = load(tmp_path / "result" / f"{name}.nii.gz")
        assert found.shape == reference.shape and np.allclose(found.affine, reference.affine, atol=1e-4)
    assert set(np.unique(load(tmp_path / "result" / "segmentation.nii.gz").data)) == {0, 7}
    with (tmp_path / "result" / "segmentation.csv").open() as file:
        assert list(csv.reader(file)) == [["value", "name"], ["7", "bright"]]
    volume = result["volumes"]["bright"]
    assert volume["low"] <= volume["ml"] <= volume["high"] and volume["low"] < volume["high"]
    voxel_ml = abs(np.linalg.det(reference.affine[:3, :3])) / 1000
    assert volume["samples"][2] == pytest.approx((load(tmp_path / "result" / "sample_03.nii.gz").data > 0).sum() * voxel_ml)
    assert "bright" in result["table"] and "look at it" in result["table"]  # nothing is known about the training


def test_one_sample_spans_no_interval(known, image, tmp_path):
    row = result_of(tmp_path / "result", {"image": image}, samples=1)["table"].splitlines()[1]
    assert row.split()[2] == "-"


def test_only_what_is_asked_for_is_written(known, image, tmp_path):
    result = result_of(tmp_path / "result", {"image": image}, outputs=["entropy"])
    assert result["outputs"] == ["entropy.nii.gz"]


def test_readers_are_compared_by_name_or_by_value(known, image, tmp_path):
    truth = segment(load(image), threshold_model()).segmentation
    (tmp_path / "readers").mkdir()
    for reader, value in (("anna", 7), ("bert", 1)):  # bert's program has given the value 1
        save(load(image).with_data(truth * np.uint8(value)), tmp_path / "readers" / f"{reader}.nii.gz")
    (tmp_path / "readers" / "bert.csv").write_text("value,name\n1,Bright\n")
    result = result_of(tmp_path / "result", {"image": image, "labels": tmp_path / "readers"}, samples=16)
    measured = result["measured"]
    assert measured["dice_by_reader"]["anna"] == measured["dice_by_reader"]["bert"] and measured["dice"]["bright"] > 0.97
    assert measured["reader_diversity"] == 0 and 0 < measured["ged"] < 0.2


def test_a_label_that_the_model_does_not_have(known, image, tmp_path):
    save(load(image).with_data(np.full(GRIDS["oblique"].shape, 3, np.uint8)), tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match=r"labels\.nii\.gz has the label 3, which the model does not know: its labels are 0, 7\."):
        read_readers(tmp_path / "labels.nii.gz", load(image), threshold_model().description)


def test_labels_on_another_grid(known, image, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "segment", lambda *a, **k: pytest.fail("it must be said before the work"))
    save(Volume(np.ones((1, 5, 5, 5), np.uint8), np.eye(4)), tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match=r"labels\.nii\.gz \(5, 5, 5\) is on another grid than the image \(28, 36, 22\)"):
        result_of(tmp_path / "result", {"image": image, "labels": tmp_path / "labels.nii.gz"})


def test_dicom_of_a_dicom_folder(known, tmp_path):
    write_series(tmp_path / "series", placed((20, 18, 16), np.diag([-1.0, -1.0, 1.0]), (2.0, 2.0, 3.0)))
    result = result_of(tmp_path / "result", {"image": tmp_path / "series"}, dicom=True)
    assert {"segmentation.dcm", "fractional.dcm", "entropy.dcm"} <= set(result["outputs"])
    written = pydicom.dcmread(tmp_path / "result" / "segmentation.dcm")
    assert written.PatientID == "17" and written.SegmentSequence[0].SegmentLabel == "bright"


def test_dicom_needs_a_series(known, image, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "segment", lambda *a, **k: pytest.fail("it must be said before the work"))
    with pytest.raises(InputError, match="series"):
        result_of(tmp_path / "result", {"image": image}, dicom=True)


def test_atlases_need_labels(known, image, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "segment", lambda *a, **k: pytest.fail("it must be said before the work"))
    (tmp_path / "atlases").mkdir()
    with pytest.raises(InputError, match=r"--atlas-images needs --atlas-labels: the folder of their labels\."):
        result_of(tmp_path / "result", {"image": image, "atlas_images": tmp_path / "atlases"})


def test_a_stop_between_samples_leaves_nothing(known, image, tmp_path):
    folder = tmp_path / "result"
    Job("segment", {"image": str(image)}, {"samples": 3}).write(folder)

    def stop(fraction, text):
        if "Sample 2" in text:
            (folder / "cancel").touch()

    with pytest.raises(Cancelled):
        run(folder, stop)
    assert sorted(file.name for file in folder.iterdir()) == ["cancel", "job.json", "result.json"]
    assert json.loads((folder / "result.json").read_text())["state"] == "cancelled"


def test_names_become_files():
    assert task.slugs(["background", "Left ear", "left-ear", "Öhr", "?"]) == ["background", "left_ear_1", "left_ear_2", "öhr", "structure"]


def test_a_file_of_the_user_is_seen_before_the_work(known, image, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "segment", lambda *a, **k: pytest.fail("it must be said before the work"))
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "segmentation.nii.gz").write_text("drawn by hand")
    with pytest.raises(InputError, match=r"already has segmentation\.nii\.gz, which would be replaced\. Choose another output folder\."):
        result_of(tmp_path / "result", {"image": image})
    assert (tmp_path / "result" / "segmentation.nii.gz").read_text() == "drawn by hand"

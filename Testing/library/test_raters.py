"""compare-raters: the numbers by hand, the files, the page, and what it says about readers that cannot be compared."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from grids import GRIDS

from imagingai.errors import InputError
from imagingai.job import Job, run
from imagingai.uncertainty import measures
from imagingai.uncertainty.config import CompareRatersConfig
from imagingai.uncertainty.raters_task import compare_raters, read_readers
from imagingai.volume import Volume, load, save

SLICE = Volume(np.zeros((1, 20, 16, 1), np.uint8), np.diag([0.5, 0.5, 2.0, 1.0]))


def write(folder, name: str, grid: Volume, *rows: tuple[int, int, int]):
    """A label image; rows: (first, end, value) of a bar that is 6 voxels wide."""
    folder.mkdir(parents=True, exist_ok=True)
    data = np.zeros(grid.shape, np.uint8)
    for first, end, value in rows:
        data[first:end, 4:10] = value
    save(grid.with_data(data), folder / name)


@pytest.fixture(params=["slice.png", "slice.nii.gz", "volume.nii.gz"])
def readers(request, tmp_path):
    """Three readers: rows 4 to 7, rows 4 to 9, nothing."""
    kind, ending = request.param.split(".", 1)
    grid = SLICE if kind == "slice" else GRIDS["oblique"]
    for name, rows in (("ann", [(4, 8, 3)]), ("bob", [(4, 10, 3)]), ("eve", [])):
        write(tmp_path / "readers", f"{name}.{ending}", grid, *rows)
    return tmp_path / "readers"


def compare(folder, **inputs):
    """Run the task, as the command line does."""
    Job("compare-raters", {name: str(path) for name, path in inputs.items()}, {"samples": 4}).write(folder)
    return run(folder)


def test_readers_by_hand(readers, tmp_path):
    result = compare(tmp_path / "out", labels=readers)
    assert result["readers"] == ["ann", "bob", "eve"] and result["structures"] == {"label 3": 3}
    dice = result["dice"]["label 3"]
    assert result["dice_mean"] == dice and dice[0][1] == pytest.approx(0.8) and dice[0][2] == 0 and dice[2][2] is None
    assert result["summary"]["dice"] == pytest.approx(0.8 / 3) == result["pair_dice"]["label 3"]
    assert result["summary"]["unanimous_percent"] == 0
    assert result["summary"]["diversity"] == pytest.approx(2 * (1 / 3 + 1 + 1) / 9)
    assert "ged" not in result["summary"] and json.dumps(result, allow_nan=False)
    grid = load(next(iter(readers.iterdir())))
    voxel, unit = (grid.spacing[:2].prod(), "mm²") if grid.ndim == 2 else (grid.spacing.prod() / 1000, "ml")
    depth = grid.shape[2]
    assert result["unit"] == unit
    assert result["volumes"]["label 3"] == pytest.approx({"ann": 24 * depth * voxel, "bob": 36 * depth * voxel, "eve": 0})


def test_the_files(readers, tmp_path):
    compare(tmp_path / "out", labels=readers)
    agreement, entropy = (load(tmp_path / "out" / f"{name}.nii.gz") for name in ("agreement", "reader_entropy"))
    assert agreement.data[0, [0, 5, 9], 5, 0] == pytest.approx([1, 2 / 3, 2 / 3])
    assert entropy.data[0, [0, 5, 9], 5, 0] == pytest.approx([0, 0.9183, 0.9183], abs=1e-4)
    lines = (tmp_path / "out" / "dice.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "structure,reader,other,dice" and lines[1].startswith("label 3,ann,bob,0.8") and len(lines) == 4
    lines = (tmp_path / "out" / "volumes.csv").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch("structure,reader,(ml|mm²)", lines[0]) and lines[3] == "label 3,eve,0.0"
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in ("Agreement of readers: readers", "ann", "0.800", "Unanimous", "Outlines of all readers", "entropy of the votes"):
        assert text in html, text
    assert html.count("data:image/png") == 2


def test_samples_of_a_model(readers, tmp_path):
    """Only the samples of a result count, not its maps; the names of the structures are taken from it."""
    grid, samples = load(next(iter(readers.iterdir()))), tmp_path / "result"
    for k, end in enumerate((8, 9, 10, 11), 1):
        write(samples, f"sample_{k:02d}.nii.gz", grid, (4, end, 3), (14, 16, 9))
    write(samples, "segmentation.nii.gz", grid, (4, 9, 3))
    write(samples, "entropy.nii.gz", grid, (0, 9, 77))
    (samples / "segmentation.csv").write_text("value,name\n3,lesion\n", encoding="utf-8")
    result = compare(tmp_path / "out", labels=readers, result=samples)
    loaded = read_readers(readers, samples)
    assert result["samples"] == 4 and result["structures"] == {"lesion": 3} and result["left_out"] == [9]
    assert result["summary"]["ged"] == pytest.approx(measures.ged(loaded.labels, loaded.samples, 2))
    assert result["summary"]["diversity_samples"] == measures.diversity(loaded.samples, 2) > 0
    assert len(result["ged_curve"]["median"]) == 4 and re.search(r"Energy distance to the samples +0\.\d{3}", result["table"])
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The samples also hold 9, which no reader drew" in html and html.count("data:image/png") == 3


def test_the_seed_decides_the_curve(tmp_path):
    for name, end in (("a", 8), ("b", 10), ("c", 13)):
        write(tmp_path / "readers", f"{name}.png", SLICE, (4, end, 1))
    loaded = read_readers(tmp_path / "readers", tmp_path / "readers")
    curves = [compare_raters(loaded, CompareRatersConfig(samples=3, seed=seed))["ged_curve"] for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]
    assert compare_raters(loaded)["summary"]["ged"] == pytest.approx(0)


def test_one_reader_beside_samples(tmp_path):
    write(tmp_path / "one", "ann.nii.gz", SLICE, (4, 8, 1))
    write(tmp_path / "result", "segmentation.nii.gz", SLICE, (4, 10, 1))
    result = compare(tmp_path / "out", labels=tmp_path / "one", result=tmp_path / "result")
    assert result["summary"] == {"ged": pytest.approx(2 / 3), "diversity_samples": 0}
    assert not (tmp_path / "out" / "agreement.nii.gz").exists() and (tmp_path / "out" / "report.html").exists()


def test_columns_of_readers_with_short_names_stay_apart(tmp_path):
    write(tmp_path / "r", "a.nii.gz", SLICE, (2, 6, 1))
    write(tmp_path / "r", "b.nii.gz", SLICE, (2, 5, 1))
    result = compare(tmp_path / "out", labels=tmp_path / "r")
    sizes = [f"{size:.3g}" for size in result["volumes"]["label 1"].values()]
    row = result["table"].splitlines()[1].split()
    assert len(row) == 5 and [f"{float(number):.3g}" for number in row[3:]] == sizes


def test_readers_that_have_not_all_structures(tmp_path):
    """Ann drew two structures, Bob one of them: the other one is lost, not left out."""
    write(tmp_path / "r", "ann.nii.gz", SLICE, (2, 6, 1), (10, 14, 255))
    write(tmp_path / "r", "bob.nii.gz", SLICE, (2, 6, 1))
    found = compare_raters(read_readers(tmp_path / "r"))
    assert found["pair_dice"] == {"label 1": 1.0, "label 255": 0.0} and found["summary"]["dice"] == 0.5
    assert found["dice"]["label 255"] == [[1.0, 0.0], [0.0, None]]


def test_names_beside_the_labels_and_names_that_are_used_twice(tmp_path):
    write(tmp_path / "r", "ann.nii.gz", SLICE, (2, 6, 1), (10, 14, 2), (15, 17, 3))
    write(tmp_path / "r", "bob.nii.gz", SLICE, (2, 6, 1))
    (tmp_path / "r" / "ann.csv").write_text("value,name\n1,liver\n2,vein\n3,vein\n", encoding="utf-8")
    assert read_readers(tmp_path / "r").structures == ("background", "liver", "label 2", "label 3")


# --- what cannot be compared


def test_readers_on_different_grids(tmp_path):
    write(tmp_path / "r", "ann.nii.gz", SLICE, (2, 6, 1))
    write(tmp_path / "r", "bob.nii.gz", Volume(np.zeros((1, 30, 16, 1), np.uint8), SLICE.affine), (2, 6, 1))
    with pytest.raises(InputError, match=r"ann\.nii\.gz \(20, 16, 1\) and bob\.nii\.gz \(30, 16, 1\) do not share a grid\. Resample one"):
        read_readers(tmp_path / "r")
    write(tmp_path / "r", "bob.nii.gz", Volume(SLICE.data, np.diag([0.5, 0.6, 2.0, 1.0])), (2, 6, 1))
    with pytest.raises(InputError, match=r"ann\.nii\.gz .* and bob\.nii\.gz .* do not share a grid"):
        read_readers(tmp_path / "r")
    (tmp_path / "r" / "bob.nii.gz").unlink()
    write(tmp_path / "s", "sample_01.nii.gz", GRIDS["oblique"], (2, 6, 1))
    with pytest.raises(InputError, match=r"ann\.nii\.gz .* and sample_01\.nii\.gz .* do not share a grid"):
        read_readers(tmp_path / "r", tmp_path / "s")


def test_one_reader_only(tmp_path):
    write(tmp_path / "r", "ann.png", SLICE, (2, 6, 1))
    with pytest.raises(InputError, match=r"holds one reader only, ann\.png\. Add the labels of another one, or give --result"):
        read_readers(tmp_path / "r")
    write(tmp_path / "r", "ann.nii.gz", SLICE, (2, 6, 1))
    with pytest.raises(InputError, match=r"holds the labels of ann twice\. Keep one file"):
        read_readers(tmp_path / "r")


def test_nobody_marked_anything(tmp_path):
    for name in ("ann", "bob"):
        write(tmp_path / "r", f"{name}.nii.gz", SLICE)
    with pytest.raises(InputError, match=r"No reader of .* marked anything: every voxel of all 2 files is 0"):
        read_readers(tmp_path / "r")


def test_values_without_anything_in_common(tmp_path):
    write(tmp_path / "r", "ann.nii.gz", SLICE, (2, 6, 1))
    write(tmp_path / "r", "bob.nii.gz", SLICE, (2, 6, 1))
    write(tmp_path / "s", "sample_01.nii.gz", SLICE, (2, 6, 255))
    with pytest.raises(InputError, match=r"The samples \(255\) and the readers \(1\) have no value in common\. Give the same structure"):
        read_readers(tmp_path / "r", tmp_path / "s")
    write(tmp_path / "r", "eve.nii.gz", SLICE, (2, 6, 255))
    with pytest.raises(InputError, match=r"eve\.nii\.gz \(255\) and the other readers \(1\) have no value in common"):
        read_readers(tmp_path / "r")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full(SLICE.shape, np.nan, np.float32), r"bob\.nii\.gz has 320 voxels that are NaN or infinite\. Replace them"),
        (np.full(SLICE.shape, 0.5, np.float32), r"label image .*bob\.nii\.gz holds 0\.5, which is not a whole number"),
        (np.full(SLICE.shape, -1, np.int16), r"bob\.nii\.gz holds the value -1: labels are 0 or larger"),
        (np.arange(40 * 32, dtype=np.int16).reshape(40, 32, 1), r"bob\.nii\.gz holds 1280 different values, so it is no label image"),
    ],
)
def test_images_that_are_no_labels(tmp_path, data, message):
    grid = Volume(np.zeros((1, *data.shape), np.uint8), SLICE.affine)
    write(tmp_path / "r", "ann.nii.gz", grid, (2, 6, 1))
    save(grid.with_data(data), tmp_path / "r" / "bob.nii.gz")
    with pytest.raises(InputError, match=message):
        read_readers(tmp_path / "r")


def test_folders_without_labels(tmp_path):
    with pytest.raises(InputError, match="is not a folder of images"):
        read_readers(tmp_path / "missing")
    write(tmp_path / "r", "ann.nii.gz", SLICE, (2, 6, 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        read_readers(tmp_path / "r", tmp_path / "empty")

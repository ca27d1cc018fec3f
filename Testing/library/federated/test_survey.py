"""The data check finds each kind of problem, and all of them at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from site_data import CLASSES, image_site, table_columns, table_site, write_table

from imagingai.errors import Cancelled, InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import open_learner
from imagingai.federated.survey import check_data
from imagingai.volume import Volume, load, save

ROI = ProjectConfig(task="roi-classification", features=("volume", "thickness"), classes=CLASSES)
PICTURES = ProjectConfig(task="image-classification", classes=CLASSES, dimension=2, patch=(24,))
STRUCTURES = ProjectConfig(classes=("one", "two"), dimension=2, patch=(16,))


def pictures(folder, count=6, **more):
    return {name: place for name, place in image_site(folder, count, **more).items() if name != "labels"}


def structures(folder, count=6):
    return {name: place for name, place in image_site(folder, count).items() if name != "table"}


def reasons(found):
    return {row["case"]: row["reason"] for row in found["cases"] if row["state"] == "bad"}


def test_good_images(tmp_path):
    told = []
    inputs = pictures(tmp_path)
    found = check_data(PICTURES, inputs, lambda done, text: told.append(text))
    assert found["verdict"] == "good" and found["problems"] == [] and told[0] == "Checking p00" and len(told) == 6
    assert found["labels"] == {"well": 3, "sick": 3} and found["label_unit"] == "cases"
    assert found["spacing"] == [[1, 1, 1]] * 6 and found["shapes"] == [[24, 24, 1]] * 6 and found["project_spacing"] == [1, 1, 1]
    learner = open_learner(PICTURES, inputs)
    assert (found["training"], found["held_out"]) == (learner.examples, learner.held_out) == (4, 2)
    assert ["Spacing", "1 x 1 x 1 mm (median)"] in found["rows"] and ["sick", "3"] in found["rows"]
    shares, edges = found["intensities"]["shares"], found["intensities"]["edges"]
    assert sum(shares) == pytest.approx(1) and len(edges) == len(shares) + 1 and 0 <= edges[0] < edges[-1] < 1.2
    json.dumps(found)


def test_good_tables(tmp_path):
    found = check_data(ROI, table_site(tmp_path))
    assert found["verdict"] == "good" and set(found["features"]) == {"volume", "thickness"} and found["intensities"] == {}
    ages = ProjectConfig(task="roi-regression", features=("volume",), target="age", target_range=(20.0, 90.0))
    found = check_data(ages, table_site(tmp_path))
    values = table_columns()["age"]
    assert found["labels"] == {} and ["age", f"{np.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"] in found["rows"]


def test_good_structures(tmp_path):
    found = check_data(STRUCTURES, structures(tmp_path))
    assert found["verdict"] == "good" and found["labels"] == {"one": 192, "two": 192} and found["label_unit"] == "voxels"


def test_all_problems_of_a_table_are_found_at_once(tmp_path):
    columns = table_columns()
    columns["label"][1], columns["volume"][2], columns["thickness"][3], columns["volume"][4] = "ill", "nan", "", "large"
    columns["case"][6] = "p05"
    inputs = {"table": write_table(tmp_path / "table.csv", columns)}
    found = check_data(ROI, inputs)
    assert found["verdict"] == "bad" and set(reasons(found)) == {"p01", "p02", "p03", "p04", "p05"}
    for case, part in {"p01": "class 'ill'", "p02": "has nan", "p03": "has nothing", "p04": "no number", "p05": "2 times"}.items():
        assert part in reasons(found)[case]
    assert found["training"] + found["held_out"] == 6 and sorted(found["problems"]) == sorted(reasons(found).values())
    with pytest.raises(InputError, match=r"p05 is 2 times"):
        open_learner(ROI, inputs)


def test_all_problems_of_images_are_found_at_once(tmp_path):
    inputs = pictures(tmp_path, 8)
    image = load(inputs["images"] / "p01.nii.gz")
    save(Volume.from_array(np.zeros((24, 24), np.float32)), inputs["images"] / "p02.nii.gz")
    save(Volume.from_array(np.random.default_rng(0).random((24, 24, 5))), inputs["images"] / "p03.nii.gz")
    save(image, inputs["images"] / "extra.nii.gz")
    (inputs["images"] / "p04.nii.gz").unlink()
    (inputs["images"] / "p05.nii.gz").write_bytes(b"broken")
    image.data[0, 2, 2] = np.nan
    save(image, inputs["images"] / "p01.nii.gz")
    found = check_data(PICTURES, inputs)
    parts = {"p01": "NaN", "p02": "constant", "p03": "3-D", "extra": "no row", "p04": "no image", "p05": "p05"}
    assert found["verdict"] == "bad" and set(reasons(found)) == set(parts)
    assert all(part in reasons(found)[case] for case, part in parts.items())
    assert found["training"] + found["held_out"] == 3


def test_all_problems_of_labels_are_found_at_once(tmp_path):
    inputs = structures(tmp_path)
    labels = load(inputs["labels"] / "p00.nii.gz")
    labels.data[0, 0, 0] = 9
    save(labels, inputs["labels"] / "p01.nii.gz")
    save(Volume.from_array(np.ones((9, 9), np.uint8)), inputs["labels"] / "p02.nii.gz")
    (inputs["labels"] / "p03.nii.gz").unlink()
    found = check_data(STRUCTURES, inputs)
    assert set(reasons(found)) == {"p01", "p02"} and "the label 9" in reasons(found)["p01"] and "another grid" in reasons(found)["p02"]
    assert "1 of 6 images have no labels and are left out: p03." in found["problems"]


def concerns(project, inputs):
    found = check_data(project, inputs)
    assert found["verdict"] == "look" and all(row["state"] == "good" for row in found["cases"])
    return found["problems"]


def test_class_that_is_missing_is_no_error(tmp_path):
    columns = table_columns()
    columns["label"] = ["well"] * 12
    assert concerns(ROI, {"table": write_table(tmp_path / "table.csv", columns)}) == [
        "No case has the class sick: this site cannot help to learn or measure it."
    ]
    columns["label"][0] = "sick"
    assert concerns(ROI, {"table": write_table(tmp_path / "table.csv", columns)}) == [
        "sick has a single case, so that it is in no held-out case."
    ]
    three = ProjectConfig(classes=("one", "two", "three"), dimension=2, patch=(16,))
    assert concerns(three, structures(tmp_path)) == ["No case has the structure three: this site cannot help to learn or measure it."]


def test_feature_that_is_the_same_everywhere(tmp_path):
    columns = table_columns()
    columns["thickness"] = [2.5] * 12
    assert concerns(ROI, {"table": write_table(tmp_path / "table.csv", columns)}) == ["thickness is the same in all cases."]


def test_same_image_twice_and_another_spacing(tmp_path):
    inputs = pictures(tmp_path)
    save(load(inputs["images"] / "p00.nii.gz"), inputs["images"] / "p02.nii.gz")
    assert concerns(PICTURES, inputs) == ["p00 and p02 are the same image."]
    coarse = ProjectConfig(**{**vars(PICTURES), "spacing": (0.5, 0.6)})
    assert "The images have 1 x 1 mm between voxels and are resampled to the 0.5 x 0.6 mm of the project." in concerns(coarse, inputs)


def test_images_that_are_no_ct(tmp_path):
    project = ProjectConfig(**{**vars(PICTURES), "intensity": "ct"})
    assert concerns(project, pictures(tmp_path)) == [
        "The project expects Hounsfield units, and no voxel is below -500: check that these are CT images."
    ]


def test_data_from_which_nothing_can_be_learned_stop_the_check(tmp_path):
    columns = table_columns(2)
    columns["volume"][0] = "?"
    with pytest.raises(InputError, match=r"1 of 2 cases can be used, and at least 2 are needed. The first problem: p00 has '\?'"):
        check_data(ROI, {"table": write_table(tmp_path / "table.csv", columns)})
    with pytest.raises(InputError, match="roi-classification needs --table"):
        check_data(ROI, {})
    with pytest.raises(InputError, match="--features is empty"):
        check_data(ProjectConfig(task="roi-classification", classes=CLASSES), table_site(tmp_path))


def test_check_can_be_stopped(tmp_path):
    def stop(done, text):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        check_data(ROI, table_site(tmp_path), stop)

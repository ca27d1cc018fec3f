"""The four sites of the demonstration: real images, dealt out unevenly, machines that differ."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from imagingai.federated.config import ProjectConfig
from imagingai.federated.demo_sites import CLASSES, DATA, PROJECT, SITES, write_sites
from imagingai.options import from_dict
from imagingai.volume import load


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return write_sites(tmp_path_factory.mktemp("sites"))


def rows_of(inputs):
    with inputs["table"].open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SITES)
def test_a_site_has_an_image_for_each_row_and_its_share_of_pneumonia(sites, name):
    rows = rows_of(sites[name])
    assert sorted(f"{row['case']}.png" for row in rows) == sorted(file.name for file in sites[name]["images"].iterdir())
    assert len(rows) == SITES[name].cases
    assert np.mean([row["label"] == "pneumonia" for row in rows]) == pytest.approx(SITES[name].pneumonia, abs=0.01)
    assert {row["label"] for row in rows} == set(CLASSES)


def test_the_first_site_has_the_images_as_they_are_upright(sites):
    with np.load(DATA) as file:
        assert np.array_equal(load(sites["north"]["images"] / "north_001.png").data[0, :, :, 0].T, file["images"][0])


def test_no_image_is_at_two_sites():
    with np.load(DATA) as file:
        images = file["images"].reshape(len(file["images"]), -1)
    assert len(np.unique(images, axis=0)) == len(images) == sum(site.cases for site in SITES.values())


def test_machines_differ(sites):
    brightness = [np.mean([load(file).data.mean() for file in sorted(site["images"].iterdir())[:40]]) for site in sites.values()]
    assert np.ptp(brightness) > 30  # of 255


def test_the_files_are_the_same_every_time(sites, tmp_path):
    again = write_sites(tmp_path)
    for site, inputs in sites.items():
        for file in list(inputs["images"].iterdir())[:3]:
            assert file.read_bytes() == (again[site]["images"] / file.name).read_bytes()


def test_the_project_has_allowed_settings():
    assert from_dict(ProjectConfig, PROJECT).size == "small"

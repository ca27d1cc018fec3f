"""Reverse Classification Accuracy: a bad segmentation makes a bad atlas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imagingai.errors import InputError
from imagingai.registration import RegistrationConfig
from imagingai.uncertainty import rca
from imagingai.volume import Volume, load

DATA = Path(__file__).parents[1] / "Data"
STRUCTURES = {1: "Anterior", 2: "Posterior"}
QUICK = RegistrationConfig(alignment="center", iterations=(20, 10), threads=1, device="cpu")


def case(name: str) -> tuple[Volume, Volume]:
    """Image and labels of a hippocampus."""
    return load(DATA / f"hippocampus_{name}.nii.gz"), load(DATA / f"hippocampus_{name}_labels.nii.gz", label=True)


def shifted(labels: Volume, voxels: int) -> Volume:
    return labels.with_data(np.roll(labels.data, voxels, axis=2))


@pytest.fixture(scope="module")
def registered():
    return case("moving")[1], rca.register_references(case("moving")[0], [case("fixed")], config=QUICK)


def test_the_worse_the_segmentation_the_lower_its_predicted_dice(registered):
    truth, references = registered
    predicted = [np.mean(list(rca.best_dice(shifted(truth, k), references, STRUCTURES).values())) for k in (0, 2, 4, 8)]
    assert predicted[0] > 0.6
    assert all(np.diff(predicted) < -0.03)


def test_the_best_reference_counts(registered):
    truth, (reference,) = registered
    useless = rca.Reference(shifted(reference.labels, 15), reference.transform)
    assert rca.best_dice(truth, [useless, reference], STRUCTURES) == rca.best_dice(truth, [reference], STRUCTURES)


def test_all_in_one_call_with_progress():
    image, labels = case("moving")
    seen = []
    found = rca.reverse_classification_accuracy(
        image, labels, [case("fixed")], STRUCTURES, config=QUICK, report=lambda fraction, text: seen.append((fraction, text))
    )
    assert set(found) == {"Anterior", "Posterior"} and min(found.values()) > 0.5
    assert seen[0] == (0.0, "Comparing with reference 1 of 1") and [f for f, _ in seen] == sorted(f for f, _ in seen)


def test_a_structure_that_is_missing(registered):
    truth, references = registered
    half = truth.with_data(np.where(truth.data == 1, 0, truth.data))
    assert rca.best_dice(half, references, STRUCTURES)["Anterior"] == 0.0, "lost by the segmentation"
    assert rca.best_dice(truth, references, STRUCTURES | {3: "Nose"})["Nose"] is None, "not in any reference"


def test_those_that_resemble_the_image_come_first_and_never_itself():
    image, labels = case("moving")
    noise = np.random.default_rng(0).random(image.data.shape).astype(np.float32)
    blurred = image.with_data(image.data + 5 * noise)
    atlases = [(image.with_data(noise), labels), (image, labels), (blurred, labels)]
    chosen = rca._nearest(image, atlases, 2)
    assert [chosen[0][0], chosen[1][0]] == [blurred, atlases[0][0]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image, labels: [], r"no atlas image other than the image itself among the 0"),
        (lambda image, labels: [case("moving")], r"among the 1 that were given; .* of other people"),
        (lambda image, labels: [(image, labels.with_data(labels.data * 0))], r"atlas labels hold no label"),
        (lambda image, labels: [(image, Volume(labels.data[:, 1:], labels.affine))], r"do not share a grid"),
        (lambda image, labels: [(image.with_data(image.data * 0), labels)], r"The atlas image is constant"),
        (lambda image, labels: [(Volume(image.data[..., :1], image.affine), labels)], r"is 3-D and an atlas image is 2-D"),
    ],
)
def test_atlases_that_cannot_be_used(spoil, message):
    with pytest.raises(InputError, match=message):
        rca.register_references(case("moving")[0], spoil(*case("fixed")), config=QUICK)


def test_an_image_with_nan_is_refused():
    image, labels = case("moving")
    bad = image.with_data(np.where(labels.data == 1, np.nan, image.data))
    with pytest.raises(InputError, match=r"The image has \d+ voxels .* that are NaN"):
        rca.register_references(bad, [case("fixed")], config=QUICK)

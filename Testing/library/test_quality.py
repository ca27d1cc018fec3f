"""Quality control: what is measured of a case, what is learned from controls, and the reasons of the traffic light."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imagingai.errors import InputError
from imagingai.uncertainty import regressor
from imagingai.uncertainty.config import LearnQualityConfig
from imagingai.uncertainty.controls import Control, learn
from imagingai.uncertainty.features import IMAGE_FEATURES, image_features, uncertainty_features
from imagingai.uncertainty.measures import border_band
from imagingai.uncertainty.quality import judge, load_quality, predict_dice, widen_volumes
from imagingai.uncertainty.segment import Segmentation
from imagingai.volume import Volume, load

DATA = Path(__file__).parents[1] / "Data"
STRUCTURES = ("Ear", "Nose")


# --- made cases


def segmentation(spread: float, radius: float = 6.0, samples: int = 8, seed: int = 0) -> Segmentation:
    """A ball "Ear" whose samples differ in size by `spread` voxels; no "Nose"."""
    x = np.stack(np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij"))
    distance = np.sqrt((x**2).sum(0))
    radii = radius + spread * np.random.default_rng(seed).standard_normal(samples)
    stack = (distance < radii[:, None, None, None]).astype(np.uint8)
    inside = stack.mean(0, dtype=np.float32)
    probability = np.stack([1 - inside, inside, 0 * inside])
    image = Volume(distance[None].astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    return Segmentation(image, ("background", *STRUCTURES), (0, 1, 2), probability, (inside > 0.5).astype(np.uint8), 0 * inside, stack)


def control(number: int, trouble: float, **more) -> Control:
    """A control whose features follow its trouble (0 to 1), and whose Dice follows it too, not perfectly."""
    random = np.random.default_rng(number)
    features, dice = {}, {}
    for name in STRUCTURES:
        own = np.clip(trouble + 0.05 * random.standard_normal(), 0, 1)
        features[name] = {
            "volume_ml": 10 * np.exp(0.1 * random.standard_normal()),
            **dict.fromkeys(regressor.AGREEMENTS, 0.97 - 0.6 * own),
            **dict.fromkeys(("entropy", "mutual_information", "expected_entropy", "volume_spread", "border_mm"), 0.1 + own),
        }
        dice[name] = float(np.clip(0.95 - 0.7 * own + 0.02 * random.standard_normal(), 0, 1))
    image = {name: 1 + 0.1 * random.standard_normal() for name in IMAGE_FEATURES} | {"domain": abs(0.3 * random.standard_normal())}
    volumes = {name: {"ml": 10.0, "low": 9.5, "high": 10.5, "truth": 10 + random.standard_normal()} for name in STRUCTURES}
    return Control(f"c{number:02}", features, image, dice, volumes, **more)


def controls(count: int = 24) -> list[Control]:
    """Good controls, and a spoiled copy of each."""
    good = [control(k, 0.05) for k in range(count)]
    bad = [replace(control(100 + k, 0.2 + 0.6 * k / count), name=f"c{k:02}", spoiled=True) for k in range(count)]
    return good + bad


@pytest.fixture(scope="module")
def quality():
    return learn(controls(), "abc", LearnQualityConfig())


def typical() -> Control:
    """A case as the controls are."""
    case = control(3, 0.0)
    return replace(case, image=dict.fromkeys(IMAGE_FEATURES, 1.0) | {"domain": 0.2})


# --- what is measured


def test_features_say_how_far_the_samples_agree():
    sure, unsure = (uncertainty_features(segmentation(spread))["Ear"] for spread in (0.3, 1.5))
    assert sure["volume_ml"] == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.1)
    for name in ("expected_dice", "samples_dice", "mean_dice", "probability"):
        assert 0 < unsure[name] < sure[name] < 1, name
    for name in ("entropy", "mutual_information", "volume_spread", "border_mm"):
        assert unsure[name] > sure[name] > 0, name
    assert sure["largest_part"] == 1.0


@pytest.mark.parametrize("place", [np.s_[5, 6, 7], np.s_[5, 6, 7:9], np.s_[5, 6:9, 6:9]])
def test_a_structure_of_a_voxel_a_row_or_a_slice_has_the_border_band_of_the_map(place):
    case = segmentation(1.0)
    case.samples[0][place] = 2
    whole = border_band(case.samples == 2, case.image.spacing)
    assert uncertainty_features(case)["Nose"]["border_mm"] == pytest.approx(whole[whole > 0].mean()) == pytest.approx(2.0)


def test_a_structure_that_is_nowhere_has_no_agreement():
    assert uncertainty_features(segmentation(1.0))["Nose"] == {"volume_ml": 0.0, "probability": 0.0}


def test_one_sample_is_enough_for_features():
    found = uncertainty_features(segmentation(1.0, samples=1))["Ear"]
    assert found["samples_dice"] == found["mean_dice"] == 1.0 and found["border_mm"] == found["volume_spread"] == 0.0


def test_a_lost_part_is_seen():
    case = segmentation(0.3)
    case.segmentation[1:4, 1:4, 1:4] = 1
    assert uncertainty_features(case)["Ear"]["largest_part"] == pytest.approx(1 - 27 / (case.segmentation == 1).sum())


def worse(image: Volume, how: str) -> Volume:
    """The image with one thing that is wrong."""
    data, random = image.data.astype(np.float32), np.random.default_rng(0)
    width = float(np.ptp(data))
    spoiled = {
        "noise": lambda: data + 0.1 * width * random.standard_normal(data.shape),
        "sharpness": lambda: gaussian_filter(data, (0, 2, 2, 2)),
        "shading": lambda: data * np.linspace(0.3, 1.7, data.shape[1])[None, :, None, None],
        "air": lambda: data + 0.3 * np.roll(data, data.shape[2] // 2, 2),  # a ghost
        "saturation": lambda: np.minimum(data, np.percentile(data, 80)),
    }
    return image.with_data(spoiled[how]())


@pytest.mark.parametrize(("how", "sign"), [("noise", 1), ("sharpness", -1), ("shading", 1), ("air", 1), ("saturation", 1)])
def test_image_features_see_what_is_wrong(how, sign):
    image = load(DATA / "brain_fixed.nii.gz")
    before, after = image_features(image)[how], image_features(worse(image, how))[how]
    assert sign * (after - before) > 0.15 * abs(before)


def test_image_features_do_not_depend_on_the_brightness():
    image = load(DATA / "hippocampus_fixed.nii.gz")
    first, second = image_features(image), image_features(image.with_data(image.data * 7.5 + 1000.0))
    assert first == pytest.approx(second, rel=0.02, abs=1e-3)
    assert set(first) == set(IMAGE_FEATURES)


def test_the_noise_is_its_deviation():
    random = np.random.default_rng(0)
    halves = np.repeat([0.0, 1.0], 20)[:, None, None] * np.ones((40, 40, 40))
    noisy = Volume.from_array((halves + 0.05 * random.standard_normal(halves.shape)).astype(np.float32))
    found = image_features(noisy)
    width = np.diff(np.percentile(noisy.data, (1, 99)))[0]
    assert found["noise"] == pytest.approx(0.05 / width, rel=0.05)
    assert found["contrast"] == pytest.approx(1 / width, rel=0.02)


@pytest.mark.parametrize("shape", [(30, 20, 1), (5, 5, 5), (60, 3, 40)])
def test_flat_and_small_images_have_features(shape):
    found = image_features(Volume.from_array(np.random.default_rng(0).random(shape).astype(np.float32)))
    assert np.all(np.isfinite(list(found.values())))


def test_an_image_that_is_almost_empty_has_features():
    data = np.zeros((20, 20, 20), np.float32)
    data[10, 10, 10] = 1
    assert np.all(np.isfinite(list(image_features(Volume.from_array(data)).values())))


@pytest.mark.parametrize(("value", "message"), [(1.0, "The image is constant"), (np.nan, r"The image has 1000 voxels .* NaN")])
def test_images_that_cannot_be_judged(value, message):
    with pytest.raises(InputError, match=message):
        image_features(Volume.from_array(np.full((10, 10, 10), value, np.float32)))


# --- learning


def test_the_dice_of_new_cases_is_predicted(quality):
    new = [control(500 + k, trouble) for k, trouble in enumerate(np.linspace(0, 0.8, 40))]
    found = [(predict_dice(quality, case.features)[name], case.dice[name]) for case in new for name in STRUCTURES]
    predicted, true = np.array([p["dice"] for p, _ in found]), np.array([t for _, t in found])
    assert np.abs(predicted - true).mean() < 0.04
    assert np.corrcoef(predicted, true)[0, 1] > 0.95
    covered = np.mean([p["low"] <= t <= p["high"] for p, t in found])
    assert covered > 0.8, "the intervals promise 0.9"
    assert quality.measured["mean_absolute_error"] < 0.04 < 0.95 < quality.measured["correlation"]


def test_what_is_predicted_for_a_case_that_was_left_out_ignores_its_dice():
    cases = controls()
    rows = [regressor.Row(c.name, name, c.features[name], c.dice[name]) for c in cases for name in STRUCTURES]
    _, before = regressor.fit(rows)
    changed = [row._replace(dice=0.02) if row.case == "c07" else row for row in rows]
    own = [row.case == "c07" for row in rows]
    learned = regressor._cross_validate(rows, ("expected_dice",), 1.0)[own]
    assert np.allclose(learned, regressor._cross_validate(changed, ("expected_dice",), 1.0)[own])
    assert np.all(np.isfinite(before))


def test_good_controls_stay_green(quality):
    cases = [c for c in controls() if not c.spoiled]
    green = [judge(quality, case.features, case.image)["light"] == "good" for case in cases]
    assert np.mean(green) >= 0.9  # 0.95 of them with the Dice predicted for cases left out


def test_the_sensitivity_moves_the_cut_offs():
    cases = [c for c in controls(40) if not c.spoiled]
    cases[0] = replace(cases[0], image=cases[0].image | {"noise": 9.0})
    strict, mild = (learn(cases, "abc", LearnQualityConfig(sensitivity=s)).cutoffs["image"] for s in (0.9, 1.0))
    assert strict < 10 < mild


def test_volume_intervals_become_honest(quality):
    volumes = {"Ear": {"ml": 10.0, "samples": [9.5, 9.8, 10.2, 10.5]}, "Chin": {"ml": 1.0, "low": 1.0, "high": 1.0}}
    wide = widen_volumes(quality, volumes)
    truths = [c.volumes["Ear"]["truth"] for c in controls() if not c.spoiled]
    assert np.mean([(wide["Ear"]["low"] <= t <= wide["Ear"]["high"]) for t in truths]) >= 0.9
    assert wide["Ear"]["conformal"] and wide["Chin"] == volumes["Chin"]


def test_too_few_controls_promise_no_coverage():
    quality = learn([control(k, 0.05) for k in range(5)], "abc", LearnQualityConfig(coverage=0.95))
    assert quality.volume_width == {"Ear": None, "Nose": None} and quality.width is None
    found = predict_dice(quality, typical().features)["Ear"]
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_a_structure_that_no_control_has_is_no_norm():
    absent = {"volume_ml": 0.0, "probability": 0.1}
    cases = [replace(c, features=c.features | {"Nose": absent}, dice=c.dice | {"Nose": None}) for c in controls()]
    quality = learn(cases, "abc", LearnQualityConfig())
    assert quality.present["Nose"] == 0 and "Nose" not in quality.volumes and "Nose" not in predict_dice(quality, cases[0].features)
    found = judge(quality, typical().features, typical().image)
    assert found["reasons"][0].startswith("Nose was found (") and found["reasons"][0].endswith("in none of your 24 controls.")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([control(1, 0.05)], r"There are 1 labeled controls, too few .* give 5 or more"),
        (
            [control(k, 0.6) for k in range(8)],
            r"Only 0 of the 8 controls have a Dice of 0\.8 or more in every structure, 5 are .* --acceptable",
        ),
        (
            [replace(control(k, 0.05), features={name: {"volume_ml": 0.0} for name in STRUCTURES}) for k in range(6)],
            r"finds its structures in 0 of the 6 controls",
        ),
    ],
)
def test_controls_that_do_not_say_what_is_normal(cases, message):
    with pytest.raises(InputError, match=message):
        learn(cases, "abc", LearnQualityConfig())


# --- the file


def test_a_quality_file_comes_back_as_it_was(quality, tmp_path):
    quality.save(tmp_path / "quality.json")
    assert load_quality(tmp_path / "quality.json", "abc") == quality


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], r"is broken \(.*Run imagingai learn-quality"),
        (lambda text: "[]", r"is no quality file of version 1"),
        (lambda text: json.dumps(json.loads(text) | {"version": 9}), r"is no quality file of version 1"),
        (lambda text: json.dumps(json.loads(text) | {"model": "xyz"}), r"was learned for another model \(xyz, this is abc\)"),
        (None, r"cannot be read: No such file"),
    ],
)
def test_quality_files_that_cannot_be_used(quality, tmp_path, change, message):
    path = tmp_path / "quality.json"
    if change:
        quality.save(path)
        path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        load_quality(path, "abc")


# --- the traffic light


def test_a_usual_case_is_green_and_says_why(quality):
    case = typical()
    found = judge(quality, case.features, case.image)
    assert found["light"] == "good" and found["flags"] == [] and not found["out_of_domain"]
    assert len(found["reasons"]) == 1 and found["reasons"][0].startswith("The lowest predicted Dice is 0.8")
    assert set(found["predicted_dice"]) == set(STRUCTURES)


UNUSUAL = {
    "dice": (
        lambda c: replace(c, features=control(3, 0.7).features),
        "bad",
        r"(Ear|Nose) has a predicted Dice of 0\.\d\d \(0\.\d\d to 0\.\d\d\); normal is 0\.\d\d",
    ),
    "volume": (
        lambda c: replace(c, features=c.features | {"Ear": c.features["Ear"] | {"volume_ml": 40.0}}),
        "bad",
        r"Ear has 40 ml; normal in your 24 controls is [\d.]+ to 1\d\.?\d* ml\.",
    ),
    "missing": (
        lambda c: replace(c, features=c.features | {"Nose": {"volume_ml": 0.0, "probability": 0.2}}),
        "bad",
        r"Nose was not found; 100% of your 24 controls have it\.",
    ),
    "image": (
        lambda c: replace(c, image=c.image | {"noise": 2.0}),
        "look",
        r"Of the image, the noise is 2; normal in your 24 controls is 0\.\d+ to 1\.\d+",
    ),
    "domain": (
        lambda c: replace(c, image=c.image | {"domain": 7.0}),
        "bad",
        r"unlike those that the model was trained on: its distance is 7, normal is up to 1",
    ),
}


@pytest.mark.parametrize("flag", UNUSUAL)
def test_the_reason_has_the_value_and_the_normal_range(quality, flag):
    spoil, light, text = UNUSUAL[flag]
    case = spoil(typical())
    found = judge(quality, case.features, case.image)
    assert (found["light"], found["flags"], found["out_of_domain"]) == (light, [flag], flag == "domain")
    assert any(re.search(text, reason) for reason in found["reasons"]), found["reasons"]


def test_the_worst_reason_comes_first(quality):
    case = replace(typical(), image=typical().image | {"noise": 2.0, "domain": 7.0})
    found = judge(quality, case.features, case.image)
    assert "unlike those" in found["reasons"][0] and "noise" in found["reasons"][1]


def test_without_a_quality_file_the_model_judges_what_it_knows():
    case = typical()
    known = judge(None, case.features, case.image)
    assert known["light"] == "good" and "There is no quality file, so no Dice is predicted" in known["reasons"][0]
    far = judge(None, case.features, case.image | {"domain": 1.5})
    assert far["light"] == "look" and far["out_of_domain"]
    nothing = judge(None, case.features, dict.fromkeys(IMAGE_FEATURES, 1.0))
    assert nothing["light"] == "look" and nothing["reasons"][0].startswith("Nothing is known about the images")
    unsure = judge(None, {"Ear": case.features["Ear"] | {"samples_dice": 0.4}}, case.image)
    assert unsure["light"] == "look" and "agree with a mean Dice of only 0.40" in unsure["reasons"][0]
    empty = judge(None, {"Ear": {"volume_ml": 0.0, "probability": 0.0}}, case.image)
    assert empty["light"] == "bad" and empty["reasons"] == ["The segmentation is empty: it has no Ear."]

"""The pages of segmentation with uncertainty: complete, self-contained, safe, and right about left and right."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from test_report import Reader, pixels

from imagingai.pictures import STRUCTURE_COLORS, planes
from imagingai.uncertainty import figures, report
from imagingai.uncertainty.calibration import reliability
from imagingai.uncertainty.cells import three_digits, whisker
from imagingai.uncertainty.queue import COLUMNS
from imagingai.uncertainty.segment import Segmentation
from imagingai.volume import Volume

CLASSES = ("background", "Left <b>ear</b>", "Nose")
SPACING = (1.0, 1.0, 3.0)


def stored(data: np.ndarray, flip: bool) -> Volume:
    """(R, A, S) data at 1 x 1 x 3 mm, stored as RAS or, the same patient, as LPS."""
    affine = np.diag([*SPACING, 1.0])
    if flip:
        data = data[::-1, ::-1]
        affine[:2] *= -1
        affine[:2, 3] = np.array(data.shape[:2]) - 1
    return Volume(np.ascontiguousarray(data)[None].astype(np.float32), affine)


def example(flip: bool = False, samples: int = 4, shape=(40, 48, 12)) -> Segmentation:
    """Two boxes; the samples disagree most at the outer side of the first one, which lies on the patient's right."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    thick = shape[2] > 1
    drawn = []
    for number in range(samples):
        ear = (x >= 24) & (x < 32 + number) & (y >= 20) & (y < 30) & (~thick | (z >= 3)) & (~thick | (z < 7))
        drawn.append((ear + 2 * ((x >= 8) & (x < 16) & (y >= 34) & (y < 42) & (~thick | (z >= 6)))).astype(np.uint8))
    classes = np.stack(drawn)
    probability = np.stack([(classes == k).mean(0) for k in range(3)]).astype(np.float32)
    image = stored(50 + 100 * (classes[0] > 0) + (x + y) % 7, flip)
    place = (lambda data: np.ascontiguousarray(data[..., ::-1, ::-1, :])) if flip else (lambda data: data)
    most = probability.argmax(0).astype(np.uint8)
    return Segmentation(image, CLASSES, (0, 4, 7), place(probability), place(most), np.zeros(shape, np.float32), place(classes))


VALUES = {
    "volumes": {
        CLASSES[1]: {"ml": 3.21, "low": 2.9, "high": 3.6, "level": 0.9, "unit": "ml", "samples": []},
        "Nose": {"ml": 0.456, "low": 0.1, "high": 0.9, "level": 0.9, "unit": "ml", "samples": []},
    },
    "border_band": {CLASSES[1]: {"mean_mm": 1.25, "p95_mm": 2.5, "largest_mm": 4.0}},
    "quality": {
        "light": "look",
        "reasons": ["Nose has 0.456 ml; normal is 1 to 2 ml."],
        "out_of_domain": False,
        "predicted_dice": {"Nose": {"dice": 0.71, "low": 0.6, "high": 0.8}},
    },
    "rca": {CLASSES[1]: 0.834, "Nose": None},
    "measured": {"dice": {CLASSES[1]: 0.912}, "ged": 0.123},
}
SETTINGS = {"image": "a<script>alert(1)</script>.nii.gz", "model": "brain", "config": {"samples": 4}}


@pytest.fixture(scope="module")
def case():
    return Reader(report.case_page(example(), VALUES, SETTINGS, np.ones((40, 48, 12), np.float32)))


# --- one case


def test_a_case_has_its_picture_light_reasons_and_numbers(case):
    (drawn,) = case.pictures()
    assert pixels(drawn).std() > 20 and "most uncertain place" in drawn["alt"]
    for text in ("look at it", "normal is 1 to 2 ml", "3.21", "2.90 – 3.60", "90 % interval", "1.2", "2.5", "0.71", "0.60 – 0.80", "0.834"):
        assert text in case.text, text
    assert "energy distance to the readers0.123" in case.text and "config.samples4" in case.text


def test_a_case_needs_no_other_file_and_runs_no_script(case):
    assert not {tag for tag, _ in case.tags} & {"script", "link", "iframe", "object", "embed"}
    assert "a<script>alert(1)</script>.nii.gz" in case.text and CLASSES[1] in case.text


def test_a_case_without_numbers_is_shown_all_the_same():
    reader = Reader(report.case_page(example(), {}, {}))
    assert len(reader.pictures()) == 1 and "Nose" in reader.text and "Predicted" not in reader.text


def test_a_strange_scan_is_said_first():
    quality = {**VALUES["quality"], "light": "bad", "out_of_domain": True}
    text = Reader(report.case_page(example(), {"quality": quality}, {})).text
    assert text.index("Unlike the images that the model was trained on") < text.index("Nose has 0.456 ml")
    assert "problem" in text


def test_structures_beyond_one_sheet_are_folded_out():
    many = replace(example(), classes=("background", *(f"part {k}" for k in range(1, 21))))
    page = report.case_page(many, {}, {})
    folded = page[page.index("4 more structures") :]
    assert "part 16" not in folded and all(f"part {k}" in folded for k in (17, 20))


@pytest.mark.parametrize(
    ("samples", "shape", "panels"), [(4, (40, 48, 12), 9), (1, (40, 48, 12), 6), (4, (40, 48, 1), 5), (1, (40, 48, 1), 2)]
)
def test_there_is_a_panel_for_each_thing_that_can_be_shown(samples, shape, panels):
    figure = figures.draw_case(example(samples=samples, shape=shape))
    assert len(figure.axes) == panels + 1  # one color bar
    assert figure.axes[-1].get_xlabel() == "entropy and its two parts, bits"


def test_nothing_found_is_said():
    empty = replace(example(), segmentation=np.zeros((40, 48, 12), np.uint8), samples=np.zeros((4, 40, 48, 12), np.uint8))
    assert "Nothing was found." in Reader(report.case_page(empty, {}, {})).text


# --- where, and which way round


@pytest.mark.parametrize("flip", [False, True])
def test_the_most_uncertain_place_is_found_and_ringed_on_the_patients_right(flip):
    segmentation = example(flip)
    place = figures.most_uncertain(segmentation)
    where = segmentation.image.affine[:3] @ [*place, 1]
    assert 31 <= where[0] <= 35 and 20 <= where[1] <= 29 and 9 <= where[2] <= 18  # RAS mm: between the smallest and the largest sample
    figure = figures.draw_case(segmentation)
    axial, ring = next((axes, item) for axes in figure.axes for item in axes.collections if isinstance(item, PathCollection))
    x, y = ring.get_offsets()[0]
    assert (x, y) == pytest.approx((40 - where[0] - 0.5, 48 - where[1] - 0.5))  # mm from the patient's right and from the front
    assert [text.get_text() for text in axial.texts] == ["R", "L", "A", "P"]


def test_the_largest_structure_is_shown_through_its_middle():
    x, y, z = figures.largest_structure(example())
    assert example().segmentation[x, y, z] == 2 and abs(x - 11.5) < 1 and abs(y - 37.5) < 1


def test_pixels_have_their_true_shape():
    figure = figures.draw_case(example())
    sizes = [
        (axes.get_position().width * figure.get_figwidth(), axes.get_position().height * figure.get_figheight()) for axes in figure.axes
    ]
    assert [w / h for w, h in sizes[:3]] == pytest.approx([40 / 48, 40 / 36, 48 / 36], rel=1e-6)


def test_a_close_up_reaches_as_far_in_mm_along_every_axis():
    segmentation = example()
    axial, coronal, _ = planes(segmentation.image, (20, 24, 6))
    assert figures.around(axial, segmentation, (20, 24, 6), 6.0).index.shape == (13, 13, 3)
    assert figures.around(coronal, segmentation, (20, 24, 6), 6.0).index.shape == (5, 13, 3)


def test_neighboring_structures_have_colors_that_differ():
    assert len(set(STRUCTURE_COLORS)) == len(STRUCTURE_COLORS) >= 16
    distances = [np.linalg.norm(np.subtract(to_rgb(a), to_rgb(b))) for a, b in combinations(STRUCTURE_COLORS[:8], 2)]
    assert min(distances) > 0.25


# --- a cohort


def row(case: str, light: str, dice: str, **more: str) -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, ""), "case": case, "light": light, "predicted_dice": dice, "reason": f"why {case}", **more}


def test_a_cohort_is_listed_in_order_with_bars_links_and_decisions():
    rows = [
        row("worst", "bad", "0.250", decision="fix", reader="Ann", date="2026-01-02T03:04:05+0000", note="tip is missing"),
        row("unjudged", "", "", agreement="0.500", folder="/data/a b"),
        row("best <1>", "good", "0.950"),
    ]
    page = report.cohort_page(rows, "Trial 7")
    reader = Reader(page)
    assert reader.text.index("why worst") < reader.text.index("why unjudged") < reader.text.index("why best <1>")
    assert "fix by Ann 2026-01-02" in reader.text and "Note: tip is missing" in reader.text and "decided1 of 3" in reader.text
    assert "(0.50)" in reader.text and "0.95" in reader.text
    assert [attributes["href"] for tag, attributes in reader.tags if tag == "a"] == ["file:///data/a%20b/report.html"]
    bars = [int(width) for width in re.findall(r'<rect width="(\d+)" height="10" fill="#(?!d8dee4)', page)]
    assert bars == [21, 42, 80]  # of 84


def test_a_cohort_without_predictions_has_no_histogram():
    assert not Reader(report.cohort_page([row("a", "", "")], "Trial")).pictures()


# --- a training and the controls


def history(steps: int = 5) -> list[dict[str, float]]:
    """Validations; the fourth is the best."""
    return [
        {"step": 100 * k, "loss": 1 / k, "seconds": 60.0 * k, "score": -abs(k - 4.0), "loss_validation": 1.2 / k}
        | {"dice": 0.15 * k, "dice Nose": 0.1 * k}
        for k in range(1, steps + 1)
    ]


@pytest.mark.parametrize("networks", [1, 4])
def test_a_training_shows_the_best_step_the_curves_and_the_card(networks):
    reader = Reader(report.training_page([history()] * networks, {"Trained on": "3 <images>"}))
    assert len(reader.pictures()) == 1 and pixels(reader.pictures()[0]).std() > 5
    for text in ("400", "0.600", f"{5 * networks} min", "3 <images>"):
        assert text in reader.text, text


def test_the_curves_are_those_of_the_history():
    loss, dice = figures.draw_training([history()]).axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert np.allclose(loss.lines[1].get_ydata(), [1.2 / k for k in range(1, 6)])
    assert [line.get_label() for line in dice.lines] == ["mean", "Nose"] and dice.get_ylim() == (0, 1)


def learned(**more) -> dict:
    """The content of a quality.json."""
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 2000)
    before, after = (reliability(confidence, random.random(2000) < confidence - lack) for lack in (0.2, 0.0))
    return {
        "controls": 9,
        "coverage": 0.9,
        "measured": {"mean_absolute_error": 0.0213, "correlation": None},
        "volumes": {"Nose": [float(np.log(10)), 0.1]},
        "image": {"noise": [0.02, 0.01]},
        "cutoffs": {"dice": 0.81, "volume": 3.0, "image": 3.0, "domain": 1.2},
        "calibration": {"before": before, "after": after, "ece_before": 0.2, "ece_after": 0.01, "temperature": 1.7},
        "cases": [{"name": "a", "dice": {"Nose": 0.8, "Ear": None}, "predicted": {"Nose": 0.83, "Ear": None}}],
        **more,
    }


def test_what_is_normal_is_said_in_units():
    reader = Reader(report.quality_page(learned()))
    assert len(reader.pictures()) == 3  # Dice, reliability, volumes
    for text in ("0.81 or more", "volume of Nose, ml7.41 – 13.5", "the noise0 – 0.0500", "0.2000 → 0.0100", "1.70", "0.021"):
        assert text in reader.text, text


def test_controls_without_calibration_are_shown_without_it():
    reader = Reader(report.quality_page(learned(calibration={}, volumes={})))
    assert len(reader.pictures()) == 1 and "temperature" not in reader.text


def test_the_reliability_diagram_shows_the_tables():
    (axes,) = figures.draw_reliability({"before": learned()["calibration"]["before"]}).axes
    line = next(line for line in axes.lines if line.get_label() == "before")
    assert np.all(line.get_ydata() < line.get_xdata()), "it is too sure everywhere"


# --- numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (0.0004, "< 0.001"), (0.0456, "0.0456"), (1.5, "1.50"), (99.97, "100"), (640.2, "640"), (12345.6, "12346")],
)
def test_three_digits(number, text):
    assert three_digits(number) == text


def test_a_whisker_that_leaves_the_scale_ends_in_an_arrow():
    assert 'aria-label="-10 % to +20 %"' in whisker(9, 10, 12).text and "l-6" not in whisker(9, 10, 12).text
    assert "M110 3l6 4l-6 4" in whisker(9, 10, 30).text
    assert whisker(0, 0, 0).text == ""

"""The HTML report of a registration: complete, self-contained, safe, and right about left and right."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagingai import pictures
from imagingai.datasets import read_label_names
from imagingai.registration import figures
from imagingai.registration.quality import losses, rows, structures, table_text
from imagingai.registration.report import registration_report
from imagingai.report import Html, page, paragraph, state, table
from imagingai.transform import Affine, DisplacementField, warp
from imagingai.volume import Volume

METRICS = {
    "dice_before": {1: 0.5, 2: 0.9},
    "dice": {1: 0.8, 2: 0.7},
    "hd95_before": {1: 6.0, 2: 2.0},
    "hd95": {1: 3.0, 2: 3.0},
    "tre_before": {"mean": 5.0, "max": 9.0},
    "tre": {"mean": 2.0, "max": 4.0},
    "tre_by_displacement": [{"from": 0.0, "to": 4.0, "count": 7, "mean": 1.0, "low": 0.5, "high": 1.5}],
    "sdlogj": 0.3,
    "folding_percent": 0.05,
    "inverse_consistency": {"mean": 0.02, "p95": 0.1, "max": 0.4},
    "cpu_seconds": 4.2,
    "peak_memory_mb": 321,
}
NAMES = {1: "Left <b>ear</b>", 2: "Nose"}


class Reader(HTMLParser):
    """Collects the tags, their attributes and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def pictures(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img" and "src" in attributes]


def pixels(attributes: dict[str, str | None]) -> np.ndarray:
    """The gray values (rows, columns) of an embedded picture."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1]))).convert("L"), float)


def body(shape=(24, 30, 20), affine=None) -> Volume:
    """An egg with a bright lump, on a grid."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij"))
    image = 100.0 * ((grid**2).sum(0) < 0.6) + 80.0 * (((grid - 0.3) ** 2).sum(0) < 0.35)
    return Volume(image[None].astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine)


def wave(fixed: Volume, size: float) -> DisplacementField:
    """A smooth displacement along R of up to `size` mm."""
    x = np.linspace(0, 2 * np.pi, fixed.shape[1])[None, :, None]
    data = np.zeros((3, *fixed.shape), np.float32)
    data[0] = size * np.sin(x)
    return DisplacementField(data, fixed.affine)


def write(path, fixed: Volume, **more) -> Reader:
    """The report of moving `fixed` onto itself with a wave."""
    transform = more.pop("transform", wave(fixed, 4.0))
    moved = warp(fixed, transform, fixed)
    more = {"metrics": METRICS, "label_names": NAMES, "settings": {"fixed": "a.nii.gz", "moving": "b.nii.gz"}, **more}
    registration_report(path, fixed=fixed, moving=fixed, moved=moved, transform=transform, **more)
    return Reader(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with everything in it."""
    fixed = body()
    labels = fixed.with_data((fixed.data > 50).astype(np.uint8) + (fixed.data > 150))
    path = tmp_path_factory.mktemp("report") / "report.html"
    moved_labels = warp(labels, wave(fixed, 4.0), fixed, interpolation="nearest")
    reader = write(
        path,
        fixed,
        similarity_map=fixed.with_data(np.abs(fixed.data - 50)),
        fixed_labels=labels,
        moving_labels=labels,
        moved_labels=moved_labels,
        history={"1/2": [3.0, 2.0, 1.5], "1/1": [1.2, 1.0]},
        settings={"fixed": "a<script>alert(1)</script>.nii.gz", "moving": "b & c.nii.gz", "config": {"similarity": "ncc"}},
    )
    return path, reader


def test_it_needs_no_other_file(report):
    path, reader = report
    for tag, attributes in reader.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not (tag == "script" and "src" in attributes)
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:image/png;base64,") or name not in attributes
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://|fetch\(", text)
    assert path.stat().st_size < 5e6


def test_all_pictures_are_there_and_described(report):
    _, reader = report
    pictures = reader.pictures()
    assert len(pictures) == 11  # fixed, moving, moved, 2 checkerboards, 2 outlines, lattice, Jacobian, similarity, convergence
    for attributes in pictures:
        image = pixels(attributes)
        assert image.shape[1] >= 300 and image.std() > 5, "an empty picture"
        assert len(attributes["alt"]) > 10
    for word in (
        "Warped lattice",
        "Jacobian",
        "Checkerboard of the fixed and the moved",
        "Outlines",
        "dissimilarity",
        "Similarity against iteration",
    ):
        assert any(word in attributes["alt"] for attributes in pictures), word


def test_the_pictures_can_be_taken_out_for_the_docs(report, tmp_path):
    path, reader = report
    script = Path(__file__).parents[2] / "docs" / "make_pictures.py"
    subprocess.run([sys.executable, script, path, tmp_path / "pictures"], check=True)
    written = {file.stem for file in (tmp_path / "pictures").glob("*.png")}
    assert written == {attributes["id"] for attributes in reader.pictures()} and len(written) == 11


def test_names_are_escaped(report):
    _, reader = report
    assert [attributes for tag, attributes in reader.tags if tag == "script"] == [{}]  # only our own
    assert "a<script>alert(1)</script>.nii.gz" in reader.text and "b & c.nii.gz" in reader.text and "Left <b>ear</b>" in reader.text
    assert page("<i>", [paragraph("x < y"), Html("<hr>")]).count("<i>") == 0


def test_the_numbers_are_in_the_tables(report):
    _, reader = report
    for number in ("0.800", "+0.300", "-0.200", "2.00 mm", "0.05 %", "4.2 s", "321 MB", "0.0 – 4.0 mm"):
        assert number in reader.text, number
    assert "Lost more than 0.02: Nose." in reader.text
    assert "Tissue cannot fold" in reader.text


def test_without_labels_the_outline_of_the_tissue_is_drawn(tmp_path):
    reader = write(tmp_path / "r.html", body(), metrics={"sdlogj": 0.1}, label_names=None)
    assert sum("bright tissue" in attributes["alt"] for attributes in reader.pictures()) == 2
    assert "Structures" not in reader.text


@pytest.mark.parametrize("shape", [(24, 30, 1), (24, 30, 2), (64, 3, 40)])
def test_flat_and_thin_images_work(tmp_path, shape):
    reader = write(tmp_path / "r.html", body(shape), similarity_map=body(shape))
    assert len(reader.pictures()) == 10
    if shape[2] == 1:
        assert "no anatomical orientation" in reader.text and "whole image" in reader.pictures()[0]["alt"]


def test_a_moving_image_elsewhere_is_shown_in_the_middle(tmp_path):
    fixed = body()
    far = Volume(fixed.data, fixed.affine + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3))
    shift = Affine(np.eye(4) + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3))
    registration_report(tmp_path / "r.html", fixed=fixed, moving=far, moved=fixed, transform=shift, metrics={})
    pictures = {a.get("id"): pixels(a) for a in Reader((tmp_path / "r.html").read_text(encoding="utf-8")).pictures()}
    assert np.abs(pictures["moving"] - pictures["fixed"]).mean() < 0.1


def test_a_transform_that_leaves_the_moving_image_is_a_problem(tmp_path):
    away = Affine(np.eye(4) + np.array([[0, 0, 0, 30.0]] + [[0] * 4] * 3))
    assert "outside the field of view" in write(tmp_path / "r.html", body(), transform=away).text
    assert "outside the field of view" not in write(tmp_path / "r.html", body(), transform=Affine(np.eye(4))).text


# --- right, left, front, back


def rotation(degrees: float) -> np.ndarray:
    """About an oblique axis, 4x4."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle, matrix = np.radians(degrees), np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def oriented(world: np.ndarray, order: tuple[int, int, int], flip: tuple[int, int, int], turn: float = 0.0) -> Volume:
    """The same patient, (R, A, S) array at 1 x 2 x 3 mm, stored with other axes."""
    data, affine = world.transpose(order), np.diag([1.0, 2.0, 3.0, 1.0])[:, [*order, 3]]
    for axis, turned in enumerate(flip):
        if turned:
            data = np.flip(data, axis)
            affine[:, 3] += affine[:, axis] * (data.shape[axis] - 1)
            affine[:, axis] *= -1
    return Volume(np.ascontiguousarray(data)[None], rotation(turn) @ affine)


ORIENTATIONS = {
    "RAS": ((0, 1, 2), (0, 0, 0), 0),
    "LPS": ((0, 1, 2), (1, 1, 0), 0),
    "LAS": ((0, 1, 2), (1, 0, 0), 0),
    "sagittal PIR": ((1, 2, 0), (1, 1, 0), 0),
    "coronal LIA": ((0, 2, 1), (1, 1, 0), 0),
    "oblique": ((1, 0, 2), (0, 1, 1), 20),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_planes_look_the_same_however_the_image_is_stored(name):
    world = np.zeros((7, 9, 11))
    middle = (3, 4, 5)
    marks = {"R": (6, 4, 5), "L": (0, 4, 5), "A": (3, 8, 5), "P": (3, 0, 5), "S": (3, 4, 10), "I": (3, 4, 0)}
    for number, place in enumerate(marks.values(), 1):
        world[place] = number
    world[middle] = 9
    volume = oriented(world, *ORIENTATIONS[name])
    center = np.argwhere(volume.data[0] == 9)[0]
    cuts = pictures.planes(volume, center)
    assert [cut.name for cut in cuts] == ["axial", "coronal", "sagittal"]
    assert [cut.letters for cut in cuts] == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]
    assert [cut.size for cut in cuts] == [pytest.approx(size) for size in ((7, 18), (7, 33), (18, 33))]
    for cut in cuts:
        picture = cut.cut(volume.data[0])
        rows_, columns = picture.shape
        at = (
            picture[rows_ // 2, 0],
            picture[rows_ // 2, -1],
            picture[0, columns // 2],
            picture[-1, columns // 2],
        )  # left, right, top, bottom
        assert ["?RLAPSI"[int(value)] for value in at] == list(cut.letters)


def test_a_slice_that_knows_where_it_lies_has_letters():
    sagittal = Volume(np.zeros((1, 5, 6, 1)), np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    (cut,) = pictures.planes(sagittal, (2, 3, 0))
    assert cut.name == "sagittal" and cut.letters == ("A", "P", "S", "I")


def test_a_photograph_is_shown_as_it_is_stored():
    picture = np.arange(12.0).reshape(3, 4)  # rows from the top
    stored = Volume(picture.T[None, :, :, None], np.diag([-1.0, -1.0, 1.0, 1.0]))  # as PNG files come
    (cut,) = pictures.planes(stored, (0, 0, 0))
    assert np.array_equal(cut.cut(stored.data[0]), picture)
    assert not any(cut.letters)


def test_the_letters_are_drawn_in_the_pictures():
    figure = pictures.draw_image(pictures.planes(body(), (12, 15, 10)), body().data[0], (0, 200))
    written = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert written == [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]]


def test_pixels_have_their_true_shape():
    thick = Volume(np.random.default_rng(0).random((1, 40, 50, 8)), np.diag([1.0, 1.0, 6.0, 1.0]))
    figure = pictures.draw_image(pictures.planes(thick, (20, 25, 4)), thick.data[0], (0, 1))
    for axes, (width, height) in zip(figure.axes, ((40, 50), (40, 48), (50, 48)), strict=True):
        box = axes.get_position()
        shown = box.width * figure.get_figwidth() / (box.height * figure.get_figheight())
        assert shown == pytest.approx(width / height, rel=1e-6)


def test_otsu_separates_two_groups():
    values = np.random.default_rng(0).normal(np.repeat([10.0, 60.0], 4000), 5.0)
    assert 25 < pictures.otsu(values) < 45


def test_the_lattice_of_an_affine_transform_is_straight():
    fixed = body()
    cuts = pictures.planes(fixed, (12, 15, 10))
    matrix = rotation(25) @ np.diag([1.2, 0.9, 1.0, 1.0])
    straight, waved = (
        figures.draw_lattice(cuts, fixed.data[0], (0, 200), fixed, transform) for transform in (Affine(matrix), wave(fixed, 6.0))
    )

    def bend(figure) -> float:
        lines = [path.vertices for axes in figure.axes for item in axes.collections for path in item.get_paths()]
        lines = [line for line in lines if len(line) > 2]
        return max(np.linalg.svd(line - line.mean(0), compute_uv=False)[1] for line in lines) if lines else 0.0

    assert len(straight.axes[0].collections) == 2 and bend(straight) < 0.5 < bend(waved)


# --- words and the terminal


def test_the_table_for_the_terminal():
    text = table_text(METRICS, {1: "Ear"})
    assert re.search(r"Ear +0\.500 +0\.800 +\+0\.300 +6\.00 mm +3\.00 mm", text)
    assert re.search(r"label 2 +0\.900 +0\.700 +-0\.200", text)
    assert re.search(r"mean of 2 +0\.700 +0\.750 +\+0\.050", text)
    assert re.search(r"Landmark error \(TRE\) +5\.00 mm -> 2\.00 mm", text)
    for line in (r"SDlogJ\) +0\.300", r"Folding +0\.05 %", r"Inverse consistency +0\.02 mm", r"CPU time +4\.2 s", r"peak memory +321 MB"):
        assert re.search(line, text), line
    assert len({len(line) for line in text.splitlines()[:4]}) == 1, "columns are aligned"


def test_the_table_leaves_out_what_is_not_there():
    assert table_text({}) == "\n"
    assert "HD95" not in table_text({"dice": {1: 0.5}}) and " - " in table_text({"dice": {1: 0.5}})


def test_structures_that_lose_are_named():
    assert losses(METRICS, {2: "Nose"}) == ["Nose"]
    assert losses({"dice": {1: 0.5}}, {}) == []


def test_a_metric_that_is_not_known_is_shown_under_its_name():
    found = {name: (meaning.name, after) for name, meaning, _, after in rows({"ndv_percent": 0.25, "words": "no number"})}
    assert found == {"ndv_percent": ("ndv percent", 0.25)}


def test_nan_is_a_dash_and_does_not_spoil_the_mean():
    assert structures({"dice": {1: float("nan"), 2: 0.5}}, {})[-1] == ("mean of 2", [None, 0.5, None, None])


@pytest.mark.parametrize(
    ("metrics", "light"),
    [
        ({"folding_percent": 0.0}, "good"),
        ({"folding_percent": 0.01}, "look"),
        ({"folding_percent": 2.0}, "bad"),
        ({"sdlogj": 0.4}, "good"),
        ({"sdlogj": 0.8}, "look"),
        ({"dice": {1: 0.5}, "dice_before": {1: 0.6}}, "bad"),
        ({"dice": {1: 0.5}}, ""),
        ({"tre": 2.0, "tre_before": 4.0}, "good"),
    ],
)
def test_traffic_lights(metrics, light):
    ((_, meaning, before, after),) = rows(metrics)
    assert meaning.judge(before, after)[0] == light


def test_a_state_does_not_rely_on_color_alone():
    assert "problem" in state("bad").text and state("").text == ""


def test_a_table_marks_its_heads_for_screen_readers():
    html = table("What", ("Name", "Value"), [["a", "1"]], numbers=(1,)).text
    assert html.count('scope="col"') == 2 and html.count('scope="row"') == 1 and "<caption>What</caption>" in html


@pytest.mark.parametrize(("ending", "text"), [(".csv", "value,name\n1,Left ear\n"), (".ctbl", "# a color table\n1 Left-ear 255 0 0 255\n")])
def test_label_names_lie_beside_the_labels(tmp_path, ending, text):
    (tmp_path / f"labels{ending}").write_text(text)
    assert read_label_names(tmp_path / "labels.nii.gz") == {1: "Left ear" if ending == ".csv" else "Left-ear"}
    assert read_label_names(tmp_path / "other.nii.gz") == {}

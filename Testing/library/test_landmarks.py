"""Landmarks keep names and RAS positions in every format; pairs are found by name, else by order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from imagingai.errors import InputError
from imagingai.landmarks import Landmarks, load_landmarks, match, save_landmarks

THREE = Landmarks(("left, upper", 'the "tip"', "right"), np.array([[1.5, -2.25, 3], [-4, 5, 6.125], [0.1, 0.2, 0.3]]))


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_a_file_keeps_names_and_points(suffix, tmp_path):
    save_landmarks(THREE, tmp_path / f"a{suffix}")
    names, points = load_landmarks(tmp_path / f"a{suffix}")
    assert names == THREE.names and np.array_equal(points, THREE.points)


def markups(system: str | None, *positions, **more) -> str:
    points = [{"label": f"F-{k + 1}", "position": position, **more} for k, position in enumerate(positions)]
    return json.dumps({"markups": [{"type": "Fiducial", **({"coordinateSystem": system} if system else {}), "controlPoints": points}]})


@pytest.mark.parametrize("system, expected", [("LPS", [-1, -2, 3]), ("RAS", [1, 2, 3]), (None, [-1, -2, 3])])
def test_markups_say_their_coordinate_system(system, expected, tmp_path):
    (tmp_path / "a.mrk.json").write_text(markups(system, [1, 2, 3]))
    names, points = load_landmarks(tmp_path / "a.mrk.json")
    assert names == ("F-1",) and points.tolist() == [expected]


def test_points_that_were_not_placed_are_left_out(tmp_path):
    (tmp_path / "a.mrk.json").write_text(markups("RAS", [1, 2, 3], positionStatus="undefined"))
    with pytest.raises(InputError, match="holds no landmarks"):
        load_landmarks(tmp_path / "a.mrk.json")


@pytest.mark.parametrize("system, expected", [("LPS", [-1, -2, 3]), ("1", [-1, -2, 3]), ("RAS", [1, 2, 3]), ("0", [1, 2, 3])])
def test_fcsv_says_its_coordinate_system(system, expected, tmp_path):
    (tmp_path / "a.fcsv").write_text(
        f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\nid_0,1,2,3,0,0,0,1,1,1,0,AC,,\n"
    )
    names, points = load_landmarks(tmp_path / "a.fcsv")
    assert names == ("AC",) and points.tolist() == [expected]


@pytest.mark.parametrize(
    "text, names",
    [
        ("1,2,3\n4,5,6\n", ("", "")),
        ("1,2,3,AC\n4,5,6,PC\n", ("AC", "PC")),
        ("x,y,z,label\n1,2,3,AC\n4,5,6,PC\n", ("AC", "PC")),
        ("name;z;y;x\nAC;3;2;1\nPC;6;5;4\n", ("AC", "PC")),
        ("# made by hand\n\nX\tY\tZ\n1\t2\t3\n4\t5\t6\n", ("", "")),
        ("\ufeffx, y, z\n1, 2, 3\n4, 5, 6\n", ("", "")),
    ],
)
def test_tables_with_and_without_header(text, names, tmp_path):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    found = load_landmarks(tmp_path / "a.csv")
    assert found.names == names and found.points.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", None, r"There is no file .*a\.csv"),
        ("a.vtk", "1,2,3", r"a\.vtk is no landmark file\. Readable are \.mrk\.json"),
        ("a.csv", "", "holds no landmarks"),
        ("a.csv", "1,2\n3,4\n", "needs three coordinates x, y, z for every point"),
        ("a.csv", "x,y\n1,2\n", "needs three coordinates"),
        ("a.csv", f"1,2,3,{'x' * 200_000}\n", "cannot be read as landmarks"),
        ("a.csv", "a,b\nfoo,bar\n", "needs three coordinates"),
        ("a.csv", "1,2,3\n1,2,nan\n", r"holds a landmark that is NaN or infinite, number 2\. Remove or place it"),
        ("a.fcsv", "id,1,two,3\n", "needs three coordinates"),
        ("a.fcsv", "# CoordinateSystem = IJK\n0,1,2,3\n", "is in the coordinate system IJK; only RAS and LPS are known"),
        ("a.mrk.json", "{}", "cannot be read as landmarks"),
        ("a.mrk.json", "[1, 2]", "cannot be read as landmarks"),
        ("a.mrk.json", "not json", "cannot be read as landmarks"),
        ("a.mrk.json", markups("RAS", [1, 2]), "needs three coordinates"),
    ],
)
def test_what_is_no_landmark_file(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_landmarks(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match=r"a\.csv cannot be read: "):
        load_landmarks(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("1,2,3,Höhle\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"b\.csv is no UTF-8 text \(byte 7 is 0xf6\)\. Save it again as UTF-8\."):
        load_landmarks(tmp_path / "b.csv")


def test_formats_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"Cannot write a\.txt: choose a name that ends with \.mrk\.json"):
        save_landmarks(THREE, tmp_path / "a.txt")


# --- pairs


def points(*names: str) -> Landmarks:
    return Landmarks(names, np.arange(3.0 * len(names)).reshape(-1, 3))


def test_pairs_by_name():
    names, fixed, moving = match(points("AC", "PC", "tip"), points("tip", "AC", "PC"))
    assert names == ("AC", "PC", "tip") and fixed[:, 0].tolist() == [0, 3, 6] and moving[:, 0].tolist() == [3, 6, 0]


@pytest.mark.parametrize("fixed, moving", [(("F-1", "F-2"), ("M-1", "M-2")), (("", ""), ("", "")), (("a", "a"), ("a", "b"))])
def test_pairs_by_order_where_names_do_not_tell(fixed, moving):
    _, first, second = match(points(*fixed), points(*moving))
    assert np.array_equal(first, second)


def test_landmarks_without_partner():
    with pytest.raises(InputError, match=r"no partner in the other image: PC, tip\. Add or remove"):
        match(points("AC", "PC"), points("AC", "tip"))
    with pytest.raises(InputError, match="There are 2 fixed and 3 moving landmarks, and their names do not match"):
        match(points("a", "b"), points("c", "d", "e"))

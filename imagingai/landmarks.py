"""Named points in RAS mm, from and to .mrk.json and .fcsv (3D Slicer) and .csv (x, y, z[, label], RAS mm)."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagingai.errors import InputError
from imagingai.formats import replacing

FLIP = np.array([-1.0, -1.0, 1.0])  # LPS <-> RAS
SYSTEMS = {"RAS": np.ones(3), "LPS": FLIP, "0": np.ones(3), "1": FLIP}  # numbers as in .fcsv of Slicer 4
SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"


class Landmarks(NamedTuple):
    """names: one per point, possibly empty or repeated; points: (N, 3) RAS mm."""

    names: tuple[str, ...]
    points: np.ndarray


def load_landmarks(path: str | Path) -> Landmarks:
    """Read landmarks. A .csv has x, y, z in RAS mm and may have a label; a header line may name the columns.

    Raises InputError if the file is missing, holds no points, or uses an unknown coordinate system.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    readers = {".json": _read_markups, ".fcsv": _read_fcsv, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise InputError(
            f"{path.name} is no landmark file. Readable are .mrk.json and .fcsv (3D Slicer) and .csv (x, y, z, label in RAS mm)."
        )
    try:
        rows = readers[path.suffix.lower()](_read_text(path), path)
        points = np.array([point for _, point in rows], float).reshape(-1, 3)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error):
        raise InputError(
            f"{path} cannot be read as landmarks: it needs three coordinates x, y, z for every point (2-D images have a z too)."
        ) from None
    if not len(points):
        raise InputError(f"{path} holds no landmarks.")
    if bad := [number for number, point in enumerate(points, 1) if not np.all(np.isfinite(point))]:
        raise InputError(f"{path} holds a landmark that is NaN or infinite, number {bad[0]}. Remove or place it.")
    return Landmarks(tuple(name for name, _ in rows), points)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no UTF-8 text (byte {error.start} is {error.object[error.start]:#x}). Save it again as UTF-8."
        ) from None


def save_landmarks(landmarks: Landmarks, path: str | Path) -> None:
    """Write .mrk.json, .fcsv (both LPS, as 3D Slicer does) or .csv (RAS)."""
    path = Path(path)
    writers = {".json": _as_markups, ".fcsv": _as_fcsv, ".csv": _as_csv}
    if path.suffix.lower() not in writers:
        raise InputError(f"Cannot write {path.name}: choose a name that ends with .mrk.json, .fcsv or .csv.")
    text = writers[path.suffix.lower()](landmarks)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def match(fixed: Landmarks, moving: Landmarks) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names and corresponding points (N, 3) of both: by name where names are unique and shared, else by order.

    Raises InputError if a name has no partner, or the counts differ.
    """
    unique = all(len(set(item.names)) == len(item.names) for item in (fixed, moving))
    if unique and set(fixed.names) & set(moving.names) - {""}:
        if alone := sorted(set(fixed.names) ^ set(moving.names)):
            raise InputError(f"These landmarks have no partner in the other image: {', '.join(alone[:10])}. Add or remove them.")
        rows = [moving.names.index(name) for name in fixed.names]
        return fixed.names, fixed.points, moving.points[rows]
    if len(fixed.points) != len(moving.points):
        raise InputError(
            f"There are {len(fixed.points)} fixed and {len(moving.points)} moving landmarks, and their names do not match. "
            "Give corresponding landmarks the same name."
        )
    return fixed.names, fixed.points, moving.points


Rows = Sequence[tuple[str, Sequence[float]]]


def _system(name: str, path: Path) -> np.ndarray:
    if name.upper() not in SYSTEMS:
        raise InputError(f"{path} is in the coordinate system {name}; only RAS and LPS are known. Save it again with 3D Slicer.")
    return SYSTEMS[name.upper()]


def _read_markups(text: str, path: Path) -> Rows:
    rows = []
    for markup in json.loads(text)["markups"]:
        flip = _system(str(markup.get("coordinateSystem", "LPS")), path)
        for point in markup.get("controlPoints", ()):
            if point.get("positionStatus", "defined") == "defined":
                x, y, z = point["position"]
                rows.append((str(point.get("label", "")), flip * (x, y, z)))
    return rows


def _read_fcsv(text: str, path: Path) -> Rows:
    flip, columns, rows = SYSTEMS["RAS"], ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"], []
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip() == "CoordinateSystem":
                flip = _system(value.strip(), path)
            elif key.strip() == "columns":
                columns = value.strip().split(",")
        elif line.strip():
            cells = dict(zip(columns, next(csv.reader([line])), strict=False))
            rows.append((cells.get("label", ""), flip * [float(cells[axis]) for axis in "xyz"]))
    return rows


def _read_csv(text: str, path: Path) -> Rows:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return []
    separator = max(",;\t", key=lines[0].count)
    table = [[cell.strip() for cell in cells] for cells in csv.reader(lines, delimiter=separator)]
    columns = ["x", "y", "z", "label"]
    if not _is_number(table[0][0]) or not _is_number(table[0][1]):
        columns = ["label" if cell.lower() == "name" else cell.lower() for cell in table.pop(0)]
    named = [dict(zip(columns, cells, strict=False)) for cells in table]
    return [(cells.get("label", ""), [float(cells[axis]) for axis in "xyz"]) for cells in named]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_markups(landmarks: Landmarks) -> str:
    points = [
        {"id": str(k + 1), "label": name, "position": point.tolist(), "positionStatus": "defined"}
        for k, (name, point) in enumerate(zip(landmarks.names, landmarks.points * FLIP, strict=True))
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    return json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=1)


def _as_fcsv(landmarks: Landmarks) -> str:
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
    head += "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    rows = zip(landmarks.names, (landmarks.points * FLIP).tolist(), strict=True)
    return head + "".join(f"{k + 1},{x!r},{y!r},{z!r},0,0,0,1,1,1,0,{_quoted(name)},,\n" for k, (name, (x, y, z)) in enumerate(rows))


def _as_csv(landmarks: Landmarks) -> str:
    rows = zip(landmarks.names, landmarks.points.tolist(), strict=True)
    return "x,y,z,label\n" + "".join(f"{x!r},{y!r},{z!r},{_quoted(name)}\n" for name, (x, y, z) in rows)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\n') else name

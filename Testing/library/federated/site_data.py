"""The data of small sites: tables of features, and images of squares and cubes. Used by the tests of what a site learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imagingai.volume import Volume, save

CLASSES = ("well", "sick")


def write_table(file: Path, columns: dict[str, list], comma: str = ",") -> Path:
    """A CSV file from its columns."""
    rows = [comma.join(columns), *(comma.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def table_columns(count: int = 12, seed: int = 0) -> dict[str, list]:
    """Cases whose volume tells the class and, roughly, the age."""
    random = np.random.default_rng(seed)
    labels = [CLASSES[k % 2] for k in range(count)]
    volume = [round(4000 + 900 * (label == "sick") + 300 * random.normal(), 2) for label in labels]
    age = [round(50 + (v - 4000) / 50 + random.normal(), 1) for v in volume]
    thickness = [round(2.5 + 0.1 * random.normal(), 4) for _ in labels]
    return {"case": [f"p{k:02d}" for k in range(count)], "label": labels, "volume": volume, "thickness": thickness, "age": age}


def table_site(folder: Path, count: int = 12, seed: int = 0) -> dict[str, Path]:
    """The inputs of a site with a table."""
    return {"table": write_table(folder / "table.csv", table_columns(count, seed))}


def image_site(folder: Path, count: int = 6, dimension: int = 2, size: int = 24, gain: float = 1.0) -> dict[str, Path]:
    """The inputs of a site with images of a block, in every second case with a hole, and its labels (1: left half, 2: right half)."""
    random, shape = np.random.default_rng(count), (size,) * dimension + (1,) * (3 - dimension)
    block, hole = (tuple(slice(a, size - a) if n > 1 else slice(None) for n in shape) for a in (size // 3, size // 3 + 2))
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    labels = np.zeros(shape, np.uint8)
    labels[block] = 1
    labels[size // 2 :][labels[size // 2 :] > 0] = 2
    for k in range(count):
        image = 0.1 * random.random(shape).astype(np.float32)
        image[block] += 1
        image[hole] -= k % 2
        save(Volume.from_array(gain * image), folder / "images" / f"p{k:02d}.nii.gz")
        save(Volume.from_array(labels), folder / "labels" / f"p{k:02d}.nii.gz")
    cases = [f"p{k:02d}" for k in range(count)]
    write_table(folder / "table.csv", {"case": cases, "label": [CLASSES[k % 2] for k in range(count)]})
    return {"images": folder / "images", "labels": folder / "labels", "table": folder / "table.csv"}

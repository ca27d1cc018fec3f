"""Readers beside each other, and beside the samples of a model: overlap, agreement, diversity, energy distance, volumes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from imagingai.datasets import list_images, read_label_names, stem
from imagingai.errors import InputError
from imagingai.job import Report
from imagingai.uncertainty import measures
from imagingai.uncertainty.config import CompareRatersConfig
from imagingai.uncertainty.raters_report import MEANINGS, raters_page, show, show_size
from imagingai.volume import Volume, load, same_grid, save

MOST_VALUES = 500  # of a label image; more are those of an ordinary image


@dataclass(frozen=True)
class Readers:
    """Labels of several readers, and samples to compare them with, as class indices on one grid; 0 is the background."""

    names: tuple[str, ...]
    labels: np.ndarray  # (R, X, Y, Z)
    samples: np.ndarray  # (S, X, Y, Z); S == 0 without samples
    grid: Volume
    values: tuple[int, ...]  # value of each class in the files
    structures: tuple[str, ...]  # name of each class
    left_out: tuple[int, ...]  # values of the samples that no reader drew; they count as background


def compare_raters_files(inputs: dict[str, Path], config: CompareRatersConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Compare the readers of a folder; write the agreement, the entropy of the votes, two tables and a page."""
    report(0.0, "Reading")
    readers = read_readers(inputs["labels"], inputs.get("result"))
    report(0.3, "Comparing")
    found = compare_raters(readers, config)
    report(0.7, "Writing the maps")
    maps = {"agreement": measures.agreement, "reader_entropy": measures.reader_entropy}
    drawn = {name: readers.grid.with_data(function(readers.labels, len(readers.values))) for name, function in maps.items()}
    if len(readers.names) > 1:
        for name, volume in drawn.items():
            save(volume, folder / f"{name}.nii.gz")
    _write_tables(readers, found, folder)
    report(0.8, "Writing the report")
    html = raters_page(inputs["labels"].name, readers, found, drawn["reader_entropy"].data[0])
    (folder / "report.html").write_text(html, encoding="utf-8")
    report(1.0, "Done")
    return found | {"table": table_text(found)}


# --- reading


def read_readers(folder: Path, samples: Path | None = None) -> Readers:
    """The labels of a folder, one file per reader, and the segmentations of another folder.

    Raises InputError, naming the files, if the grids differ, values are no labels or have nothing in common, nobody marked
    anything, or there is one reader only and nothing to compare with.
    """
    files = list_images(folder)
    others = find_samples(samples) if samples else []
    if len(files) == 1 and not others:
        raise InputError(f"{folder} holds one reader only, {files[0].name}. Add the labels of another one, or give --result.")
    if double := [name for name, count in Counter(map(stem, files)).items() if count > 1]:
        raise InputError(f"{folder} holds the labels of {double[0]} twice. Keep one file for each reader.")
    volumes = [load(file, label=True) for file in (*files, *others)]
    _check_grids(volumes, [*files, *others])
    sets = [_values(volume, file) for volume, file in zip(volumes, (*files, *others), strict=True)]
    _check_common(files, sets[: len(files)], sets[len(files) :], folder)
    values = sorted({0}.union(*sets[: len(files)]))
    indices = np.stack([_to_classes(volume.data[0], values) for volume in volumes])
    return Readers(
        names=tuple(map(stem, files)),
        labels=indices[: len(files)],
        samples=indices[len(files) :],
        grid=volumes[0],
        values=tuple(values),
        structures=("background", *_structure_names(values[1:], files[0], samples)),
        left_out=tuple(sorted(set().union(*sets[len(files) :]) - set(values))),
    )


def _structure_names(values: Sequence[int], file: Path, samples: Path | None) -> list[str]:
    """The names that lie beside the labels or the samples; a value without a name of its own is called by its number."""
    known = {**(read_label_names(samples / "segmentation.nii.gz") if samples else {}), **read_label_names(file)}
    names = [known.get(value, f"label {value}") for value in values]
    return [f"label {value}" if names.count(name) > 1 else name for value, name in zip(values, names, strict=True)]


def find_samples(folder: Path) -> list[Path]:
    """The segmentations of a folder: of a result of segment its samples, or else its segmentation; otherwise all images."""
    files = list_images(folder)
    drawn = [file for file in files if stem(file).startswith("sample_")]
    return drawn or [file for file in files if file.name == "segmentation.nii.gz"] or files


def _check_grids(volumes: Sequence[Volume], files: Sequence[Path]) -> None:
    for volume, file in zip(volumes, files, strict=True):
        if not same_grid(volumes[0], volume):
            raise InputError(
                f"{files[0].name} {volumes[0].shape} and {file.name} {volume.shape} do not share a grid. "
                "Resample one onto the other, for example with imagingai apply --interpolation nearest."
            )


def _values(volume: Volume, file: Path) -> set[int]:
    """The values above 0."""
    found = np.unique(volume.data)
    if found[0] < 0:
        raise InputError(f"{file} holds the value {found[0]}: labels are 0 or larger. Renumber them.")
    if len(found) > MOST_VALUES:
        raise InputError(f"{file} holds {len(found)} different values, so it is no label image. Give the labels, not the image.")
    return set(found.tolist()) - {0}


def _check_common(files: Sequence[Path], readers: Sequence[set[int]], samples: Sequence[set[int]], folder: Path) -> None:
    """Raise InputError if nobody marked anything, or somebody has values of his own only."""
    if not any(readers):
        raise InputError(f"No reader of {folder} marked anything: every voxel of all {len(files)} files is 0.")
    for k, (file, own) in enumerate(zip(files, readers, strict=True)):
        others = set().union(*readers[:k], *readers[k + 1 :])
        if own and others and not own & others:
            raise InputError(f"{file.name} ({_list(own)}) and the other readers ({_list(others)}) have no value in common. {SAME}")
    drawn, marked = set().union(*samples), set().union(*readers)
    if drawn and not drawn & marked:
        raise InputError(f"The samples ({_list(drawn)}) and the readers ({_list(marked)}) have no value in common. {SAME}")


SAME = "Give the same structure the same value in all files."


def _list(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)[:8]))


def _to_classes(data: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Class indices of label values; those that are not known become background."""
    index = np.minimum(np.searchsorted(values, data), len(values) - 1)
    return np.where(np.asarray(values)[index] == data, index, 0).astype(np.uint16)


# --- comparing


def compare_raters(readers: Readers, config: CompareRatersConfig = CompareRatersConfig()) -> dict[str, Any]:
    """The numbers of a comparison, as plain data: a missing value (a structure that neither of two readers has) is None.

    Distances are 1 - IoU; energy distances of Czolbe et al. (2021), eq. 3. Volumes are in ml, areas of a 2-D image in mm².
    """
    count, names = len(readers.values), readers.structures[1:]
    overlap = measures.pairwise_dice(readers.labels, readers.labels, count)
    upper = np.triu_indices(len(readers.names), 1)
    pairs = overlap[:, upper[0], upper[1]]
    flat = readers.grid.ndim == 2
    voxel = float(np.prod(readers.grid.spacing[:2]) if flat else np.prod(readers.grid.spacing) / 1000)
    sizes = measures.volumes(readers.labels, voxel, readers.structures)
    found: dict[str, Any] = {
        "readers": list(readers.names),
        "samples": len(readers.samples),
        "structures": dict(zip(names, readers.values[1:], strict=True)),
        "left_out": list(readers.left_out),
        "dice": dict(zip(names, map(_plain, overlap), strict=True)),
        "dice_mean": _plain(_mean(overlap, 0)),
        "pair_dice": dict(zip(names, _plain(_mean(pairs, 1)), strict=True)),
        "unit": "mm²" if flat else "ml",
        "volumes": {name: dict(zip(readers.names, sizes[name]["samples"], strict=True)) for name in names},
    }
    summary = _among_readers(readers, pairs) if len(readers.names) > 1 else {}
    return found | {"summary": summary | (_to_samples(readers, found, config) if len(readers.samples) else {})}


def _among_readers(readers: Readers, pairs: np.ndarray) -> dict[str, float]:
    """How far the readers agree. pairs: Dice (K - 1, pairs) of the structures."""
    marked, same = (readers.labels > 0).any(0), (readers.labels == readers.labels[0]).all(0)
    return {
        "dice": float(np.nanmean(pairs)),
        "unanimous_percent": float(100 * same[marked].mean()),
        "diversity": measures.diversity(readers.labels, len(readers.values)),
    }


def _to_samples(readers: Readers, found: dict[str, Any], config: CompareRatersConfig) -> dict[str, float]:
    """Distances of the readers and the samples; the curve goes into `found`."""
    count = len(readers.values)
    curve = measures.ged_curve(readers.labels, readers.samples, count, range(1, config.samples + 1), seed=config.seed)
    low, middle, high = np.quantile(curve, (0.25, 0.5, 0.75), axis=1)
    found["ged_curve"] = {"median": middle.tolist(), "low": low.tolist(), "high": high.tolist()}
    return {
        "ged": measures.ged(readers.labels, readers.samples, count),
        "diversity_samples": measures.diversity(readers.samples, count),
    }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean without NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def _plain(values: np.ndarray) -> Any:
    """As JSON, which has no NaN."""
    return np.where(np.isfinite(values), values, None).tolist()


# --- tables


def _write_tables(readers: Readers, found: dict[str, Any], folder: Path) -> None:
    """dice.csv: a row for each structure and pair of readers; volumes.csv: a row for each structure and reader."""
    pairs = list(combinations(range(len(readers.names)), 2))
    overlaps = [(name, readers.names[i], readers.names[j], found["dice"][name][i][j]) for name in readers.structures[1:] for i, j in pairs]
    sizes = [(name, reader, size) for name, row in found["volumes"].items() for reader, size in row.items()]
    for file, head, rows in (
        ("dice.csv", ("structure", "reader", "other", "dice"), overlaps),
        ("volumes.csv", ("structure", "reader", found["unit"]), sizes),
    ):
        with (folder / file).open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([head, *rows])


def table_text(found: dict[str, Any]) -> str:
    """The numbers as text for a terminal."""
    width = max(map(len, found["volumes"])) + 2
    columns = {name: max(len(name) + 2, 9) for name in found["readers"]}
    lines = [f"{'':{width}}{'Dice':>8}" + "".join(f"{name:>{column}}" for name, column in columns.items()) + f"  {found['unit']}"]
    for name, row in found["volumes"].items():
        sizes = "".join(f"{show_size(size):>{columns[reader]}}" for reader, size in row.items())
        lines.append(f"{name:{width}}{show(found['pair_dice'][name]):>8}{sizes}")
    lines += ["", *(f"{MEANINGS[key][0]:32}{show(value)}" for key, value in found["summary"].items())]
    return "\n".join(lines) + "\n"

"""Folders of images and labels: which files make a case, and the labels of how many readers it has."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagingai.errors import InputError

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")
HEADER = 1 << 20  # bytes that the header of a .nrrd has at most
CHANNEL = re.compile(r"_(\d{4})$")  # case_0000.nii.gz: the first channel of the case


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case. images: its channels; labels: reader -> file, empty while it is not labeled."""

    name: str
    images: tuple[Path, ...]
    labels: dict[str, Path] = field(default_factory=dict)


def list_images(folder: Path) -> list[Path]:
    """The images of a folder, by name; hidden files are left out."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of images.")
    files = _images_in(folder)
    if not files:
        raise InputError(f"{folder} holds no images ({', '.join(ENDINGS)}).")
    return files


def find_cases(images: Path, labels: Path | None = None) -> list[CaseFiles]:
    """The cases of a folder of images, by name, each with the labels that there are.

    Channels of a case end in _0000, _0001 ... Labels have the name of the case: `labels/case.nii.gz` for one reader (named ""),
    `labels/reader/case.nii.gz` for several. Raises InputError if no case has labels although a folder of them is given.
    """
    channels: dict[str, list[Path]] = {}
    for file in list_images(images):
        channels.setdefault(CHANNEL.sub("", stem(file)), []).append(file)
    _check_channels(channels)
    readers = _find_readers(labels) if labels else {}
    cases = [
        CaseFiles(name, tuple(files), {reader: found[name] for reader, found in readers.items() if name in found})
        for name, files in channels.items()
    ]
    if labels and not any(case.labels for case in cases):
        raise InputError(f"{labels} has no labels for {cases[0].images[0].name}: the files need the same names.")
    return cases


def stem(file: Path) -> str:
    """The name up to the first dot: scan.nii.gz -> scan."""
    return file.name.split(".")[0]


def split(cases: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """Cases to learn from and those held out: every n-th by name. Raises InputError for a single case of which a share is held out."""
    count = min(round(len(cases) * share), len(cases) - 1) if share else 0
    if share and len(cases) < 2:
        raise InputError(f"{len(cases)} labeled image is not enough to train: at least one more is needed, which is held out to validate.")
    held = {int((k + 0.5) * len(cases) / max(count, 1)) for k in range(max(count, 1))} if share else set()
    return [case for k, case in enumerate(cases) if k not in held], [case for k, case in enumerate(cases) if k in held]


def read_label_names(labels: Path) -> dict[int, str]:
    """Names of structures: in a .seg.nrrd, or beside the file as .csv (value,name) or .ctbl (3D Slicer color table); else none."""
    if labels.name.endswith(".seg.nrrd"):
        return _segment_names(labels)
    for ending in (".csv", ".ctbl"):
        file = labels.with_name(stem(labels) + ending)
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{file} is no text in UTF-8. Save it as CSV UTF-8, or remove it.") from None
            comma = ";" if lines and ";" in lines[0] else ","  # how Excel saves it in most of Europe
            cells = list(csv.reader(lines, delimiter=comma)) if ending == ".csv" else [line.split() for line in lines]
            return {int(row[0]): row[1].strip() for row in cells if len(row) > 1 and row[0].strip().lstrip("-").isdigit()}
    return {}


def _segment_names(file: Path) -> dict[int, str]:
    """The names in the header of a segmentation of 3D Slicer, which ends with an empty line."""
    with file.open("rb") as content:
        header = content.read(HEADER).replace(b"\r", b"").partition(b"\n\n")[0].decode("utf-8", "replace")
    found = {key: dict(re.findall(rf"^Segment(\d+)_{key}:=(.*)$", header, re.M)) for key in ("Name", "LabelValue")}
    return {int(value): found["Name"][number].strip() for number, value in found["LabelValue"].items() if number in found["Name"]}


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.name.lower().endswith(ENDINGS))


def _find_readers(labels: Path) -> dict[str, dict[str, Path]]:
    """reader -> case -> file."""
    if not labels.is_dir():
        raise InputError(f"{labels} is not a folder of labels.")
    folders = [folder for folder in sorted(labels.iterdir()) if folder.is_dir() and not folder.name.startswith(".") and _images_in(folder)]
    own = _images_in(labels)
    if own and folders:
        raise InputError(f"{labels} holds both label images and folders ({folders[0].name}). Put the labels of every reader into a folder.")
    if not own and not folders:
        raise InputError(f"{labels} holds no label images ({', '.join(ENDINGS)}).")
    readers = {folder.name: _images_in(folder) for folder in folders} or {"": own}
    return {reader: {stem(file): file for file in files} for reader, files in readers.items()}


def _check_channels(channels: dict[str, list[Path]]) -> None:
    """Raise InputError if two files would be the same case, or the cases have different numbers of channels."""
    for name, files in channels.items():
        if len(files) > 1 and not all(CHANNEL.search(stem(file)) for file in files):
            raise InputError(f"{files[0].name} and {files[1].name} are the same case {name}. Remove or rename one of them.")
    (first, files), *rest = channels.items()
    for name, others in rest:
        if len(others) != len(files):
            raise InputError(f"{first} has {len(files)} channels and {name} has {len(others)}: every case needs the same ones.")
        if missing := set(map(_channel, files)) - set(map(_channel, others)):
            raise InputError(f"{first} has the channel {min(missing)} and {name} has not: every case needs the same ones.")


def _channel(file: Path) -> str:
    """_0001 of case_0001.nii.gz; empty for an image without channels."""
    found = CHANNEL.search(stem(file))
    return found[0] if found else ""

"""Classes or values from tables of features, such as regional volumes: reading the CSV, logistic and linear regression, a small MLP."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from imagingai.datasets import ENDINGS
from imagingai.errors import InputError
from imagingai.federated.cases import CaseLearner, Sample, class_number, divide_samples, is_classification, outputs_of
from imagingai.federated.cases import save as save
from imagingai.federated.classifier import Description, statistics
from imagingai.federated.config import ProjectConfig
from imagingai.federated.learner import Found, need, read_all
from imagingai.job import Report

HIDDEN = 32
Row = dict[str, str]


def build(project: ProjectConfig) -> nn.Module:
    """linear: logistic regression (a logit for each class) or linear regression; mlp: one hidden layer."""
    outputs = outputs_of(project)
    if not project.features:
        raise InputError(f"--features is empty: {project.task} needs the names of the columns to learn from.")
    if project.task == "roi-regression" and (len(project.target_range) != 2 or project.target_range[0] >= project.target_range[1]):
        raise InputError("--target-range needs a low and a high value of the target, for example 20 90 for ages.")
    if project.augmentation not in ("auto", "none"):
        raise InputError(f"--augmentation {project.augmentation} changes images, and {project.task} has none. Leave it out.")
    if project.size == "linear":
        return nn.Linear(len(project.features), outputs)
    return nn.Sequential(nn.Linear(len(project.features), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def find(project: ProjectConfig, inputs: Mapping[str, Path]) -> Found:
    """The rows of the table. Raises InputError if a column is missing."""
    (table,) = need(inputs, ["table"], project.task)
    rows, problems = read_table(table, [*project.features, *([project.target] if project.target else [])])
    return Found({name: partial(read_row, project, row) for name, row in rows.items()}, problems)


def read_row(project: ProjectConfig, row: Row) -> Sample:
    """A case of the table. Raises InputError for a value that is missing or no number, and for an unknown class."""
    features = np.array([number(row, column) for column in project.features])
    return Sample(row["case"], features, read_target(project, row), patient_of(row))


def open_cases(project: ProjectConfig, found: Found, _histogram: Sequence[float] | None, report: Report) -> CaseLearner:
    """A learner of the rows; features are standardized by the mean and deviation of the training cases of this site."""
    samples = read_all(found, report)
    training, _ = divide_samples(project, samples)
    description = Description(project, **statistics([samples[k].input for k in training]))
    return CaseLearner(description, samples, lambda features, _seed: features)


def read_target(project: ProjectConfig, row: Row) -> float:
    """Class number or value; nan if no target is wanted (for a prediction)."""
    if not project.target:
        return math.nan
    if is_classification(project):
        return class_number(project, row["case"], text_of(row, project.target))
    return number(row, project.target)


def patient_of(row: Row) -> str:
    """Whose case it is: the column `patient`, if the table has one; else every case has a patient of its own."""
    return row.get("patient") or row["case"]


def read_table(file: Path, columns: Sequence[str]) -> tuple[dict[str, Row], list[tuple[str, str]]]:
    """Rows of a CSV file by case, and problems (case, sentence). Separated by commas, or by semicolons as Excel does in most of Europe.

    Raises InputError if the file cannot be read, or a column of `columns` or `case` is missing.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip(",; \t")]
    except OSError as error:
        raise InputError(f"The table {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no text in UTF-8. Save it as CSV UTF-8.") from None
    comma = ";" if lines and ";" in lines[0] else ","
    header, *cells = [[cell.strip() for cell in line] for line in csv.reader(lines, delimiter=comma)] or [[]]
    for column in ("case", *columns):
        if header.count(column) != 1:
            raise InputError(
                f"{file} has {header.count(column) or 'no'} columns {column!r}; its columns are {', '.join(header) or 'none'}."
            )
    rows = [dict(zip(header, line, strict=False)) for line in cells]
    if comma == ";":
        rows = [{name: cell if name == "case" else _decimal_point(cell) for name, cell in row.items()} for row in rows]
    return _by_case(rows, file)


def number(row: Row, column: str) -> float:
    """A finite number of a row; raises InputError for anything else."""
    text = text_of(row, column)
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{row['case']} has {text!r} in the column {column!r}, which is no number.") from None
    if not math.isfinite(value):
        raise InputError(f"{row['case']} has {text} in the column {column!r}: fill it in, or leave the case out.")
    return value


def text_of(row: Row, column: str) -> str:
    """The cell of a row; raises InputError if it is empty."""
    if not row.get(column):
        raise InputError(f"{row['case']} has nothing in the column {column!r}: fill it in, or leave the case out.")
    return row[column]


def _by_case(rows: list[Row], file: Path) -> tuple[dict[str, Row], list[tuple[str, str]]]:
    """Rows by the name of the case, without the ending of a file."""
    for line, row in enumerate(rows, start=2):
        ending = next((end for end in ENDINGS if row["case"].lower().endswith(end)), "")
        row["case"] = row["case"][: len(row["case"]) - len(ending)]
        if not row["case"]:
            raise InputError(f"Line {line} of {file} has no name of a case. Fill it in, or remove the line.")
    counts = Counter(row["case"] for row in rows)
    problems = [(name, f"{name} is {count} times in {file}. Keep one row.") for name, count in counts.items() if count > 1]
    return {row["case"]: row for row in rows if counts[row["case"]] == 1}, problems


def _decimal_point(cell: str) -> str:
    """1,5 -> 1.5"""
    return cell.replace(",", ".") if cell.replace(",", "", 1).lstrip("-").isdigit() else cell

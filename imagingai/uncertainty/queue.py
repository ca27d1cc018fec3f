"""The queue of a cohort, worst first: rows from the results of segment, decisions of a reader, one CSV file that is always whole.

Standard library only: the panel reads and writes the queue itself.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imagingai.errors import NO_SPACE, InputError, JobFailed
from imagingai.job import read_result

DECISIONS = ("accept", "fix", "reject")
LIGHTS = ("bad", "look", "", "good")  # in the order of the queue; "" was not judged
# of a row: predicted_dice is that of the worst structure (by learn-quality, or else by Reverse Classification Accuracy);
# agreement is the lowest mean Dice between the samples of a structure; made is when the result was
COLUMNS = ("case", "light", "predicted_dice", "structure", "reason", "decision", "reader", "date", "note")
COLUMNS += ("agreement", "out_of_domain", "model", "made", "folder")
Row = dict[str, str]


def collect(results: Path) -> list[Row]:
    """A row for each folder in `results` (at any depth) that is a job of segment, worst first; failed ones too, with their reason.

    Raises InputError if there is none.
    """
    rows = [row for folder in sorted({file.parent for file in results.rglob("job.json")}) if (row := _row(folder, results))]
    if not rows:
        raise InputError(f"{results} holds no result of segment. Give the folder whose folders imagingai segment (or a batch of it) wrote.")
    _mark_other_models(rows)
    return sorted(rows, key=badness)


def badness(row: Mapping[str, str]) -> tuple[int, float, str]:
    """Sorts the worst first: by the light, then by the predicted Dice, or else by how far the samples agree."""
    number = row["predicted_dice"] or row["agreement"]
    return LIGHTS.index(row["light"]), float(number) if number else -1.0, row["case"]


def keep_decisions(rows: Iterable[Row], earlier: Iterable[Mapping[str, str]]) -> list[Row]:
    """The rows with the decisions of an earlier queue. A case that was segmented again since must be decided anew; its note says so."""
    decided, kept = {row["case"]: row for row in earlier if row["date"]}, []
    for row in rows:
        old = decided.get(row["case"])
        if old and old["made"] == row["made"]:
            row = row | {name: old[name] for name in ("decision", "reader", "date", "note")}
        elif old and old["decision"]:
            row = row | {"note": f"{old['decision']} of {old['date']} was about an earlier result. {old['note']}".strip()}
        kept.append(row)
    return kept


def read(path: Path) -> list[Row]:
    """The rows of a queue file. Raises InputError if it is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise InputError(f"The queue {path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The queue {path} is no CSV file in UTF-8 ({error}). Give the queue.csv that check-quality wrote.") from None
    if missing := [name for name in COLUMNS if not rows or rows[0].get(name) is None]:
        raise InputError(f"The queue {path} has no column {missing[0]}. Give the queue.csv that check-quality wrote.")
    return [{name: row[name] or "" for name in COLUMNS} for row in rows]


def write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a queue file; a stop or a power cut at any time leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kind = JobFailed if error.errno in NO_SPACE else InputError
        raise kind(f"The queue {path} cannot be written: {error.strerror}. Close what uses it, or make room, and decide again.") from None
    finally:
        temporary.unlink(missing_ok=True)


def decide(path: Path, case: str, decision: str, reader: str = "", note: str = "") -> Row:
    """Write a decision (accept, fix, reject, or "" to take it back) into a queue file, and return the row."""
    if decision not in ("", *DECISIONS):
        raise InputError(f"There is no decision {decision!r}. Choose from {', '.join(DECISIONS)}, or nothing to take it back.")
    rows = read(path)
    row = next((row for row in rows if row["case"] == case), None)
    if row is None:
        raise InputError(f"The queue {path} has no case {case!r}. Its cases are {', '.join(row['case'] for row in rows[:5])} ...")
    row.update(decision=decision, reader=reader, date=time.strftime("%Y-%m-%dT%H:%M:%S%z"), note=" ".join(note.split()))
    write(path, rows)
    return row


def _row(folder: Path, results: Path) -> Row | None:
    """The row of a job folder; None if it is of another task."""
    result = read_result(folder)
    if _task(folder, result) != "segment":
        return None
    row = dict.fromkeys(COLUMNS, "")
    row |= {"case": folder.relative_to(results).as_posix(), "folder": str(folder.absolute()), "made": str(result.get("started", ""))}
    if row["case"] == ".":
        row["case"] = folder.absolute().name
    if result.get("state") != "done":
        return row | {"light": "bad", "reason": _why_not(result)}
    return row | {"model": str(result.get("model", ""))} | _judged(result)


def _task(folder: Path, result: Mapping[str, Any]) -> str:
    """The task of a job folder, even if its result is missing."""
    job = result.get("job")
    if not isinstance(job, dict):
        try:
            job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
    return str(job.get("task", "")) if isinstance(job, dict) else ""


def _why_not(result: Mapping[str, Any]) -> str:
    text = str(result.get("error", "")).partition("\n")[0]
    if result.get("state") == "cancelled":
        return "It was stopped before it had a result."
    return f"It failed: {text}" if text else "It has no result: it is still running, or it was killed."


def _judged(result: Mapping[str, Any]) -> Row:
    """What a finished result says about itself."""
    quality, features = _dict(result.get("quality")), _dict(result.get("uncertainty"))
    light = quality.get("light", "")
    dice = {name: found["dice"] for name, found in _dict(quality.get("predicted_dice")).items() if _number(_dict(found).get("dice"))}
    dice = dice or {name: value for name, value in _dict(result.get("rca")).items() if _number(value)}
    agreement = [value for found in features.values() if _number(value := _dict(found).get("samples_dice"))]
    worst = min(dice, key=dice.__getitem__, default="")
    return {
        "light": light if light in LIGHTS else "",
        "predicted_dice": f"{dice[worst]:.3f}" if dice else "",
        "structure": worst,
        "reason": " ".join(map(str, quality.get("reasons", []))) or "Its quality was not judged.",
        "agreement": f"{min(agreement):.3f}" if agreement else "",
        "out_of_domain": "yes" if quality.get("out_of_domain") else "",
    }


def _mark_other_models(rows: list[Row]) -> None:
    """Results of another model than most of the cohort cannot be compared with the rest: they must be looked at."""
    counts = Counter(row["model"] for row in rows if row["model"])
    if len(counts) < 2:
        return
    ((usual, number),) = counts.most_common(1)
    for row in rows:
        if row["model"] and row["model"] != usual:
            row["light"] = row["light"] if row["light"] == "bad" else "look"
            row["reason"] = (
                f"It was made with another model than {number} of the {len(rows)} results, so that they cannot be compared. "
                + (row["reason"])
            )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value

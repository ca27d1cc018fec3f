"""`imagingai batch jobs.csv`: every row a job folder, resumable, one CSV of results."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagingai.__main__ import make_job
from imagingai.errors import Cancelled, InputError
from imagingai.job import Job, read_result
from imagingai.progress import Bar
from imagingai.tasks import TASKS

log = logging.getLogger(__name__)


def run_batch(table: Path, row: int | None = None, parallel: int = 1) -> int:
    """Run the rows of a CSV file that are not finished; returns the exit code: 0 if all of them, or the one `row`, are done, else 1.

    Every row runs in a process of its own, so that a crash or a lack of memory fails that row alone.
    """
    rows = read_rows(table)
    if row is not None and not 1 <= row <= len(rows):
        raise InputError(f"--row is {row}, but {table} has the rows 1 to {len(rows)}.")
    chosen = rows if row is None else [rows[row - 1]]
    bar = Bar()
    outcomes: list[str] = []
    pool = ThreadPoolExecutor(max(1, parallel))
    children: set[subprocess.Popen] = set()
    try:
        for values, outcome in zip(chosen, pool.map(lambda values: _run_row(values, children), chosen), strict=True):
            outcomes.append(outcome)
            bar(len(outcomes) / len(chosen), f"{values['output']}: {outcome}")
    except Cancelled:
        for child in list(children):
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()
        write_results(table, rows)
    return 0 if all(outcome in ("done", "already done") for outcome in outcomes) else 1


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of the CSV file, paths made absolute; raises `InputError` for a file that is not such a table."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a CSV file: {error}.") from None
    if long := [number for number, line in enumerate(lines, 1) if None in line]:
        raise InputError(f"{table}, row {long[0]} has more cells than the first line has columns. Put quotes around a cell with a comma.")
    rows = [{key.strip(): (value or "").strip() for key, value in line.items()} for line in lines]
    if not rows:
        raise InputError(f"{table} has no rows. The first line names the columns: output,fixed,moving,...")
    outputs = [values.get("output", "") for values in rows]
    if not all(outputs):
        raise InputError(
            f"{table}, row {outputs.index('') + 1}: the column output is missing or empty; every row needs a folder of its own."
        )
    outputs = [os.path.normpath(name) for name in outputs]
    if len(set(outputs)) < len(outputs):
        double = next(name for name in outputs if outputs.count(name) > 1)
        raise InputError(f"{table}: two rows have the output {double}; every row needs a folder of its own.")
    return [_absolute(values, table.absolute().parent) for values in rows]


def _absolute(values: dict[str, str], base: Path) -> dict[str, str]:
    task = TASKS.get(values.get("task") or "register")
    paths = {"output"} | {item.name for item in task.inputs} if task else {"output"}
    return {key: str(base / value) if key in paths else value for key, value in values.items() if value}


def _job_of(values: dict[str, str]) -> Job:
    rest = {key: value for key, value in values.items() if key not in ("task", "output", "preset")}
    task = values.get("task", "register")
    if task not in TASKS:
        raise InputError(f"There is no task {task!r}. The tasks are {', '.join(TASKS)}.")
    return make_job(task, rest, values.get("preset", "default"))


def _run_row(values: dict[str, str], children: set[subprocess.Popen]) -> str:
    """Run one row unless the same job is already done; returns a word for the progress line."""
    folder = Path(values["output"])
    try:
        todo = _job_of(values)
        result = read_result(folder)
        if result.get("state") == "done" and result.get("job") == json.loads(json.dumps(asdict(todo))):
            return "already done"
        todo.write(folder)
    except InputError as error:
        _fail(folder, str(error))
        return f"failed: {error}"
    with (folder / "log.txt").open("w", encoding="utf-8") as output:
        child = subprocess.Popen([sys.executable, "-m", "imagingai", "run", str(folder)], stdout=output, stderr=subprocess.STDOUT)
        children.add(child)
        code = child.wait()
        children.discard(child)
    result = read_result(folder)
    if code and result.get("state") not in ("failed", "cancelled"):  # it crashed or was killed: the log is all there is
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        _fail(
            folder,
            f"The process ended with code {code}. {lines[-1] if lines and not lines[-1].startswith('{') else ''} See {folder / 'log.txt'}.",
        )
        return "failed"
    return result.get("state", "failed")


def _fail(folder: Path, reason: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"state": "failed", "error": reason}), encoding="utf-8")
    except OSError:
        log.error("%s: %s", folder, reason)


def write_results(table: Path, rows: list[dict[str, str]]) -> None:
    """Write `<name>-results.csv` with a line per row of the table; says which rows failed, and why."""
    lines, failed = [], 0
    for number, values in enumerate(rows, 1):
        result = read_result(Path(values["output"]))
        state = result.get("state", "open")
        lines.append({"row": number, "output": values["output"], "state": state, "error": result.get("error", ""), **_numbers(result)})
        if state == "failed":
            failed += 1
            print(f"row {number} failed ({values['output']}): {result.get('error')}", file=sys.stderr)
    target = table.with_name(table.stem + "-results.csv")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)), restval="")
        writer.writeheader()
        writer.writerows(lines)
    os.replace(temporary, target)
    done = sum(line["state"] == "done" for line in lines)
    print(f"{done} of {len(rows)} rows done, {failed} failed. Results: {target}")


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result: times, memory and a value per metric."""
    return {**{key: result[key] for key in ("seconds", "cpu_seconds", "peak_memory_mb") if key in result}, **result.get("summary", {})}

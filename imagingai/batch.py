"""`imagingai batch jobs.csv`: every row a job folder, resumable, one CSV of results."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from imagingai.__main__ import make_job
from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.job import Job, outputs_of, read_result, write_failure
from imagingai.progress import Bar
from imagingai.tasks import TASKS


def run_batch(table: Path, row: int | None = None, parallel: int = 1) -> int:
    """Run the rows of a CSV file that are not finished; returns the exit code: 0 if all of them, or the one `row`, are done, else 1.

    Every row runs in a process of its own, so that a crash or a lack of memory fails that row alone.
    """
    rows = read_rows(table)
    if row is not None and not 1 <= row <= len(rows):
        raise InputError(f"--row is {row}, but {table} has the rows 1 to {len(rows)}.")
    chosen = rows if row is None else [rows[row - 1]]
    _write_table(table, _lines(rows, {}))  # one that cannot be written must be told before the work
    bar, children, pool = Bar(), _Children(), ThreadPoolExecutor(parallel)
    outcomes: dict[str, tuple[str, str]] = {}
    try:
        futures = {pool.submit(_run_row, values, children): values["output"] for values in chosen}
        for future in as_completed(futures):
            output = futures[future]
            state, error = outcomes[output] = future.result()
            bar(len(outcomes) / len(chosen), f"{output}: {state}{': ' if error else ''}{error}")
    finally:
        children.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()
        write_results(table, rows, {output: error for output, (state, error) in outcomes.items() if state == "failed"})
    return 0 if all(state in ("done", "already done") for state, _ in outcomes.values()) else 1


class _Children:
    """The processes of the rows. They stop when their standard input ends: after `stop`, or with this process."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopped, self.lock = False, threading.Lock()

    def run(self, folder: Path, output: BinaryIO) -> int:
        """Run a job folder and return the exit code; raises `Cancelled` after `stop`."""
        command = [sys.executable, "-m", "imagingai", "run", str(folder), "--watch-parent"]
        with self.lock:  # none may start while the others are stopped
            if self.stopped:
                raise Cancelled("Stopped on request; nothing was written.")
            # a session of its own, so that Ctrl+C does not reach it a second time, in the middle of its clean-up
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            self.running.add(child)
            with contextlib.suppress(OSError):  # it is gone already
                child.stdin.write(b"\n")
                child.stdin.flush()
        code = child.wait()
        with self.lock, contextlib.suppress(OSError):
            self.running.discard(child)
            child.stdin.close()
        return code

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for child in self.running:
                with contextlib.suppress(OSError):
                    child.stdin.close()


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


def _run_row(values: dict[str, str], children: _Children) -> tuple[str, str]:
    """Run one row unless the same job is already done; returns its state and, if it failed, why in one line."""
    folder = Path(values["output"])
    try:
        todo = _job_of(values)
        if _is_done(folder, todo):
            return "already done", ""
        result = _run_process(todo, folder, children)
        return result["state"], result.get("error", "").partition("\n")[0]
    except Cancelled:
        return "cancelled", ""
    except Exception as error:  # whatever it is, the other rows must go on
        if isinstance(error, OSError):
            error = JobFailed(f"Cannot run in the folder {folder}: {error.strerror}. Choose another output.")
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        write_failure(folder, error, {"outputs": outputs_of(folder)})
        return "failed", str(error)


def _is_done(folder: Path, todo: Job) -> bool:
    """Whether the folder holds the result of this very job: its files are there, and no input is newer."""
    result = read_result(folder)
    if result.get("state") != "done" or result.get("job") != json.loads(json.dumps(asdict(todo))):
        return False
    if not all((folder / name).exists() for name in ("job.json", *outputs_of(folder))):
        return False
    began = os.path.getmtime(folder / "job.json")
    return not any(os.path.getmtime(path) > began for path in todo.inputs.values() if os.path.exists(path))


def _run_process(todo: Job, folder: Path, children: _Children) -> dict[str, Any]:
    """What the job wrote to its `result.json`; raises `JobFailed` if it crashed or was killed: the log is all there is."""
    todo.write(folder)
    earlier, log = read_result(folder), folder / "log.txt"
    with log.open("wb") as output:
        code = children.run(folder, output)
    result = read_result(folder)
    if result != earlier and result.get("state") in ("done", "failed", "cancelled"):
        return result
    if children.stopped:
        raise Cancelled("Stopped on request; nothing was written.")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines and not lines[-1].startswith("{") else ""
    raise JobFailed(f"The process ended with code {code}. {last} See {log}.")


def write_results(table: Path, rows: list[dict[str, str]], failures: dict[str, str]) -> None:
    """Write `<name>-results.csv` with a line per row of the table; says which rows failed, and why."""
    lines = _lines(rows, failures)
    failed = [line for line in lines if line["state"] == "failed"]
    for line in failed:
        print(f"row {line['row']} failed ({line['output']}): {line['error']}", file=sys.stderr)
    target = _write_table(table, lines)
    done = sum(line["state"] == "done" for line in lines)
    print(f"{done} of {len(rows)} rows done, {len(failed)} failed. Results: {target}")


def _lines(rows: list[dict[str, str]], failures: dict[str, str]) -> list[dict[str, Any]]:
    """The lines of the results. `failures` (output: why) has those, too, that could not be written into their folder."""
    lines = []
    for number, values in enumerate(rows, 1):
        output, result = values["output"], read_result(Path(values["output"]))
        if output in failures:
            result = {"state": "failed", "error": failures[output]}
        error = str(result.get("error", "")).partition("\n")[0]
        lines.append({"row": number, "output": output, "state": result.get("state", "open"), "error": error, **_numbers(result)})
    return lines


def _write_table(table: Path, lines: list[dict[str, Any]]) -> Path:
    target = table.with_name(table.stem + "-results.csv")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)), restval="")
            writer.writeheader()
            writer.writerows(lines)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"Cannot write {target}: {error.strerror}. Close what uses it, or copy {table.name} to a folder that you may write to."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result: times, memory and a value per metric."""
    return {**{key: result[key] for key in ("seconds", "cpu_seconds", "peak_memory_mb") if key in result}, **result.get("summary", {})}

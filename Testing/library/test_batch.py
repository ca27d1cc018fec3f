"""A batch: one CSV in, one CSV out, finished rows are not done again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disk import full_disk

from imagingai.__main__ import main
from imagingai.batch import read_rows
from imagingai.errors import InputError


def results(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_batch_runs_resumes_and_lists_what_failed(pair, tmp_path, capsys):
    table = tmp_path / "jobs.csv"
    files = f"{pair}/fixed.nii.gz,{pair}/moving.nii.gz"
    table.write_text(
        "output,fixed,moving,fixed_labels,moving_labels,preset\n"
        f"out/1,{files},{pair}/fixed_labels.nii.gz,{pair}/moving_labels.nii.gz,fast\n"
        f"out/2,{pair}/fixed.nii.gz,{pair}/none.nii.gz,,,\n"
        f"out/3,{files},,,turbo\n"
    )
    assert main(["batch", str(table)]) == 1
    first, second, third = results(tmp_path / "jobs-results.csv")
    assert first["state"] == "done" and float(first["dice"]) > 0.97 and float(first["cpu_seconds"]) > 0
    assert second["state"] == "failed" and "there is no file" in second["error"]
    assert third["state"] == "failed" and "--preset has no choice 'turbo'" in third["error"]
    text = capsys.readouterr()
    assert "1 of 3 rows done, 2 failed" in text.out and "row 2 failed (" in text.err

    before = (tmp_path / "out/1/result.json").stat().st_mtime_ns
    assert main(["batch", str(table), "--row", "1"]) == 0, "in a job array each row has its own exit code"
    assert (tmp_path / "out/1/result.json").stat().st_mtime_ns == before, "a finished row was done again"
    assert "already done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows. The first line names the columns: output,fixed,moving,..."),
        ("fixed,moving\na,b\n", "row 1: the column output is missing or empty; every row needs a folder of its own."),
        ("output,fixed\na,b\na,c\n", "two rows have the output a; every row needs a folder of its own."),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "jobs.csv").write_text(content)
    with pytest.raises(InputError) as error:
        read_rows(tmp_path / "jobs.csv")
    assert message in str(error.value)


def test_a_row_that_does_not_exist(tmp_path, capsys):
    (tmp_path / "jobs.csv").write_text("output,fixed\na,b\n")
    assert main(["batch", str(tmp_path / "jobs.csv"), "--row", "2"]) == 2
    assert "--row is 2, but" in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none.csv")]) == 2
    assert "cannot be read as a CSV file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("output,fixed\na,b,c\n", "row 1 has more cells than the first line has columns"),
        ("output,fixed\na,b\n./a,b\n", "two rows have the output a"),
    ],
)
def test_tables_that_would_mix_up_rows(tmp_path, capsys, lines, message):
    (tmp_path / "jobs.csv").write_text(lines)
    assert main(["batch", str(tmp_path / "jobs.csv")]) == 2
    assert message in capsys.readouterr().err


# --- failing rows


@pytest.fixture
def quick(pair, tmp_path):
    """Writes a table of rows that take no time, one per output, and starts the batch; returns the exit code."""

    def run(*outputs: str, more: tuple[str, ...] = (), **columns: str) -> int:
        values = {"fixed": f"{pair}/fixed.nii.gz", "moving": f"{pair}/moving.nii.gz", "alignment": "none", "iterations": "1"}
        values |= {"outputs": "moved", "threads": "1", **columns}
        lines = [",".join(["output", *values]), *(",".join([output, *values.values()]) for output in outputs)]
        (tmp_path / "jobs.csv").write_text("\n".join(lines))
        return main(["batch", str(tmp_path / "jobs.csv"), *more])

    return run


def states(folder: Path) -> list[str]:
    return [line["state"] for line in results(folder / "jobs-results.csv")]


def test_a_row_that_cannot_be_started_fails_alone(quick, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "log" / "log.txt").mkdir(parents=True)
    assert quick("file", "log", "good") == 1
    file, log, good = results(tmp_path / "jobs-results.csv")
    assert file["state"] == "failed" and "Cannot write into the output folder" in file["error"]
    assert log["state"] == "failed" and log["error"].endswith("log: Is a directory. Choose another output.")
    assert good["state"] == "done"


def test_a_bug_fails_a_row_with_one_line(quick, tmp_path, monkeypatch):
    def bug(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("imagingai.batch._is_done", bug)
    assert quick("a", "b") == 1
    assert [line["error"] for line in results(tmp_path / "jobs-results.csv")] == ["a bug", "a bug"]


def test_a_process_that_crashes_fails_its_row(quick, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"state": "failed", "error": "that of yesterday"}')
    (tmp_path / "crash").write_text("#!/bin/sh\necho out of luck\nexit 7\n")
    (tmp_path / "crash").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "crash"))
    assert quick("a") == 1
    assert results(tmp_path / "jobs-results.csv")[0]["error"].startswith("The process ended with code 7. out of luck See ")


def test_results_that_cannot_be_written_are_told_before_the_work(quick, tmp_path, capsys):
    (tmp_path / "jobs-results.csv").mkdir()
    assert quick("a") == 2
    assert "jobs-results.csv: Is a directory. Close what uses it, or copy jobs.csv to a folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"jobs.csv", "jobs-results.csv"}


def test_results_that_do_not_fit_on_the_disk_leave_nothing_half_written(tmp_path, capsys):
    (tmp_path / "jobs.csv").write_text("output,fixed\n" + "".join(f"{number},a\n" for number in range(200)))
    with full_disk():
        assert main(["batch", str(tmp_path / "jobs.csv")]) == 2
    assert "jobs-results.csv: File too large." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.csv"]


def test_a_row_is_done_again_when_something_has_changed(quick, pair, tmp_path, capsys):
    def again(**columns) -> bool:
        assert quick("a", **columns) == 0
        return "already done" not in capsys.readouterr().err

    image = tmp_path / "image.nii.gz"
    image.write_bytes((pair / "moving.nii.gz").read_bytes())
    assert again(moving=str(image)) and not again(moving=str(image))
    (tmp_path / "a" / "moved.nii.gz").unlink()
    assert again(moving=str(image)), "a result was gone"
    image.touch()
    assert again(moving=str(image)), "an input was newer"
    assert again(moving=str(image), outputs="jacobian"), "a setting was changed"
    assert not (tmp_path / "a" / "moved.nii.gz").exists() and not again(moving=str(image), outputs="jacobian")


def test_the_reason_of_a_failure_goes_with_the_failure(quick, tmp_path):
    assert quick("a") == 0
    assert quick("a", preset="turbo") == 1 and "turbo" in results(tmp_path / "jobs-results.csv")[0]["error"]
    assert quick("a") == 0, "the results of the first time may be replaced"
    assert results(tmp_path / "jobs-results.csv")[0]["error"] == ""
    assert "error" not in json.loads((tmp_path / "a" / "result.json").read_text())


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_the_number_of_parallel_rows_is_positive(quick, number, capsys):
    with pytest.raises(SystemExit) as stop:
        quick("a", more=("--parallel", number))
    assert stop.value.code == 2
    assert f"argument --parallel: '{number}' is not a number of at least 1" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_a_batch_stops_its_rows_stop_and_finished_rows_stay(quick, tmp_path, number):
    assert quick("0") == 0
    table = tmp_path / "jobs.csv"
    header, row = table.read_text().splitlines()
    slow = row.replace(",none,1,", ",none,10000,")
    table.write_text("\n".join([header, row, *(f"{k}{slow[1:]}" for k in range(1, 5))]))
    command = [sys.executable, "-m", "imagingai", "batch", str(table), "--parallel", "2"]
    batch = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    logs = [tmp_path / name / "log.txt" for name in ("1", "2")]
    wait_until(lambda: all(log.exists() and "Deforming" in log.read_text() for log in logs))
    os.killpg(batch.pid, number)  # as a terminal does
    if number == signal.SIGINT:
        time.sleep(0.05)
        os.killpg(batch.pid, number)  # out of impatience
    said = batch.communicate(timeout=30)[1]
    assert batch.returncode == (130 if number == signal.SIGINT else -9) and "Traceback" not in said
    wait_until(lambda: not processes_of(tmp_path))
    assert all("Traceback" not in log.read_text() for log in logs)
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("3", "4")], "no other row was started"
    assert not list(tmp_path.glob("*/.partial"))
    if number == signal.SIGINT:
        assert states(tmp_path) == ["done", "cancelled", "cancelled", "open", "open"]


def processes_of(folder: Path) -> list[str]:
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if str(folder) in line]


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)

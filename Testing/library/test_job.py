"""A job folder: results appear all at once or not at all, and say why."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass

import pytest

from imagingai import job
from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.options import check, option
from imagingai.tasks import TASKS, Input, Task


@dataclass(frozen=True)
class Config:
    count: int = option(3, "Files to write.", limits=(0, 9))
    fail: str = option("", "How to fail after the first file.")

    def __post_init__(self) -> None:
        check(self)


FAILURES = {
    "bug": lambda: ValueError("a bug"),
    "disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "memory": lambda: MemoryError(),
    "torch": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    "cuda": lambda: RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
}


def write_files(inputs, config, folder, report):
    for number in range(config.count):
        report(number / config.count, f"file {number}")
        (folder / f"{number}.txt").write_text(inputs["source"].read_text())
        if config.fail:
            raise FAILURES[config.fail]()
    return {"count": config.count}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    task = Task("Write files.", (Input("source", "Text to copy.", required=True),), f"{__name__}:Config", f"{__name__}:write_files", "")
    monkeypatch.setitem(TASKS, "write", task)
    (tmp_path / "source.txt").write_text("hello")
    return tmp_path / "job"


def make(folder, **config):
    job.Job("write", {"source": str(folder.parent / "source.txt")}, config).write(folder)
    return folder


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_job_writes_its_files_and_a_result_that_can_be_repeated(folder):
    seen = []
    result = job.run(make(folder, count=2), lambda fraction, text: seen.append((fraction, text)))
    assert names(folder) == ["0.txt", "1.txt", "job.json", "result.json"]
    assert (folder / "1.txt").read_text() == "hello"
    assert json.loads((folder / "result.json").read_text()) == result
    assert (
        result["state"] == "done"
        and result["outputs"] == ["0.txt", "1.txt"]
        and result["job"]["config"] == {"count": 2}
        and result["cpu_seconds"] >= 0
    )
    assert seen == [(0.0, "Starting"), (0.0, "file 0"), (0.5, "file 1")]


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("disk", "The disk is full:"),
        ("memory", "The computer ran out of memory. Work on a coarser grid (for example --spacing 2)"),
        ("torch", "The computer ran out of memory."),
        ("cuda", "The GPU ran out of memory. Work on a coarser grid (for example --spacing 2), crop the images or --device cpu"),
    ],
)
def test_a_failure_leaves_no_half_written_file_and_says_why(folder, fail, message):
    with pytest.raises(JobFailed) as error:
        job.run(make(folder, fail=fail))
    assert str(error.value).startswith(message)
    assert names(folder) == ["job.json", "result.json"]
    assert json.loads((folder / "result.json").read_text())["state"] == "failed"


def test_a_bug_keeps_its_traceback_and_leaves_no_half_written_file(folder):
    with pytest.raises(ValueError, match="a bug"):
        job.run(make(folder, fail="bug"))
    assert names(folder) == ["job.json"]


def test_the_file_cancel_stops_a_job(folder):
    def cancel_soon(fraction, text):
        if fraction > 0:
            (folder / "cancel").touch()

    with pytest.raises(Cancelled):
        job.run(make(folder), cancel_soon)
    assert names(folder) == ["cancel", "job.json", "result.json"]
    assert job.run(folder)["state"] == "done", "a stale file cancel must not stop the next run"


def test_what_a_killed_run_left_is_cleared(folder):
    make(folder, count=1)
    (folder / ".partial").mkdir()
    (folder / ".partial" / "half.txt").touch()
    job.run(folder)
    assert names(folder) == ["0.txt", "job.json", "result.json"]


@pytest.mark.parametrize(
    ("task", "inputs", "config", "message"),
    [
        ("sing", {}, {}, "There is no task 'sing'. The tasks are "),
        ("write", {}, {}, "--source is missing: Text to copy."),
        ("write", {"source": "/nowhere.txt"}, {}, "--source: there is no file /nowhere.txt."),
        ("write", {"source": "/", "sauce": "/"}, {}, "write has no input --sauce. Its inputs are --source."),
        ("write", {"source": "/"}, {"count": 10}, "--count is 10; it must lie between 0 and 9."),
    ],
)
def test_bad_jobs(folder, task, inputs, config, message):
    job.Job(task, inputs, config).write(folder)
    with pytest.raises(InputError) as error:
        job.run(folder)
    assert str(error.value).startswith(message)
    assert json.loads((folder / "result.json").read_text())["error"] == str(error.value)


def test_a_folder_without_a_job(tmp_path):
    with pytest.raises(InputError, match=r"is not a job folder: it has no job\.json"):
        job.run(tmp_path)
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be read .* It needs task, inputs and config"):
        job.run(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write into the output folder .*file/out: Not a directory\. Choose a folder"):
        job.Job("write", {}, {}).write(tmp_path / "file" / "out")

"""A job folder: results appear all at once or not at all, and say why."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass

import pytest
from disk import full_disk

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
    assert names(folder) == ["job.json", "result.json"]
    result = job.read_result(folder)
    first, *trace = result["error"].splitlines()
    assert result["state"] == "failed" and first == "An error that ImagingAI did not expect: ValueError: a bug. Please report it."
    assert trace[0].startswith("Traceback") and trace[-1] == "ValueError: a bug"


def test_a_disk_that_is_full_to_the_end_does_not_hide_the_error(folder):
    (folder.parent / "source.txt").write_text("x" * 5000)
    with full_disk(), pytest.raises(JobFailed, match=r"The disk is full: \d+ MB are left at .*job\. Free some space"):
        job.run(make(folder, count=1))
    assert names(folder) == ["job.json", "result.json"]


def test_what_is_half_written_is_removed_before_a_failure_is_recorded(folder, monkeypatch):
    def full(path, content):
        assert names(folder) == ["job.json"]
        raise OSError(errno.ENOSPC, "No space left on device")

    make(folder, fail="memory")
    monkeypatch.setattr(job, "write_json", full)
    with pytest.raises(JobFailed, match="The computer ran out of memory"):
        job.run(folder)


def test_a_result_that_does_not_fit_on_the_disk_leaves_no_output(folder, monkeypatch):
    monkeypatch.setattr(job, "_circumstances", lambda began, cpu: {"versions": "x" * 5000})
    with full_disk(), pytest.raises(JobFailed, match="The disk is full"):
        job.run(make(folder, count=1))
    assert names(folder) == ["job.json"]


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with full_disk(), pytest.raises(OSError):
        job.write_json(tmp_path / "a.json", {"a": "x" * 5000})
    assert not list(tmp_path.iterdir())


def test_an_earlier_output_that_cannot_be_replaced(folder):
    job.run(make(folder, count=1))
    (folder / "0.txt").unlink()
    (folder / "0.txt").mkdir()
    with pytest.raises(JobFailed, match=r"Cannot replace .*0\.txt: Is a directory\. Close what uses it"):
        job.run(folder)
    (folder / "0.txt").rmdir()
    assert job.run(folder)["state"] == "done"


def test_after_a_kill_it_is_known_what_earlier_runs_wrote(folder, monkeypatch):
    job.run(make(folder, count=2))
    monkeypatch.setattr(job, "write_failure", lambda *_: None)  # a killed process writes nothing more
    with pytest.raises(ValueError, match="a bug"):
        job.run(make(folder, fail="bug"))
    assert job.read_result(folder) == {"state": "running", "outputs": ["0.txt", "1.txt"]}
    job.run(make(folder, count=1))
    assert names(folder) == ["0.txt", "job.json", "result.json"]


def test_a_result_file_of_a_stranger_does_not_delete_other_files(folder):
    make(folder, count=1)
    for outputs in (["../source.txt", str(folder.parent / "source.txt"), 3], 3, {"0.txt": 1}):
        (folder / "result.json").write_text(json.dumps({"state": "done", "outputs": outputs}))
        (folder / "0.txt").unlink(missing_ok=True)
        job.run(folder)
    assert (folder.parent / "source.txt").exists()


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
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read \(.*\)\. It needs task, inputs and config\."),
        ("[1, 2]", r"holds \[1, 2\]\. It needs task, inputs and config, and nothing else\."),
        ('{"inputs": {}, "config": {}}', r"holds inputs, config\. It needs task, inputs and config"),
        ('{"task": "write", "inputs": {}, "config": {}, "colour": 1}', r"holds task, inputs, config, colour\. It needs"),
        ('{"task": ["write"], "inputs": {}, "config": {}}', r"task is \['write'\]; it must be text\."),
        ('{"task": "write", "inputs": [], "config": {}}', r"inputs is \[\]; it must be names and files in braces\."),
        ('{"task": "write", "inputs": {}, "config": 3}', r"config is 3; it must be names and values in braces\."),
        ('{"task": "write", "inputs": {"source": 3}, "config": {}}', r"--source is 3; it must be the name of a file\."),
    ],
)
def test_what_is_no_job(tmp_path, content, message):
    (tmp_path / "job.json").write_text(content)
    (tmp_path / "result.json").write_text('{"state": "done", "outputs": ["0.txt"]}')
    with pytest.raises(InputError, match=r"job\.json:? " + message) as error:
        job.run(tmp_path)
    result = job.read_result(tmp_path)
    assert (result["state"], result["error"], result["outputs"]) == ("failed", str(error.value), ["0.txt"])


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write into the output folder .*file/out: Not a directory\. Choose a folder"):
        job.Job("write", {}, {}).write(tmp_path / "file" / "out")

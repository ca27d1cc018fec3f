"""Jobs in real child processes: followed, stopped, killed, crashed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from imagingai import job

sys.modules.setdefault("slicer.i18n", types.SimpleNamespace(tr=lambda text: text))  # no Slicer is needed
from ImagingAILib.process import JobProcess  # noqa: E402

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def process(tmp_path, pair):
    """Makes a process that registers a tiny 2-D pair in a folder whose name needs care, or runs a script instead."""
    made = []

    def make(script: str | None = None, name: str = "été 肝 job", grace: float = 5.0, **config) -> JobProcess:
        folder = tmp_path / name
        inputs = {key: str(pair / f"{key}.nii.gz") for key in ("fixed", "moving")}
        job.Job("register", inputs, {"iterations": [3], "outputs": ["moved"], **config}).write(folder)
        python = [sys.executable]
        if script is not None:
            (tmp_path / "script.py").write_text(script, encoding="utf-8")
            python.append(str(tmp_path / "script.py"))
        made.append(JobProcess(python, folder, ENVIRONMENT, grace))
        return made[-1]

    yield make
    for process in made:
        process.kill()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float = 30.0):
    """Wait for a condition and return what it gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def has_started(process: JobProcess):
    """Whether the deformation is running: what comes before cannot be stopped in the middle."""
    return lambda: any(step["text"].startswith("Deforming") for step in process.poll())


def test_a_registration_runs_and_tells_its_progress(process):
    running = process()
    threads = threading.active_count()
    running.start()
    assert running.running and running.result is None and threading.active_count() == threads
    steps = []
    until(lambda: steps.extend(running.poll()) or not running.running)
    assert running.result["state"] == "done" and running.result["outputs"] == ["moved.nii.gz"]
    assert [step["fraction"] for step in steps] == sorted(step["fraction"] for step in steps)
    assert steps[-1]["fraction"] == 1 and set(steps[0]) == {"fraction", "text", "seconds_left"}
    assert names(running.folder) == ["job.json", "log.txt", "moved.nii.gz", "result.json"]
    assert running.poll() == []


def test_bad_input_comes_back_as_its_sentence(process):
    running = process(similarity="deepsim_ae", features="nowhere.safetensors")
    running.start()
    assert running.wait(60)
    assert running.result["state"] == "failed" and "nowhere.safetensors" in running.result["error"]
    assert "nowhere.safetensors" in (running.folder / "log.txt").read_text()


def test_cancel_stops_in_the_middle_and_the_same_job_can_run_again(process):
    running = process(iterations=[10000], preview=True)
    for _ in range(2):
        running.start()
        until(has_started(running))
        running.cancel()
        began = time.monotonic()
        assert running.wait(30) and time.monotonic() - began < 4
        assert running.result["state"] == "cancelled"
        assert names(running.folder) == ["cancel", "job.json", "log.txt", "result.json"]


def test_cancel_right_after_the_start_is_not_lost(process):
    running = process(iterations=[10000], grace=60)
    running.start()
    running.cancel()
    assert running.wait(30) and running.result["state"] == "cancelled"


STUBBORN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")
time.sleep(1000)
"""


def pids_of(running: JobProcess) -> list[int]:
    file = running.folder / "pids"
    return [int(pid) for pid in until(lambda: file.exists() and file.read_text()).split()]


def test_a_child_that_does_not_listen_is_killed_with_its_own_children(process):
    running = process(STUBBORN, grace=0.5)
    running.start()
    pids = pids_of(running)
    assert all(map(alive, pids))
    running.cancel()
    assert running.wait(20)
    assert running.result == {"state": "cancelled", "error": "Stopped on request; nothing was written."}
    until(lambda: not any(map(alive, pids)))


def test_a_child_that_is_killed_from_outside_takes_its_children_with_it(process):
    running = process(STUBBORN)
    running.start()
    pids = pids_of(running)
    os.kill(pids[0], signal.SIGKILL)
    assert running.wait(20)
    assert running.result["error"].startswith("The computation was killed (SIGKILL); perhaps the computer ran out of memory.")
    until(lambda: not any(map(alive, pids)))


def test_kill_ends_a_registration_at_once_and_leaves_no_half_written_file(process):
    running = process(iterations=[10000], preview=True)
    running.start()
    pid = running._process.pid
    until(lambda: (running.folder / "preview.nrrd").exists())
    running.kill()
    assert not running.running and running.result["state"] == "cancelled" and not alive(pid)
    assert names(running.folder) == ["job.json", "log.txt"]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # it was waited for: no zombie


def test_a_child_that_is_let_go_stops_by_itself_and_cleans_up(process):
    running = process(iterations=[10000], preview=True)
    running.start()
    pid = running._process.pid
    until(has_started(running))
    running.release()
    assert not running.running and running.result["state"] == "cancelled"
    until(lambda: (running.folder / "result.json").exists() and not alive(pid), 10)
    assert job.read_result(running.folder)["state"] == "cancelled" and ".partial" not in names(running.folder)


PARENT = """
import os, sys, time, types
from pathlib import Path
sys.modules["slicer.i18n"] = types.SimpleNamespace(tr=str)
from ImagingAILib.process import JobProcess
running = JobProcess([sys.executable], Path(sys.argv[1]), dict(os.environ))
running.start()
while not any(step["text"].startswith("Deforming") for step in running.poll()):
    time.sleep(0.02)
print(running._process.pid, flush=True)
time.sleep(1000)
"""


def test_the_child_stops_when_its_parent_dies(process):
    folder = process(iterations=[10000], preview=True).folder
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], env=ENVIRONMENT, stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.communicate()
    until(lambda: not alive(pid), 10)
    assert ".partial" not in names(folder) and "preview.nrrd" not in names(folder)
    assert json.loads((folder / "result.json").read_text())["state"] == "cancelled"


def test_a_child_whose_standard_input_is_empty_from_the_start_is_not_stopped(process):
    folder = process().folder
    command = [sys.executable, "-m", "imagingai", "run", str(folder), "--watch-parent"]
    subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    assert json.loads((folder / "result.json").read_text())["state"] == "done"


def test_a_crash_is_reported_with_the_end_of_its_log(process):
    running = process("print('before')\nraise ValueError('a bug in été')")
    running.start()
    assert running.wait(20)
    assert running.result["state"] == "failed"
    first, *lines = running.result["error"].splitlines()
    assert first == "The computation ended unexpectedly (exit code 1). The last lines of its log:"
    assert lines[0] == "before" and lines[-1] == "ValueError: a bug in été"


def test_a_crash_without_a_word(process):
    running = process("import os; os._exit(3)")
    running.start()
    assert running.wait(20)
    assert running.result["error"] == "The computation ended unexpectedly (exit code 3). It wrote no log."


def test_a_result_of_an_earlier_run_is_not_taken_for_that_of_a_crash(process):
    running = process("import os; os._exit(3)")
    (running.folder / "result.json").write_text('{"state": "done"}')
    running.start()
    assert running.wait(20) and running.result["state"] == "failed"


@pytest.mark.parametrize(
    ("python", "reason"), [("/nowhere/python", "No such file or directory"), ("not executable", "Permission denied"), ("", "denied|format")]
)
def test_a_python_that_cannot_be_started(process, tmp_path, python, reason):
    running = process()
    (tmp_path / "not executable").touch()
    running.python = [str(tmp_path / python)]
    running.start()
    assert not running.running and running.wait(0)
    assert running.result["state"] == "failed"
    sentence = running.result["error"]
    assert sentence.startswith(f"Cannot start {running.python[0]}: ") and sentence.endswith("Choose another Python in the settings.")
    assert any(part in sentence for part in reason.split("|"))


def test_a_python_without_imagingai(process):
    running = process()
    running.python = [sys.executable, "-S", "-E", "-s"]
    running.start()
    assert running.wait(20)
    assert "No module named imagingai" in running.result["error"]


FLOOD = """
import sys, json
for number in range(200_000):
    sys.stdout.write("warning: " + "x" * 100 + "\\n")
    if number % 1000 == 0:
        sys.stderr.write("no end of line")
        sys.stdout.write(json.dumps({"fraction": number / 200_000, "text": "é", "seconds_left": None}) + "\\n")
sys.stdout.write("y" * 1_000_000)
sys.stderr.write('{"fraction": broken\\n')
"""


def test_a_flood_of_output_blocks_nobody_and_loses_nothing(process):
    running = process(FLOOD)
    running.start()
    fractions, longest = [], 0.0
    while running.running:
        began = time.monotonic()
        fractions += [step["fraction"] for step in running.poll()]
        longest = max(longest, time.monotonic() - began) if running.running else longest
        time.sleep(0.01)
    assert fractions == [number / 200_000 for number in range(0, 200_000, 1000)]
    assert longest < 0.5
    log = (running.folder / "log.txt").read_bytes()
    assert log.count(b"warning: ") == 200_000 and log.count(b"no end of line") == 200 and log.count(b"y") == 1_000_000
    assert b'{"fraction": broken' in log


def test_two_jobs_at_once(process):
    jobs = [process(name=name) for name in ("one", "two")]
    for running in jobs:
        running.start()
    assert all(running.wait(60) for running in jobs)
    assert [running.result["state"] for running in jobs] == ["done", "done"]


def test_a_running_job_cannot_be_started_again(process):
    running = process(STUBBORN)
    running.start()
    with pytest.raises(RuntimeError, match="is running already"):
        running.start()

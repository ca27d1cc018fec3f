"""A job is a folder: `job.json` in, `result.json` out, a file named `cancel` means please stop.

`run` is the only runner. The command line calls it in process, a panel or a batch starts
`python -m imagingai run <folder>`. Results are made in `<folder>/.partial` and moved into place when
everything is ready, so that a stop, an error or a kill leaves no half-written file.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagingai import __version__
from imagingai.errors import Cancelled, ImagingAIError, InputError, JobFailed
from imagingai.options import flag, from_dict
from imagingai.tasks import TASKS, load

log = logging.getLogger(__name__)

Report = Callable[[float, str], None]  # (fraction done 0..1, what is happening); raises Cancelled to stop


def ignore(fraction: float, text: str) -> None:
    """The report of those who do not want one."""


def part(report: Report, begin: float, end: float) -> Report:
    """A report for one step of a longer task: its 0..1 becomes begin..end."""
    return lambda fraction, text: report(begin + (end - begin) * fraction, text)


@dataclass(frozen=True)
class Job:
    """What to run, as plain data: the task's name, its input files, its settings."""

    task: str
    inputs: dict[str, str]
    config: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `job.json` into the folder, which is made if need be."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "job.json", asdict(self))
        except OSError as error:
            raise InputError(
                f"Cannot write into the output folder {folder}: {error.strerror}. Choose a folder that you may write to."
            ) from None

    @staticmethod
    def read(folder: Path) -> Job:
        """Read `job.json` of a folder."""
        try:
            content = json.loads((folder / "job.json").read_text(encoding="utf-8"))
            return Job(content["task"], content["inputs"], content["config"])
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{folder} is not a job folder: it has no job.json.") from None
        except OSError as error:
            raise InputError(f"{folder / 'job.json'} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / 'job.json'} cannot be read ({error}). It needs task, inputs and config.") from None


def run(folder: Path, report: Report = ignore) -> dict[str, Any]:
    """Run the job of a folder and return what was written to its `result.json`.

    Raises an `ImagingAIError` with one sentence for the user; what it says is also in `result.json`.
    """
    job, began, cpu = Job.read(folder), time.time(), time.process_time()
    earlier = read_result(folder).get("outputs", [])  # files of an earlier run, which may be replaced
    for stale in ("result.json", "cancel"):
        (folder / stale).unlink(missing_ok=True)
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _check_no_input_is_replaced(job, folder, earlier)
        values = _run_task(job, partial, _stoppable(folder, report))
        files = sorted(partial.iterdir())
        _check_nothing_else_is_replaced(folder, files, earlier)
        result = {"state": "done", "outputs": [file.name for file in files], **values, **_circumstances(job, began, cpu)}
        for file in files:
            os.replace(file, folder / file.name)
        for name in set(earlier) - set(result["outputs"]):
            (folder / name).unlink(missing_ok=True)
    except ImagingAIError as error:
        state = "cancelled" if isinstance(error, Cancelled) else "failed"
        write_json(folder / "result.json", {"state": state, "error": str(error), "outputs": earlier, **_circumstances(job, began, cpu)})
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_json(folder / "result.json", result)
    return result


def read_result(folder: Path) -> dict[str, Any]:
    """The `result.json` of a job folder; empty if there is none."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_no_input_is_replaced(job: Job, folder: Path, earlier: list[str]) -> None:
    for name, path in job.inputs.items():
        if os.path.basename(path) in earlier and os.path.abspath(os.path.dirname(path)) == str(folder.absolute()):
            raise InputError(f"{flag(name)} {path} is an earlier result in the output folder and would be replaced. Choose another folder.")


def _check_nothing_else_is_replaced(folder: Path, files: list[Path], earlier: list[str]) -> None:
    """Files that no earlier run has written belong to the user."""
    if foreign := [file.name for file in files if file.name not in earlier and (folder / file.name).exists()]:
        raise InputError(f"{folder} already has {', '.join(foreign)}, which would be replaced. Choose another output folder.")


def _run_task(job: Job, partial: Path, report: Report) -> dict[str, Any]:
    """Check the job, run its task; a full disk or memory becomes one sentence."""
    if job.task not in TASKS:
        raise InputError(f"There is no task {job.task!r}. The tasks are {', '.join(TASKS)}.")
    task = TASKS[job.task]
    inputs = _check_inputs(job)
    config = from_dict(load(task.config), job.config)
    partial.mkdir()
    report(0.0, "Starting")
    try:
        return load(task.run)(inputs, config, partial, report)
    except MemoryError:
        raise JobFailed(_out_of_memory("computer")) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(partial).free >> 20
            raise JobFailed(
                f"The disk is full: {free} MB are left at {partial.parent}. Free some space or choose another output folder."
            ) from None
        raise
    except RuntimeError as error:  # torch reports a lack of memory as a RuntimeError
        text = str(error)
        if "CUDA out of memory" in text:
            raise JobFailed(_out_of_memory("GPU")) from None
        if "not enough memory" in text or "can't allocate memory" in text or "bad_alloc" in text or "Cannot allocate memory" in text:
            raise JobFailed(_out_of_memory("computer")) from None
        raise


def _out_of_memory(where: str) -> str:
    other = " or --device cpu" if where == "GPU" else ""
    return (
        f"The {where} ran out of memory. Work on a coarser grid (for example --spacing 2), crop the images{other}, or close other programs."
    )


def _check_inputs(job: Job) -> dict[str, Path]:
    known = {item.name: item for item in TASKS[job.task].inputs}
    for name, item in known.items():
        if item.required and not job.inputs.get(name):
            raise InputError(f"{flag(name)} is missing: {item.help}")
    for name, path in job.inputs.items():
        if name not in known:
            raise InputError(f"{job.task} has no input {flag(name)}. Its inputs are {', '.join(map(flag, known))}.")
        if not Path(path).exists():
            raise InputError(f"{flag(name)}: there is no file {path}.")
    return {name: Path(path) for name, path in job.inputs.items()}


def _stoppable(folder: Path, report: Report) -> Report:
    """A report that raises `Cancelled` as soon as the file `cancel` appears."""

    def check(fraction: float, text: str) -> None:
        if (folder / "cancel").exists():
            raise Cancelled("Stopped on request; nothing was written.")
        report(fraction, text)

    return check


def _circumstances(job: Job, began: float, cpu: float) -> dict[str, Any]:
    """What a bug report or a methods section needs: versions, settings, times, memory."""
    versions = {"imagingai": __version__, "python": platform.python_version()}
    for name in ("torch", "SimpleITK", "numpy"):
        if name in sys.modules:
            versions[name] = str(importlib.import_module(name).__version__)
    return {
        "job": asdict(job),
        "versions": versions,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "seconds": round(time.time() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_memory_mb": peak_memory_mb(),
    }


def peak_memory_mb() -> int | None:
    """Peak resident memory of this process in MB; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write through a temporary file, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    """numpy numbers and arrays, paths: as JSON knows them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

"""A job is a folder: `job.json` in, `result.json` out, a file named `cancel` means please stop.

`run` is the only runner. The command line calls it in process, a panel or a batch starts
`python -m imagingai run <folder>`. Results are made in `<folder>/.partial` and moved into place when
everything is ready, so that a stop, an error or a kill leaves no half-written file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagingai import __version__
from imagingai.errors import NO_SPACE, Cancelled, ImagingAIError, InputError, JobFailed
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
        file = folder / "job.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{folder} is not a job folder: it has no job.json.") from None
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise InputError(f"{file} cannot be read ({error}). It needs task, inputs and config.") from None
        _check_content(file, content)
        return Job(**content)


KINDS = {"task": (str, "text"), "inputs": (dict, "names and files in braces"), "config": (dict, "names and values in braces")}


def _check_content(file: Path, content: Any) -> None:
    """Raise `InputError` unless the content of a `job.json` has the fields of a `Job`, of their types."""
    if not isinstance(content, dict) or set(content) != set(KINDS):
        found = ", ".join(content) or "nothing" if isinstance(content, dict) else repr(content)
        raise InputError(f"{file} holds {found}. It needs task, inputs and config, and nothing else.")
    for name, (kind, text) in KINDS.items():
        if not isinstance(content[name], kind):
            raise InputError(f"{file}: {name} is {content[name]!r}; it must be {text}.")
    for name, path in content["inputs"].items():
        if not isinstance(path, str):
            raise InputError(f"{file}: {flag(name)} is {path!r}; it must be the name of a file.")


def run(folder: Path, report: Report = ignore) -> dict[str, Any]:
    """Run the job of a folder and return what was written to its `result.json`.

    Raises an `ImagingAIError` with one sentence for the user; what it says is also in `result.json`. So is a bug, which
    is raised as it is.
    """
    began, cpu = time.time(), time.process_time()
    partial, ours, about = folder / ".partial", outputs_of(folder), {}  # ours: files of an earlier run, which may be replaced
    try:
        job = Job.read(folder)
        about = {"job": asdict(job)}
        with _explained(folder):
            _begin(folder, partial, ours)
            _check_no_input_is_replaced(job, folder, ours)
            values = _run_task(job, partial, _stoppable(folder, report))
            files = sorted(partial.iterdir())
            _check_nothing_else_is_replaced(folder, files, ours)
            result = {"state": "done", "outputs": [file.name for file in files], **values, **about, **_circumstances(began, cpu)}
            write_json(partial / "result.json", result)
            earlier, ours = ours, sorted({*ours, *result["outputs"]})
            _move([*files, partial / "result.json"], folder)  # the result last: it says that all others are there
            for name in set(earlier) - set(result["outputs"]):
                (folder / name).unlink(missing_ok=True)
        return result
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)  # first, so that a full disk has room for what follows
        if os.path.exists(folder / "job.json"):
            write_failure(folder, error, {"outputs": ours, **about, **_circumstances(began, cpu)})
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_failure(folder: Path, error: Exception, more: dict[str, Any]) -> None:
    """Write why a job has no result; `more` has the outputs of an earlier run, which are still there.

    If even that cannot be written, the error itself is what the user must see.
    """
    text = str(error)
    if not isinstance(error, ImagingAIError):  # the first line is shown, the rest is for the developers
        trace = "".join(traceback.format_exception(error))
        text = f"An error that ImagingAI did not expect: {type(error).__name__}: {error}. Please report it.\n{trace}"
    with contextlib.suppress(OSError):
        write_json(folder / "result.json", {"state": "cancelled" if isinstance(error, Cancelled) else "failed", "error": text, **more})


def _begin(folder: Path, partial: Path, ours: list[str]) -> None:
    """Make the folder for the results; after a kill, what is ours is still known."""
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for stale in ("result.json", "cancel"):
            (folder / stale).unlink(missing_ok=True)
        if ours:
            write_json(folder / "result.json", {"state": "running", "outputs": ours})
        partial.mkdir()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise InputError(f"Cannot write into the folder {folder}: {error.strerror}. Choose a folder that you may write to.") from None


def _move(files: list[Path], folder: Path) -> None:
    for file in files:
        try:
            os.replace(file, folder / file.name)
        except OSError as error:  # on Windows a file that is open in a viewer
            raise JobFailed(f"Cannot replace {folder / file.name}: {error.strerror}. Close what uses it, and start again.") from None


def outputs_of(folder: Path) -> list[str]:
    """The files that the last run of a job folder wrote; a name that leads out of the folder is none of them."""
    names = read_result(folder).get("outputs")
    return [name for name in names if isinstance(name, str) and os.path.basename(name) == name] if isinstance(names, list) else []


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
    if own := [file.name for file in files if file.name in ("job.json", "result.json")]:
        raise InputError(f"{own[0]} is a file of the job itself. Choose another name for the result.")
    if foreign := [file.name for file in files if file.name not in earlier and (folder / file.name).exists()]:
        raise InputError(f"{folder} already has {', '.join(foreign)}, which would be replaced. Choose another output folder.")


def _run_task(job: Job, partial: Path, report: Report) -> dict[str, Any]:
    """Check the job and run its task."""
    if job.task not in TASKS:
        raise InputError(f"There is no task {job.task!r}. The tasks are {', '.join(TASKS)}.")
    task = TASKS[job.task]
    inputs = _check_inputs(job)
    config = from_dict(load(task.config), job.config)
    report(0.0, "Starting")
    return load(task.run)(inputs, config, partial, report)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """A full disk or memory becomes one sentence."""
    try:
        yield
    except MemoryError:
        raise JobFailed(_out_of_memory("computer")) from None
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        free = shutil.disk_usage(folder).free >> 20
        raise JobFailed(f"The disk is full: {free} MB are left at {folder}. Free some space or choose another output folder.") from None
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
        if not os.path.exists(path):
            raise InputError(f"{flag(name)}: there is no file {path}.")
    return {name: Path(path) for name, path in job.inputs.items()}


def _stoppable(folder: Path, report: Report) -> Report:
    """A report that raises `Cancelled` as soon as the file `cancel` appears."""

    def check(fraction: float, text: str) -> None:
        if (folder / "cancel").exists():
            raise Cancelled("Stopped on request; nothing was written.")
        report(fraction, text)

    return check


def _circumstances(began: float, cpu: float) -> dict[str, Any]:
    """What a bug report or a methods section needs: versions, settings, times, memory."""
    versions = {"imagingai": __version__, "python": platform.python_version()}
    for name in ("torch", "SimpleITK", "numpy"):
        if name in sys.modules:
            versions[name] = str(importlib.import_module(name).__version__)
    return {
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
    try:
        temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """numpy numbers and arrays, paths: as JSON knows them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

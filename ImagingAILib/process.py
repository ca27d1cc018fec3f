"""A job in a child process: start it, follow it, stop it. No Qt, no Slicer.

All that the child prints goes into a file, which `poll()` reads: no thread, no pipe that fills up, nothing that blocks.
Its standard input is a pipe that stays open as long as this process lives; when that ends, however it ends, the child
stops itself (`imagingai run --watch-parent`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from slicer.i18n import tr as _

OUTPUT = ".output"  # what the child printed; poll() sorts it into progress and log.txt
STALE = ("result.json", "cancel", "preview.nrrd", "log.txt", OUTPUT)
PROGRESS = b'{"fraction"'
CHUNK, LONGEST_LINE = 1 << 18, 1 << 16  # bytes
READING = 0.05  # seconds that poll() reads at most
LAST_LINES = 8  # of the log, in the message of a crash
NO_WINDOW = 0x08000000  # Windows: no console flashes up
IN_OWN_GROUP: dict[str, Any] = (
    {"creationflags": NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
)


class JobProcess:
    """Runs a job folder with a Python that has `imagingai`.

    python: how to start it, e.g. ["PythonSlicer"]; environment: all variables of the child; grace: seconds from `cancel()`
    until the child and all its children are killed. `result` is None until the job has ended, then the content of
    `result.json`, or {"state": "failed", "error": ...} for a child that could not start, crashed, or was killed.
    """

    def __init__(self, python: list[str], folder: Path, environment: dict[str, str], grace: float = 5.0) -> None:
        self.python, self.folder, self.environment, self.grace = python, Path(folder), environment, grace
        self.result: dict[str, Any] | None = None
        self._process: subprocess.Popen | None = None
        self._output: BinaryIO | None = None

    @property
    def running(self) -> bool:
        """Whether the job has not ended; it ends within a call of `poll`, `wait` or `kill`."""
        return self._process is not None

    def start(self) -> None:
        """Start the child; what an earlier run left in the folder is removed."""
        if self.running:
            raise RuntimeError(f"The job {self.folder} is running already.")
        self.result, self._progress, self._rest, self._deadline, self._stopped = None, [], b"", None, False
        for name in STALE:
            (self.folder / name).unlink(missing_ok=True)
        command = [*self.python, "-m", "imagingai", "run", str(self.folder), "--watch-parent"]
        environment = {**self.environment, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
        try:
            with (self.folder / OUTPUT).open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,  # holds no modules that could be imported by mistake
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    **IN_OWN_GROUP,
                )
        except OSError as error:
            reason = error.strerror or error
            text = _("Cannot start {python}: {reason}. Choose another Python in the settings.")
            self.result = {"state": "failed", "error": text.format(python=self.python[0], reason=reason)}
            return
        self._output = (self.folder / OUTPUT).open("rb")
        with contextlib.suppress(OSError):  # it is gone already: poll() will tell
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def poll(self) -> list[dict[str, Any]]:
        """The progress since the last call, {"fraction", "text", "seconds_left"} each. Never blocks; call it regularly."""
        self._advance()
        progress, self._progress = self._progress, []
        return progress

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended; False if it has not within `timeout` seconds. No progress is lost."""
        end = None if timeout is None else time.monotonic() + timeout
        self._advance()
        while self.running and (end is None or time.monotonic() < end):
            time.sleep(0.02)
            self._advance()
        return not self.running

    def cancel(self) -> None:
        """Ask the child to stop. If it has not after the grace, `poll()` kills it."""
        if self.running and self._deadline is None:
            self._stopped, self._deadline = True, time.monotonic() + self.grace
            (self.folder / "cancel").touch()

    def kill(self) -> None:
        """End the child and all its children now."""
        if self.running:
            self._stopped = True
            _kill_tree(self._process)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the system, a dead network drive for example
                self._process.wait(2)
            self._advance()

    def release(self) -> None:
        """Ask the child to stop and let go of it. Its standard input ends, so that it also ends itself a little later (--watch-parent)."""
        if self.running:
            self.cancel()
            process, self._process = self._process, None
            with contextlib.suppress(OSError):
                process.stdin.close()
            self._output.close()
            self.result = {"state": "cancelled", "error": _("Stopped on request; nothing was written.")}

    def _advance(self) -> None:
        if not self.running:
            return
        ended = self._process.poll() is not None  # asked before reading, so that nothing that it wrote is missed
        self._read(float("inf") if ended else READING)
        if ended:
            self._finish()
        elif self._deadline is not None:
            (self.folder / "cancel").touch()  # a child that was just starting has removed it
            if time.monotonic() > self._deadline:
                self.kill()

    def _read(self, seconds: float) -> None:
        """Sort what the child printed into progress and log."""
        end = time.monotonic() + seconds
        with (self.folder / "log.txt").open("ab") as log:
            while chunk := self._output.read(CHUNK):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line + b"\n", log)
                if len(self._rest) > LONGEST_LINE:
                    self._take_rest(log)
                if time.monotonic() > end:
                    break

    def _take(self, line: bytes, log: BinaryIO) -> None:
        """A line is progress, or text, or progress after text that had no end."""
        text, mark, after = line.partition(PROGRESS)
        try:
            progress = json.loads(mark + after) if mark else None
        except ValueError:
            text, progress = line, None
        if progress is not None:
            self._progress.append(progress)
        log.write(text)

    def _take_rest(self, log: BinaryIO) -> None:
        self._take(self._rest, log)
        self._rest = b""

    def _finish(self) -> None:
        """The child has ended: end what it may have started, close everything, find out what became of the job."""
        process, self._process = self._process, None
        _kill_tree(process)
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(OSError), (self.folder / "log.txt").open("ab") as log:  # the folder may be gone, the disk full
            self._take_rest(log)
        self._output.close()
        self.result = self._find_result(process.returncode)
        shutil.rmtree(self.folder / ".partial", ignore_errors=True)  # left by a kill
        for name in (OUTPUT, "preview.nrrd"):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)

    def _find_result(self, code: int) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        if self._stopped:
            return {"state": "cancelled", "error": _("Stopped on request; nothing was written.")}
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
        tail = "\n".join([_("The last lines of its log:"), *lines]) if lines else _("It wrote no log.")
        return {"state": "failed", "error": f"{_ending(code)} {tail}"}


def _ending(code: int) -> str:
    """What an exit code means."""
    if code >= 0:
        return _("The computation ended unexpectedly (exit code {code}).").format(code=code)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return _("The computation was killed ({name}); perhaps the computer ran out of memory.").format(name=name)
    return _("The computation was killed ({name}).").format(name=name)


def _kill_tree(process: subprocess.Popen) -> None:
    """Kill the child and its children, also when the child (a launcher, perhaps) is gone already."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], creationflags=NO_WINDOW, capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says so in its own way
        os.killpg(process.pid, signal.SIGKILL)

"""A job of nodes: written to files, computed in a child process, read back. No Qt: the timer that follows it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from imagingai.job import Job
from ImagingAILib.process import JobProcess
from ImagingAILib.world import NodeError

INTERVAL = 200  # ms between two looks at the child


class TaskRun:
    """Follows a `JobProcess`: `onProgress` gets every progress line, `onDone` the result, both on the thread of the timer.

    timer: a qt.QTimer; without one call `wait()`.
    """

    def __init__(self, process: JobProcess, onProgress: Callable[[dict], None], onDone: Callable[[dict], None], timer=None) -> None:
        self.process, self.onProgress, self.onDone, self.timer = process, onProgress, onDone, timer

    @property
    def running(self) -> bool:
        return self.process.running

    def start(self) -> None:
        self.process.start()
        if self.timer:
            self.timer.connect("timeout()", self.look)
            self.timer.start(INTERVAL)

    def look(self) -> None:
        """Hand on what the child has said since the last look."""
        progress = self.process.poll()
        for line in progress:
            self.onProgress(line)
        if not self.process.running:
            self._end()

    def wait(self) -> dict[str, Any]:
        """Block until the job has ended; returns its result."""
        while not self.process.wait(INTERVAL / 1000):
            for line in self.process.poll():
                self.onProgress(line)
        self.look()
        return self.process.result

    def cancel(self) -> None:
        """Ask the job to stop; `onDone` follows."""
        self.process.cancel()

    def abandon(self) -> None:
        """Kill the job and tell nobody: the scene or the panel goes away."""
        if self.timer:
            self.timer.stop()
        self.process.kill()
        self._forget()

    def release(self) -> None:
        """Ask the job to stop and tell nobody; it has time to say goodbye."""
        if self.timer:
            self.timer.stop()
        self.process.release()
        self._forget()

    def _end(self) -> None:
        if self.timer:
            self.timer.stop()
        onDone = self.onDone
        self._forget()
        onDone(self.process.result)

    def _forget(self) -> None:
        """Let go of what listens: the connection of the timer keeps this object, which must not keep the nodes."""
        self.onProgress = self.onDone = lambda _: None


class NodeRun:
    """A job of nodes of the scene; what is written and read is up to each task: `task`, `writeInputs()`, `readResult()`.

    config: options that differ from the defaults; folder: of the job, kept for replay. After a run `state` is done, failed or
    cancelled, `error` the sentence for the user, and `result` what result.json holds.
    """

    task = ""
    grace = 5.0  # seconds that a cancelled job has to stop by itself

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.config, self.folder = config, Path(folder)
        self.result: dict[str, Any] = {}
        self.state, self.error = "new", ""
        self.run: TaskRun | None = None

    def writeInputs(self) -> dict[str, str]:
        """Check the nodes and write them; returns the inputs of the job. Raises `NodeError`."""
        raise NotImplementedError

    def readResult(self) -> None:
        """Make nodes of the results. Raises `NodeError`."""

    @property
    def textWhenStopped(self) -> str:
        """What a cancelled run leaves."""
        return _("Cancelled; nothing was changed.")

    def start(
        self,
        python: list[str],
        environment: dict[str, str],
        timer=None,
        onProgress: Callable[[dict], None] = lambda line: None,
        onDone: Callable[[NodeRun], None] = lambda run: None,
    ) -> None:
        """Check and write the inputs (raises `NodeError`), then start the child process."""
        Job(self.task, self.writeInputs(), self.config).write(self.folder)
        self.state, self._onDone = "running", onDone
        self.run = TaskRun(JobProcess(python, self.folder, environment, self.grace), onProgress, self._finish, timer)
        self.run.start()

    def _finish(self, result: dict[str, Any]) -> None:
        self.result, self.error = result, result.get("error", "")
        self.state = "failed"  # until all is read
        try:
            if result["state"] == "done":
                self.readResult()
            self.state = result["state"]
        except NodeError as error:
            self.error = str(error)
        finally:  # after a bug, too, nobody waits for ever
            self._onDone(self)

    def cancel(self) -> None:
        """Stop; the end is reported as for any other run."""
        if self.run:
            self.run.cancel()

    def abandon(self) -> None:
        """Stop at once without a report: the scene closes."""
        if self.run and self.run.running:
            self.run.abandon()
            self.state = "cancelled"

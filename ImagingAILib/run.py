"""A job of nodes: written to files, computed in a child process, read back. No Qt: the timer that follows it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ImagingAILib.process import JobProcess

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

    def _end(self) -> None:
        if self.timer:
            self.timer.stop()
        onDone = self.onDone
        self._forget()
        onDone(self.process.result)

    def _forget(self) -> None:
        """Let go of what listens: the connection of the timer keeps this object, which must not keep the nodes."""
        self.onProgress = self.onDone = lambda _: None

"""How a job's progress is shown: a bar in a terminal, plain lines in a file, JSON lines for a panel."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO


def seconds_left(fraction: float, elapsed: float) -> float | None:
    """Time that is left if the rest goes as fast as what is done; None while it is too early to say."""
    return elapsed * (1 - fraction) / fraction if fraction > 0.02 else None


def clock(seconds: float) -> str:
    """65 -> '1:05'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Bar:
    """A report for people: one line that is redrawn in a terminal, or a line every tenth in a log."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream, self.began, self.drawn, self.tenth = stream or sys.stderr, time.time(), 0.0, -1

    def __call__(self, fraction: float, text: str) -> None:
        now = time.time()
        left = seconds_left(fraction, now - self.began)
        tail = "" if left is None or fraction >= 1 else f", {clock(left)} left"
        if self.stream.isatty():
            if now - self.drawn > 0.1 or fraction >= 1:
                filled = int(30 * fraction)
                self.stream.write(f"\r\033[K[{'#' * filled}{'.' * (30 - filled)}] {100 * fraction:3.0f} %{tail}  {text}"[:119])
                self.drawn = now
        elif int(10 * fraction) > self.tenth:
            self.tenth = int(10 * fraction)
            self.stream.write(f"{100 * fraction:3.0f} %{tail}  {text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the line, so that what follows starts on its own."""
        if self.stream.isatty():
            self.stream.write("\n")


class Lines:
    """A report for programs: one JSON object a line on standard output."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream, self.began, self.written = stream or sys.stdout, time.time(), 0.0

    def __call__(self, fraction: float, text: str) -> None:
        now = time.time()
        if now - self.written < 0.1 and fraction < 1:
            return
        self.written = now
        left = seconds_left(fraction, now - self.began)
        print(
            json.dumps({"fraction": round(fraction, 4), "text": text, "seconds_left": left and round(left, 1)}),
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        """Nothing to leave."""

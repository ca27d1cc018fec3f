"""The log of everything that a site received and sent. Standard library only.

A file of JSON lines that only grows. Each line has its number, the time (UTC), the event and its facts, and the SHA-256 of the line
before: whoever changes, removes or inserts a line breaks the chain there. Who can write the file can also write a whole new chain,
and cutting off the end is not seen in the file itself; the hash of the last line, kept elsewhere, proves both.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from imagingai.errors import InputError

BEGIN = b'{"number": '
OWN = ("number", "time", "event", "previous")  # names that no fact can have


class Audit:
    """An audit log to add to. A line that a kill or a full disk has cut off stays as it is; the next one begins on a line of its own."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._size = -1  # bytes, when the other three were right

    def _find_end(self) -> None:
        lines = _lines(self.path) if self.path.exists() else []
        self._number, self._torn = len(lines), bool(lines) and not lines[-1].endswith(b"\n")
        self._previous = _hash(lines[-1]) if lines else ""

    def write(self, event: str, **facts: Any) -> str:
        """Add a line, which is on the disk when this returns. Returns its SHA-256; raises OSError if it cannot be written."""
        if taken := set(OWN) & set(facts):
            raise ValueError(f"facts cannot be named {', '.join(sorted(taken))}")
        with self._lock, open(self.path, "ab") as file:
            if file.tell() != self._size:  # at the first time, and after an error or a stop in the middle of a line
                self._find_end()
            row = {"number": self._number + 1, "time": _now(), "event": event, **facts, "previous": self._previous}
            line = json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n"
            file.write(b"\n" * self._torn + line)
            file.flush()
            os.fsync(file.fileno())
            self._number, self._torn, self._previous = self._number + 1, False, _hash(line)
            self._size = file.tell()
            return self._previous


@dataclass(frozen=True)
class Verdict:
    """What verify has found. broken: the first line whose chain is broken, or None; torn: lines that were cut off while written."""

    lines: int
    broken: int | None
    torn: tuple[int, ...]
    last: str

    def __str__(self) -> str:
        if self.broken:
            return f"Line {self.broken} does not follow from the one before it: the log was changed there or above."
        torn = f" Cut off while written (a kill, a full disk): line {', '.join(map(str, self.torn))}." if self.torn else ""
        return f"The chain of all {self.lines} lines is unbroken.{torn} SHA-256 of the last line: {self.last or 'none'}."


def verify(path: str | Path) -> Verdict:
    """Follow the chain of an audit log; raises InputError if it cannot be read or is none."""
    previous, torn, lines = "", [], _lines(Path(path))
    if lines and not lines[0].startswith(BEGIN[: len(lines[0])]):
        raise InputError(f"{path} is not an audit log.")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if row is None or not line.endswith(b"\n"):
            torn.append(number)
        elif not isinstance(row, dict) or (row.get("number"), row.get("previous")) != (number, previous):
            return Verdict(len(lines), number, tuple(torn), "")
        previous = _hash(line)
    return Verdict(len(lines), None, tuple(torn), previous)


def read_audit(path: str | Path) -> list[dict[str, Any]]:
    """The lines that are whole, the oldest first; raises InputError if the file cannot be read."""
    rows = []
    for line in _lines(Path(path)):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # torn
    return rows


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"The audit log {path} cannot be read: {error.strerror}.") from None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")

"""The child processes of an aggregator: started again when they die, ended when we do. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from imagingai.errors import InputError, JobFailed
from imagingai.federated.store import Store

QUICK = 20.0  # seconds; a process that ends sooner has not really started
THRIFTY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "1000000"}  # of glibc: what large messages took is given back at once
TRIES = 4  # quick ends in a row before we give up


class Kept:
    """A child process that is started again when it dies. It ends by itself when we do: it reads our end of its standard input."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.log, self.quick = command, folder / "log.txt", 0
        self.start()

    def start(self) -> None:
        """Start it; what it prints goes to log.txt."""
        self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command], stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **THRIFTY}
            )

    def keep(self, store: Store) -> None:
        """Start it again if it has died; raises JobFailed if it cannot stay alive."""
        if self.process.poll() is None:
            return
        name = self.command[0].rpartition(".")[2]
        self.quick = self.quick + 1 if time.monotonic() - self.began < QUICK else 0
        if self.quick >= TRIES:
            text = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise JobFailed(
                f"The {name} process of the aggregator ends again and again: {text[-1] if text else 'it says nothing'} ({self.log})."
            )
        store.event(f"The {name} process ended ({self.process.returncode}) and is started again.", "warning")
        time.sleep(min(5.0, self.quick))
        self.start()

    def stop(self, patience: float = 10.0) -> None:
        """Ask it to end, and make it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def end_with_parent() -> None:
    """In a child process: end at once when the parent does, even if it was killed."""

    def wait() -> None:
        while os.read(0, 64):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


class only_one:
    """Two processes of one site would throw each other out, and two of one aggregator: the second one is told so.

    taken: the beginning of its sentence. The lock ends with its process.
    """

    def __init__(self, place: Path, taken: str = "This site is taking part already") -> None:
        self.place, self.taken = place, taken

    def __enter__(self) -> None:
        self.file = (self.place / "lock").open("w")
        try:
            lock(self.file)
        except OSError:
            self.file.close()
            raise InputError(f"{self.taken}, in another window or process ({self.place}). Stop that one first.") from None

    def __exit__(self, *_: object) -> None:
        self.file.close()


def lock(file: Any) -> None:
    """Lock an open file for this process; raises OSError if another one has it."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

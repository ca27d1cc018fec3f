"""The state of a federation at its aggregator: sites, rounds, updates, events and facts in one SQLite file. Standard library only.

The link, the round loop, the status page and the command line use it at the same time. Every method is one transaction that is
on the disk when the method returns, so that a kill or a power cut at any point leaves a state that the federation goes on from.
Times are seconds since 1970 (UTC).
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagingai.errors import InputError, JobFailed

VERSION = 1  # of the tables below
PATIENCE = 30.0  # s that a method waits for another process
STATES = ("counted", "rejected", "late", "failed")  # of an update
TABLES = (
    """CREATE TABLE sites (name TEXT PRIMARY KEY COLLATE NOCASE, key TEXT UNIQUE NOT NULL, fingerprint TEXT, node_id TEXT,
       state TEXT DEFAULT 'invited', invited REAL, expires REAL, seen REAL, activity TEXT DEFAULT '')""",
    """CREATE TABLE rounds (number INTEGER PRIMARY KEY, sites TEXT, bytes INTEGER, started REAL, ended REAL,
       metrics TEXT DEFAULT '{}', checkpoint TEXT DEFAULT '', sha256 TEXT DEFAULT '')""",
    f"""CREATE TABLE updates (round INTEGER, site TEXT, state TEXT CHECK (state IN {STATES}), reason TEXT,
       bytes INTEGER, seconds REAL, metrics TEXT, weight REAL, received REAL, PRIMARY KEY (round, site))""",
    """CREATE TABLE events (number INTEGER PRIMARY KEY, time REAL, level TEXT CHECK (level IN ('info', 'warning', 'error')), text TEXT)""",
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT)",
)
REASONS = {  # what SQLite says -> its kind, and what the user can do; all else is a bug
    "full": (JobFailed, "Free some space, and go on with: imagingai federated resume."),
    "disk I/O error": (JobFailed, "Free some space or look after the disk, and go on with: imagingai federated resume."),
    "locked": (JobFailed, "Another process holds it; stop that one, or wait."),
    "readonly": (InputError, "Use a folder that you may write to."),
    "unable to open": (InputError, "Use a folder that exists and that you may write to."),
    "not a database": (InputError, "Take it from your backup."),
    "malformed": (InputError, "Take it from your backup."),
}


@dataclass(frozen=True)
class SiteRow:
    """A site. key: its public key as text; state: invited or revoked; activity: the last thing that it did, at the time `seen`."""

    name: str
    key: str
    fingerprint: str
    node_id: int | None
    state: str
    invited: float
    expires: float
    seen: float | None
    activity: str


@dataclass(frozen=True)
class RoundRow:
    """A round. sites: who was asked; bytes: sent to each of them; ended: None while it runs; sha256: of the checkpoint."""

    number: int
    sites: list[str]
    bytes: int
    started: float
    ended: float | None
    metrics: dict[str, float]
    checkpoint: str
    sha256: str


@dataclass(frozen=True)
class UpdateRow:
    """What came of a site in a round. state: one of STATES; bytes: received; seconds: of training; weight: in the round's model."""

    round: int
    site: str
    state: str
    reason: str
    bytes: int
    seconds: float
    metrics: dict[str, Any]
    weight: float | None
    received: float


@dataclass(frozen=True)
class EventRow:
    """A line of the log. level: info, warning or error."""

    number: int
    time: float
    level: str
    text: str


def check_name(name: str) -> None:
    """Raise InputError unless the name can be that of a site, and so of its files."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise InputError(f"{name!r} cannot be the name of a site. Use letters, digits, - and _ (64 at most, no - or _ at the beginning).")


class Store:
    """The state of a federation in a file, which is made if need be. May be used by several threads and processes.

    Methods raise JobFailed if the disk is full or the file is held by another process, InputError if it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        with _explained(self.path):
            self._connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            self._switch_to_wal()
            self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction() as do:
            (version,) = do("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise InputError(f"{self.path} was written by a newer ImagingAI. Update this one.")
            if not version:
                for statement in (*TABLES, f"PRAGMA user_version = {VERSION}"):
                    do(statement)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    # --- sites

    def add_site(self, name: str, key: str, fingerprint: str, expires: float) -> None:
        """Invite a site, or renew its invitation. Raises InputError if the name or the key is taken, or the key was revoked."""
        check_name(name)
        with self._transaction() as do:
            known = do("SELECT name, key, state FROM sites WHERE name = ? OR key = ?", (name, key)).fetchall()
            for other, old_key, state in known:
                if old_key == key and state == "revoked":
                    raise InputError(
                        f"The key of {other} was revoked. Let the site move it away and make a new one with: imagingai federated key."
                    )
                if other.lower() != name.lower():
                    raise InputError(f"The key of {name} is that of {other}. Every site needs one of its own.")
                if old_key != key and state != "revoked":
                    raise InputError(f"There is a site {other} with another key. Revoke it first, or choose another name.")
            do(
                "INSERT OR REPLACE INTO sites (name, key, fingerprint, node_id, invited, expires) "
                "VALUES (?, ?, ?, (SELECT node_id FROM sites WHERE key = ?), ?, ?)",
                (name, key, fingerprint, key, time.time(), expires),
            )

    def sites(self) -> list[SiteRow]:
        """All sites, by name."""
        with self._transaction(write=False) as do:
            rows = do("SELECT name, key, fingerprint, node_id, state, invited, expires, seen, activity FROM sites ORDER BY name").fetchall()
        return [SiteRow(*row[:3], None if row[3] is None else int(row[3]), *row[4:]) for row in rows]

    def set_node(self, name: str, node_id: int) -> None:
        """Remember by which number Flower knows a site (unsigned, 64 bits)."""
        self._change_site(name, "node_id = ?", str(node_id))  # text, because SQLite has signed numbers only

    def revoke(self, name: str) -> None:
        """Shut a site out."""
        self._change_site(name, "state = ?", "revoked")

    def seen(self, name: str, activity: str) -> None:
        """A site has just given a sign of life: "training round 3", "waiting", "left" ..."""
        self._change_site(name, "activity = ?, seen = ?", activity, time.time())

    # --- rounds

    def begin_round(self, number: int, sites: Sequence[str], bytes: int = 0) -> None:
        """A round begins (anew: what an unfinished attempt has received is forgotten). bytes: sent to each site."""
        with self._transaction() as do:
            do("DELETE FROM updates WHERE round = ?", (number,))
            do(
                "INSERT OR REPLACE INTO rounds (number, sites, bytes, started) VALUES (?, ?, ?, ?)",
                (number, json.dumps(list(sites)), bytes, time.time()),
            )

    def add_update(
        self,
        round: int,
        site: str,
        state: str,
        reason: str = "",
        bytes: int = 0,
        seconds: float = 0.0,
        metrics: Mapping[str, Any] | None = None,
        weight: float | None = None,
    ) -> None:
        """What came of a site in a round; a later call replaces an earlier one."""
        values = (round, site, state, reason, bytes, seconds, _to_json(dict(metrics or {})), weight, time.time())
        with self._transaction() as do:
            do("INSERT OR REPLACE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def end_round(self, number: int, metrics: Mapping[str, float], checkpoint: str, sha256: str) -> None:
        """A round is complete: its checkpoint is on the disk."""
        with self._transaction() as do:
            do(
                "UPDATE rounds SET ended = ?, metrics = ?, checkpoint = ?, sha256 = ? WHERE number = ?",
                (time.time(), _to_json(dict(metrics)), checkpoint, sha256, number),
            )

    def forget_rounds_after(self, number: int) -> None:
        """Go back to the checkpoint of a round."""
        with self._transaction() as do:
            do("DELETE FROM rounds WHERE number > ?", (number,))
            do("DELETE FROM updates WHERE round > ?", (number,))

    def rounds(self) -> list[RoundRow]:
        """All rounds, the first one first."""
        with self._transaction(write=False) as do:
            rows = do("SELECT number, sites, bytes, started, ended, metrics, checkpoint, sha256 FROM rounds ORDER BY number").fetchall()
        return [RoundRow(row[0], json.loads(row[1]), *row[2:5], json.loads(row[5]), *row[6:]) for row in rows]

    def updates(self, round: int | None = None) -> list[UpdateRow]:
        """The updates of a round, or all, by round and site."""
        with self._transaction(write=False) as do:
            rows = do("SELECT * FROM updates WHERE ? IS NULL OR round = ? ORDER BY round, site", (round, round)).fetchall()
        return [UpdateRow(*row[:6], json.loads(row[6]), *row[7:]) for row in rows]

    # --- events and facts

    def event(self, text: str, level: str = "info") -> None:
        """Write a line into the log. level: info, warning or error."""
        with self._transaction() as do:
            do("INSERT INTO events (time, level, text) VALUES (?, ?, ?)", (time.time(), level, text))

    def events(self, last: int = 200) -> list[EventRow]:
        """The last lines of the log, the newest one last."""
        with self._transaction(write=False) as do:
            rows = do("SELECT number, time, level, text FROM events ORDER BY number DESC LIMIT ?", (last,)).fetchall()
        return [EventRow(*row) for row in reversed(rows)]

    def set(self, key: str, value: Any) -> None:
        """Remember a fact, which JSON can hold: state (waiting, running, finished, failed, stopped), message, started, round, rounds ..."""
        with self._transaction() as do:
            do("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, _to_json(value)))

    def get(self, key: str, default: Any = None) -> Any:
        """A fact."""
        return self.facts().get(key, default)

    def facts(self) -> dict[str, Any]:
        """All facts."""
        with self._transaction(write=False) as do:
            return {key: json.loads(value) for key, value in do("SELECT key, value FROM facts")}

    # --- inside

    def _change_site(self, name: str, change: str, *values: Any) -> None:
        with self._transaction() as do:
            if not do(f"UPDATE sites SET {change} WHERE name = ?", (*values, name)).rowcount:
                names = ", ".join(row[0] for row in do("SELECT name FROM sites ORDER BY name")) or "none yet"
                raise InputError(f"There is no site {name!r}. The sites are: {names}.")

    @contextmanager
    def _transaction(self, write: bool = True) -> Iterator[Any]:
        """Yields `execute`. All of it happens, or nothing; what is read belongs together."""
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:  # after a full disk SQLite may have rolled back by itself
                    self._connection.execute("ROLLBACK")

    def _switch_to_wal(self) -> None:
        """SQLite does not wait by itself when several processes open a new file at once."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A full disk, a file without permission ... become one sentence."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        known = next((found for reason, found in REASONS.items() if reason in str(error)), None)
        if known is None:
            raise
        free = shutil.disk_usage(path.parent).free >> 20 if path.parent.is_dir() else 0
        raise known[0](f"The state of the federation, {path}, cannot be used: {error} ({free} MB are left). {known[1]}") from None


def _to_json(value: Any) -> str:
    return json.dumps(value, default=float)  # numbers of numpy and torch

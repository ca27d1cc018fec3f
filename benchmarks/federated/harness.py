"""A federation of real processes on this computer, to be killed, cut off, starved and lied to: an aggregator and sites, each with a log."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from imagingai.federated import actions
from imagingai.federated.audit import read_audit
from imagingai.federated.demo import free_port
from imagingai.federated.invitation import read_invitation
from imagingai.federated.keys import make_site_key
from imagingai.federated.project import Project, read_project
from imagingai.federated.site import digest
from imagingai.federated.store import Store
from imagingai.volume import Volume, save

TABLE = {
    "name": "Fault test",
    "coordinator": "The test of faults, on this computer",
    "purpose": "To see what happens when something goes wrong.",
    "task": "roi-classification",
    "network": "mlp",
    "classes": ["well", "sick"],
    "features": ["volume", "thickness"],
    "rounds": 3,
    "epochs": 12,
    "batch": 1,
    "learning_rate": 0.02,
    "held_out": 0.25,
    "select": "last",
}
PICTURES = {  # a network of 19.6 MB that hardly trains
    **TABLE,
    "task": "image-classification",
    "network": "resnet10",
    "dimension": 2,
    "patch": [24],
    "batch": 8,
    "epochs": 1,
    "rounds": 2,
}
PATIENCE = 600.0  # seconds
HONEST = ("-m", "imagingai")
QUIET = threading.Lock()
ROGUE = str(Path(__file__).with_name("rogue.py"))


def write_table(folder: Path, site: str, count: int = 24) -> dict[str, Path]:
    """Cases of two classes, told apart by their volume; `secret` in their names is what must not leave."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(sum(site.encode()))
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "label", "volume", "thickness"])
        for k in range(count):
            volume = 4000 + 900 * (k % 2) + 400 * random.normal()
            writer.writerow([f"secret-{site}-{k:03d}", ("well", "sick")[k % 2], f"{volume:.6f}", f"{2.5 + 0.1 * random.normal():.6f}"])
    return {"table": folder / "table.csv"}


def write_pictures(folder: Path, site: str, count: int = 8) -> dict[str, Path]:
    """The same cases as pictures of 24 x 24 pixels."""
    found, random = write_table(folder, site, count), np.random.default_rng(sum(site.encode()))
    (folder / "images").mkdir()
    for k in range(count):
        image = random.random((24, 24, 1)).astype(np.float32)
        image[8:16, 8:16] += k % 2
        save(Volume.from_array(image), folder / "images" / f"secret-{site}-{k:03d}.nii.gz")
    return {**found, "images": folder / "images"}


class Federation:
    """An aggregator and its sites as processes. settings: of project.toml, besides those of TABLE or PICTURES.

    addresses: site -> port that its invitation names instead of the aggregator's (a Line).
    """

    def __init__(self, folder: Path, sites: tuple[str, ...] = ("a", "b"), **settings: Any) -> None:
        self.folder, self.sites, self.port = folder, sites, free_port()
        self.settings = {**TABLE, "min_sites": len(sites), **settings}
        self.file, self.running, self.data = folder / "project.toml", {}, {}
        self.store: Store | None = None
        folder.mkdir(parents=True, exist_ok=True)
        write = write_pictures if self.settings["task"] == "image-classification" else write_table
        for site in sites:
            self.data[site] = write(folder / "data" / site, site)
            self.invite(site)

    # --- before it begins

    def invite(self, site: str, port: int = 0, days: float = 1.0) -> Path:
        """Make the key of a site (if there is none) and its invitation."""
        self.write_project(port or self.port)
        with QUIET, contextlib.redirect_stdout(io.StringIO()):  # which is that of all threads
            make_site_key(self.folder / f"{site}_key")
            actions.invite(Namespace(project=self.file, site=site, key=self.folder / f"{site}_key.pub", days=days, output=None))
        self.write_project(self.port)
        return self.folder / f"{site}.invitation"

    def write_project(self, port: int, **settings: Any) -> None:
        """Write project.toml; port: of the address in it."""
        self.settings |= settings
        values = {**self.settings, "address": f"127.0.0.1:{port}", "listen": f"127.0.0.1:{self.port}"}
        self.file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()), encoding="utf-8")

    @property
    def project(self) -> Project:
        return read_project(self.file)

    # --- processes

    def serve(self, resume: bool = False, **how: Any) -> None:
        """Start the aggregator, or go on with it."""
        self.start("aggregator", ["resume" if resume else "serve", str(self.file), "--status-port", str(free_port())], **how)

    def join(self, site: str, *options: str, invitation: Path | None = None, **how: Any) -> None:
        """Start a site, or let it come back."""
        invitation = invitation or self.folder / f"{site}.invitation"
        inputs = [text for name, path in self.data[site].items() for text in (f"--{name}", str(path))]
        accept = ["--accept", read_invitation(invitation).fingerprint, "--key", str(self.folder / f"{site}_key"), "--threads", "1"]
        command = ["join", "--invitation", str(invitation), *inputs, *accept, "--output", str(self.job(site)), *options]
        self.start(site, command, **how)

    def begin(self) -> Federation:
        """Start all."""
        self.serve()
        for site in self.sites:
            self.join(site)
        return self

    def start(
        self,
        name: str,
        command: list[str],
        env: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
        program: tuple[str, ...] = HONEST,
    ) -> None:
        """A command of `imagingai federated` as a process; before: what it runs under; program: what runs it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*before, sys.executable, *program, "federated", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            )

    def kill(self, name: str) -> None:
        """kill -9, without a warning. name: aggregator, a site, or the link or rounds_process of the aggregator."""
        if name in self.running:
            self.running[name].kill()
            self.running.pop(name).wait()
        else:
            os.kill(self.child(name), signal.SIGKILL)

    def child(self, name: str) -> int:
        """Number of the link or the rounds_process."""
        parent = self.running["aggregator"].pid
        for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                if f"imagingai.federated.{name}\0" in Path(f"/proc/{number}/cmdline").read_text():
                    return int(number)
        raise TimeoutError(f"there is no process {name}")

    def end(self, patience: float = PATIENCE) -> dict[str, int]:
        """Wait until all processes have ended by themselves; returns their exit codes."""
        until(lambda: all(process.poll() is not None for process in self.running.values()), patience, f"the end of {self.folder.name}")
        return {name: process.returncode for name, process in self.running.items()}

    def close(self) -> None:
        """Leave nothing running."""
        for process in self.running.values():
            process.kill()
            process.wait()

    # --- what can be seen

    def job(self, site: str) -> Path:
        """The job folder of a site."""
        return self.folder / "jobs" / site

    def state(self, site: str) -> dict[str, Any]:
        """state.json of a site."""
        file = self.job(site) / "federation" / "state.json"
        with contextlib.suppress(OSError, ValueError):
            return json.loads(file.read_text())
        return {}

    def audit(self, site: str, event: str = "") -> list[dict[str, Any]]:
        """The lines of a site's audit log."""
        return [row for row in read_audit(self.job(site) / "federation" / "audit.jsonl") if event in ("", row["event"])]

    def last(self, name: str) -> str:
        """The last line that a process has printed."""
        lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def ledger(self) -> Store:
        """The aggregator's store."""
        self.store = self.store or Store(self.project.folder / "federation.db")
        return self.store

    def rounds(self) -> int:
        """How many are complete."""
        return len([row for row in self.ledger().rounds() if row.ended])

    def events(self, text: str) -> list[str]:
        """What the aggregator's log says with this text in it."""
        return [event.text for event in self.ledger().events(1000) if text in event.text]

    def digest(self) -> str:
        """SHA-256 of the last round's weights; all sites have the same model in their folder."""
        last = self.ledger().rounds()[-1]
        assert last.number == self.settings["rounds"] and last.ended, f"{self.folder} is not complete"
        return last.sha256

    def models(self) -> set[str]:
        """SHA-256 of the weights of the aggregator's model and of those of all sites; one, if all is well."""
        files = [self.project.folder / "model.safetensors", *(self.job(site) / "model.safetensors" for site in self.sites)]
        return {digest(load_file(file)) for file in files}

    def until_state(self, site: str, state: str, number: int = 1, patience: float = PATIENCE) -> None:
        """Wait until a site is in this state, in this round or later."""
        here = lambda: self.state(site).get("state") == state and self.state(site)["round"] >= number  # noqa: E731
        until(here, patience, lambda: f"{site} is not {state} in round {number}, but {self.state(site)}; {self.last(site)}")

    def until_round(self, number: int, patience: float = PATIENCE) -> None:
        """Wait until a round is complete."""
        until(lambda: self.rounds() >= number, patience, f"round {number} of {self.folder}")


@contextlib.contextmanager
def federation(folder: Path, sites: tuple[str, ...] = ("a", "b"), **settings: Any) -> Iterator[Federation]:
    """A federation of which nothing runs after the block."""
    made = Federation(folder, sites, **settings)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], Any], patience: float, what: str | Callable[[], str]) -> None:
    """Wait until the condition is true; TimeoutError says what never came."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"After {patience:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.05)

"""A federation in real processes, of which the panel is one site: an aggregator, and another site on the command line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from imagingai.federated.demo import free_port, processes
from imagingai.federated.invitation import read_invitation


def federated(*words: str | Path) -> None:
    """Run a command of `imagingai federated`."""
    subprocess.run([sys.executable, "-m", "imagingai", "federated", *map(str, words)], check=True, capture_output=True)


@contextlib.contextmanager
def federation(folder: Path, settings: dict, key: Path, inputs: dict[str, Path], here="hospital_a", there="hospital_b") -> Iterator[Path]:
    """Invite `here`, whose public key is given, and let `there` join with `inputs`; yields the invitation while all of that runs."""
    project = folder / "project.toml"
    settings = {**settings, "address": f"127.0.0.1:{free_port()}", "min_sites": 2}
    project.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8")
    federated("key", "--output", folder / there)
    invitations = {}
    for site, public in ((here, key), (there, folder / f"{there}.pub")):
        invitations[site] = folder / f"{site}.invitation"
        federated("invite", project, "--site", site, "--key", public, "--output", invitations[site])
    accept = read_invitation(invitations[there]).fingerprint
    data = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    key_and_consent = ["--key", str(folder / there), "--accept", accept]
    commands = {
        "serve": ["serve", str(project), "--status-port", str(free_port())],
        "join": ["join", "--invitation", str(invitations[there]), *data, *key_and_consent, "--output", str(folder / f"{there}-result")],
    }
    with processes(commands, folder):
        yield invitations[here]

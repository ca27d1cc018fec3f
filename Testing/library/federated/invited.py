"""A coordinator's project and an invited site, as files. Used by the tests of joining and serving."""

from __future__ import annotations

import contextlib
import io
import json
from argparse import Namespace
from pathlib import Path

from link_server import free_port
from site_data import CLASSES, table_site
from small_federation import FEATURES

from imagingai.federated import actions
from imagingai.federated.invitation import Invitation, read_invitation
from imagingai.federated.keys import make_site_key

PROJECT = {
    "name": "Two clinics",
    "coordinator": "Dr. Grün",
    "purpose": "Tell ill from healthy.",
    "task": "roi-classification",
    "classes": CLASSES,
    "features": FEATURES,
    "rounds": 2,
    "learning_rate": 0.3,
    "min_sites": 1,
}


def write_project(folder: Path, **changes) -> Path:
    """A project.toml; its aggregator has a free port of this computer."""
    settings = {"address": f"127.0.0.1:{free_port()}", **PROJECT, **changes}
    file = folder / "project.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8")
    return file


def invite(project: Path, site: str = "hospital_a", key: Path | None = None) -> Invitation:
    """Invite a site, whose key and invitation are then beside the project."""
    key = key or project.with_name(site)
    make_site_key(key)
    with contextlib.redirect_stdout(io.StringIO()):
        actions.invite(Namespace(project=project, site=site, key=key.with_name(f"{key.name}.pub"), days=1.0, output=None))
    return read_invitation(project.with_name(f"{site}.invitation"))


def inputs(folder: Path, site: str = "hospital_a", seed: int = 0) -> dict[str, Path]:
    """The inputs of the task of joining."""
    (folder / f"{site}_data").mkdir(exist_ok=True)
    return {"invitation": folder / f"{site}.invitation", **table_site(folder / f"{site}_data", seed=seed)}

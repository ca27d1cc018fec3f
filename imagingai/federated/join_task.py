"""`imagingai federated join` and `check`: a site takes part in a federation, or looks at its data before."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from imagingai.device import choose_device, keep_memory, use_threads
from imagingai.errors import InputError
from imagingai.federated import packages
from imagingai.federated.audit import Audit
from imagingai.federated.config import CheckConfig, JoinConfig, ProjectConfig
from imagingai.federated.keys import fingerprint
from imagingai.federated.learner import open_learner
from imagingai.federated.processes import only_one
from imagingai.federated.project import read_project
from imagingai.federated.survey import check_data
from imagingai.job import Report, part, write_json
from imagingai.tasks import SITE_DATA

DATA = tuple(item.name for item in SITE_DATA)
READING = 0.02  # share of the progress bar for reading the data
RESULTS = ("model.safetensors", "personal.safetensors")


def check_files(inputs: dict[str, Path], config: CheckConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Look at the data of a site as the project in `invitation` (.invitation or project.toml) would use it; write report.html."""
    from imagingai.federated.report import check_page

    use_threads(config.threads)
    project = project_of(inputs["invitation"])
    found = check_data(project, {name: inputs[name] for name in DATA if name in inputs}, report)
    (folder / "report.html").write_text(check_page(found), encoding="utf-8")
    return found


def join_files(inputs: dict[str, Path], config: JoinConfig, folder: Path, report: Report) -> dict[str, Any]:
    """Take part in the federation of `invitation`; write the models, report.html and a copy of the audit log.

    What lasts is in `federation` beside the folder: the audit log, state.json, history.json, private weights. The same job goes on there.
    """
    packages.activate()
    from imagingai.federated.keys import load_site_key
    from imagingai.federated.node import Diary, Pause, take_part
    from imagingai.federated.site import Site

    use_threads(config.threads)
    keep_memory()
    invitation, key = agreed(inputs["invitation"], config)
    place = folder.parent / "federation"
    place.mkdir(exist_ok=True)
    with only_one(place):
        audit = Audit(place / "audit.jsonl")
        diary = Diary(place, invitation.config.rounds, audit)
        pause = Pause(folder.parent, diary, report)
        write_consent(place, invitation, audit)
        diary.state("preparing", "Reading the data")
        data = {name: inputs[name] for name in DATA if name in inputs}
        open_data = lambda histogram: open_learner(invitation.config, data, histogram=histogram, report=part(pause, 0.0, READING))  # noqa: E731
        site = Site(invitation.config, open_data, place, str(choose_device(config.device)), part(pause, READING, 1.0))
        check_tensors(site.shapes, invitation.tensors)
        audit.write("data", cases=site.learner.examples, held_out=site.learner.held_out)
        take_part(site, invitation.config.address, invitation.authority, load_site_key(key), invitation.job, diary, pause, config.patience)
        return write_results(place, folder, invitation, diary)


def agreed(file: Path, config: JoinConfig) -> tuple[Any, Path]:
    """The verified invitation that the user has agreed to, and the site's key. Raises InputError for any other."""
    from imagingai.federated.invitation import check_accepted, read_invitation, verify
    from imagingai.federated.keys import site_key_of

    invitation = read_invitation(file)
    key = site_key_of(config.key)
    verify(invitation, key)
    check_accepted(invitation, config.accept)
    return invitation, key


def project_of(file: Path) -> ProjectConfig:
    """The settings in a project.toml, or in an invitation that the coordinator really signed."""
    from imagingai.federated.invitation import read_invitation, verify

    if file.suffix == ".toml":
        return read_project(file).config
    packages.activate()
    invitation = read_invitation(file)
    verify(invitation, None)
    return invitation.config


def write_consent(place: Path, invitation: Any, audit: Audit) -> None:
    """Who agreed to what, once for each invitation."""
    file = place / "consent.json"
    consent = {"invitation": invitation.fingerprint, "job": invitation.job, "site": invitation.site, "federation": invitation.config.name}
    consent["coordinator"] = fingerprint(invitation.signer)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if known.get("job", invitation.job) != invitation.job:
        raise InputError(
            f"{place} belongs to another federation, or to other settings of this one (job {known['job'][:8]}, now {invitation.job[:8]}). "
            "Choose another output folder."
        )
    if known.get("coordinator", consent["coordinator"]) != consent["coordinator"]:
        raise InputError(
            f"This invitation is signed with another key ({consent['coordinator'][:8]}) than the one before ({known['coordinator'][:8]}). "
            "Ask the coordinator by telephone; if it is right, choose another output folder."
        )
    if known.get("invitation") != invitation.fingerprint:
        write_json(file, {**consent, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        audit.write("agreed", **consent)


def check_tensors(shapes: dict[str, tuple[int, ...]], declared: dict[str, tuple[int, ...]]) -> None:
    """What would leave must be what the invitation says."""
    if {name: tuple(shape) for name, shape in shapes.items()} != {name: tuple(shape) for name, shape in declared.items()}:
        raise InputError(
            f"This version of ImagingAI would send {len(shapes)} tensors that are not the {len(declared)} of the invitation. "
            "Use the version that the coordinator uses, or ask for a new invitation."
        )


def write_results(place: Path, folder: Path, invitation: Any, diary: Any) -> dict[str, Any]:
    """What the user gets."""
    from imagingai.federated.report import site_page

    for name in RESULTS:
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
    shutil.copyfile(place / "audit.jsonl", folder / "audit.jsonl")
    results = json.loads((place / "results.json").read_text(encoding="utf-8"))
    found = {
        "federation": invitation.config.name,
        "site": invitation.site,
        "task": invitation.config.task,
        "rounds": invitation.config.rounds,
        "history": diary.history,
        "figures": results,
        "models": {name.partition(".")[0]: name for name in RESULTS if (folder / name).is_file()},
    }
    (folder / "report.html").write_text(site_page({**found, "project": vars(invitation.config)}, place / "audit.jsonl"), encoding="utf-8")
    return found

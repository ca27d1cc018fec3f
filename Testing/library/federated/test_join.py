"""A site joins: only with consent to exactly this invitation, once at a time, and with what was declared."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from invited import invite, write_project
from site_data import table_site

from imagingai.errors import Cancelled, InputError
from imagingai.federated import node
from imagingai.federated.audit import Audit, read_audit, verify
from imagingai.federated.config import CheckConfig, JoinConfig
from imagingai.federated.invitation import read_invitation
from imagingai.federated.join_task import agreed, check_files, check_tensors, join_files, only_one, project_of, write_consent
from imagingai.federated.keys import fingerprint, read_public_key
from imagingai.job import Job, run


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The coordinator's folder, with the keys and invitations of two sites; read only."""
    folder = tmp_path_factory.mktemp("coordinator")
    file = write_project(folder)
    for site in ("hospital_a", "hospital_b"):
        invite(file, site)
    return folder


@pytest.fixture
def given(desk, tmp_path):
    """What the task gets: the invitation, and a table of this site."""
    return {"invitation": desk / "hospital_a.invitation", **table_site(tmp_path)}


@pytest.fixture
def config(desk):
    return JoinConfig(accept=read_invitation(desk / "hospital_a.invitation").fingerprint, key=str(desk / "hospital_a"), threads=1)


@pytest.fixture
def folder(tmp_path):
    """The job's folder for results."""
    (tmp_path / "job" / ".partial").mkdir(parents=True)
    return tmp_path / "job" / ".partial"


@pytest.fixture
def line(monkeypatch):
    """A federation that is over at once: the aggregator finishes with the first model. Returns what the line got."""
    calls = []

    def take_part(site, address, ca, key, job, diary, pause, patience):
        calls.append((address, ca, key, job, patience))
        weights = {name: value.clone() for name, value in site.learner.network.state_dict().items()}
        site.handle("finish", weights, {"kind": "finish", "server-round": 2})

    monkeypatch.setattr(node, "take_part", take_part)
    return calls


def refused(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


# --- consent


def test_without_consent_nobody_joins(given, config, desk):
    short = read_invitation(given["invitation"]).fingerprint[:8]
    way = f"Read it with `imagingai federated show`, and agree with: --accept {short}"
    nothing = dataclasses.replace(config, accept="")
    assert refused(agreed, given["invitation"], nothing) == f"Nobody has agreed to this invitation. {way}"
    for other in ("12345678", short[:7], read_invitation(desk / "hospital_b.invitation").fingerprint):
        said = refused(agreed, given["invitation"], dataclasses.replace(config, accept=other))
        assert said == f"--accept {other} is not the fingerprint of this invitation. {way}"
    assert agreed(given["invitation"], dataclasses.replace(config, accept=short))[0].site == "hospital_a"


def test_the_invitation_of_another_site_is_refused(desk, config):
    file = desk / "hospital_b.invitation"
    other = dataclasses.replace(config, accept=read_invitation(file).fingerprint)
    assert refused(agreed, file, other).startswith("The invitation of hospital_b is for another key than ")


def test_an_invitation_that_was_changed_is_refused(given, config, tmp_path):
    content = json.loads(given["invitation"].read_text(encoding="utf-8"))
    content["config"]["rounds"] = 1000
    forged = tmp_path / "forged.invitation"
    forged.write_text(json.dumps(content), encoding="utf-8")
    again = dataclasses.replace(config, accept=read_invitation(forged).fingerprint)
    assert "was changed after it had been signed" in refused(agreed, forged, again)
    assert "was changed after it had been signed" in refused(project_of, forged)


def test_a_key_that_is_not_there_has_a_way_out(given, config, tmp_path):
    said = refused(agreed, given["invitation"], dataclasses.replace(config, key=str(tmp_path / "none")))
    assert said == f"There is no key {tmp_path / 'none'}. Make one with: imagingai federated key."


def test_nothing_is_sent_and_nothing_is_made_without_consent(given, config, folder, line):
    refused(join_files, given, dataclasses.replace(config, accept=""), folder, lambda *_: None)
    assert line == []
    assert not (folder.parent / "federation").exists()


def test_the_consent_is_written_down_once(desk, tmp_path):
    invitation, audit = read_invitation(desk / "hospital_a.invitation"), Audit(tmp_path / "audit.jsonl")
    for _ in range(2):
        write_consent(tmp_path, invitation, audit)
    (row,) = read_audit(tmp_path / "audit.jsonl")
    assert (row["event"], row["invitation"], row["job"], row["site"]) == ("agreed", invitation.fingerprint, invitation.job, "hospital_a")
    assert json.loads((tmp_path / "consent.json").read_text(encoding="utf-8"))["invitation"] == invitation.fingerprint


def test_a_renewed_invitation_goes_on_in_the_same_folder_and_other_settings_do_not(desk, tmp_path):
    invitation, audit = read_invitation(desk / "hospital_a.invitation"), Audit(tmp_path / "audit.jsonl")
    write_consent(tmp_path, invitation, audit)
    write_consent(tmp_path, dataclasses.replace(invitation, expires="2090-01-01T00:00:00+00:00"), audit)
    assert [row["event"] for row in read_audit(tmp_path / "audit.jsonl")] == ["agreed", "agreed"]
    other = dataclasses.replace(invitation, config=dataclasses.replace(invitation.config, rounds=99))
    assert refused(write_consent, tmp_path, other, audit) == (
        f"{tmp_path} belongs to another federation, or to other settings of this one "
        f"(job {invitation.job[:8]}, now {other.job[:8]}). Choose another output folder."
    )


def test_an_invitation_of_another_coordinator_is_noticed(desk, tmp_path):
    invitation, audit = read_invitation(desk / "hospital_a.invitation"), Audit(tmp_path / "audit.jsonl")
    write_consent(tmp_path, invitation, audit)
    stranger = dataclasses.replace(invitation, signer=read_public_key(desk / "hospital_b.pub"))
    assert refused(write_consent, tmp_path, stranger, audit) == (
        f"This invitation is signed with another key ({fingerprint(stranger.signer)[:8]}) than the one before "
        f"({fingerprint(invitation.signer)[:8]}). Ask the coordinator by telephone; if it is right, choose another output folder."
    )


# --- what leaves


def test_tensors_that_were_not_declared_do_not_leave():
    check_tensors({"a": (2, 3)}, {"a": (2, 3)})
    for declared in ({"a": (3, 2)}, {"b": (2, 3)}, {}, {"a": (2, 3), "b": (1,)}):
        assert refused(check_tensors, {"a": (2, 3)}, declared) == (
            f"This version of ImagingAI would send 1 tensors that are not the {len(declared)} of the invitation. "
            "Use the version that the coordinator uses, or ask for a new invitation."
        )


# --- one at a time


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    script = (
        "import sys; from pathlib import Path; from imagingai.federated.join_task import only_one\n"
        "with only_one(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        said = refused(only_one(tmp_path).__enter__)
        assert said == f"This site is taking part already, in another window or process ({tmp_path}). Stop that one first."
        other.kill()  # the lock ends with its process, whatever happens to it
        other.wait()
    with only_one(tmp_path):
        assert refused(only_one(tmp_path).__enter__) == said
    with only_one(tmp_path):
        pass


# --- the task


def test_joining_as_a_job(given, config, line, tmp_path, desk):
    job = tmp_path / "output"
    Job("federated-join", {name: str(path) for name, path in given.items()}, dataclasses.asdict(config)).write(job)
    result = run(job)
    invitation = read_invitation(given["invitation"])
    assert line[0][0] == invitation.config.address
    assert line[0][3] == invitation.job
    assert result["outputs"] == ["audit.jsonl", "model.safetensors", "report.html"]
    assert (result["federation"], result["site"], result["models"]) == ("Two clinics", "hospital_a", {"model": "model.safetensors"})
    assert set(result["figures"]) == {"global"}
    assert verify(job / "audit.jsonl").broken is None
    assert [row["event"] for row in read_audit(job / "audit.jsonl")] == ["agreed", "data"]
    page = (job / "report.html").read_text(encoding="utf-8")
    assert "Two clinics" in page and "hospital_a" in page
    run(job)  # again, in the same folder
    assert [row["event"] for row in read_audit(job / "audit.jsonl")] == ["agreed", "data", "data"]


def test_cancel_in_the_job_folder_leaves(given, config, monkeypatch, tmp_path):
    job = tmp_path / "output"
    Job("federated-join", {name: str(path) for name, path in given.items()}, dataclasses.asdict(config)).write(job)

    def take_part(site, address, ca, key, job_, diary, pause, patience):
        (job / "cancel").touch()
        pause(0.5, "Round 1 of 2: waiting")

    monkeypatch.setattr(node, "take_part", take_part)
    with pytest.raises(Cancelled):
        run(job)
    assert (job / "federation" / "audit.jsonl").exists()  # what lasts stays there


def test_data_that_do_not_fit_are_said_before_anything_is_sent(given, config, folder, line, tmp_path):
    given["table"].write_text("case,label,volume\np1,well,3\n", encoding="utf-8")
    assert "has no columns 'thickness'" in refused(join_files, given, config, folder, lambda *_: None)
    assert line == []


def test_the_check_needs_no_consent(given, folder, desk):
    """From the project of the coordinator as well as from the invitation."""
    for file in (given["invitation"], desk / "project.toml"):
        found = check_files({**given, "invitation": file}, CheckConfig(threads=1), folder, lambda *_: None)
        assert found["verdict"] == "good"
        assert "<html" in (folder / "report.html").read_text(encoding="utf-8")

"""`imagingai federated ...` as coordinators and sites meet it: help, files, sentences, exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from argparse import Namespace

import pytest

from imagingai.__main__ import main
from imagingai.federated import keys
from imagingai.federated.actions import shares
from imagingai.federated.audit import Audit
from imagingai.federated.config import ProjectConfig
from imagingai.federated.invitation import read_invitation
from imagingai.federated.store import Store
from imagingai.job import Job

COMMANDS = (
    *("new", "key", "invite", "show", "install", "serve", "resume", "status"),
    *("revoke", "join", "check", "simulate", "demo", "audit"),
)
SETTINGS = {"coordinator": "Dr. Grün", "purpose": "Tell ill from healthy.", "address": "federation.clinic.org:8443"}


@pytest.fixture
def run(capsys):
    """Run `imagingai federated ...`; returns the exit code and what it said on standard output and error."""

    def call(*arguments):
        code = main(["federated", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err.strip().removeprefix("imagingai: ")

    return call


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with project.toml, filled in, and the key of a site in hospital_a and hospital_a.pub; the home folder is empty."""
    monkeypatch.setattr(keys, "DEFAULT_KEY", tmp_path / "home" / "site_key")
    monkeypatch.chdir(tmp_path)
    assert main(["federated", "new", "project.toml", "--task", "roi-classification"]) == 0
    text = (tmp_path / "project.toml").read_text(encoding="utf-8")
    for name, value in SETTINGS.items():
        text = text.replace(f'{name} = "{getattr(ProjectConfig(), name)}"', f'{name} = "{value}"')
    (tmp_path / "project.toml").write_text(text, encoding="utf-8")
    keys.make_site_key(tmp_path / "hospital_a")
    return tmp_path


@pytest.fixture
def invitation(place, run):
    assert run("invite", "project.toml", "--site", "hospital_a", "--key", "hospital_a.pub")[0] == 0
    return place / "hospital_a.invitation"


class Terminal:
    """Standard input with somebody who answers."""

    def __init__(self, answer):
        self.answer = answer

    def isatty(self):
        return True

    def readline(self):
        return self.answer


@pytest.fixture
def joined(monkeypatch):
    """The configs with which the task join was run, instead of running it."""
    configs = []

    def join_files(inputs, config, folder, report):
        configs.append(config)
        (folder / "report.html").write_text("done")
        return {}

    monkeypatch.setattr("imagingai.federated.join_task.join_files", join_files)
    return configs


# --- help


def test_help_needs_neither_torch_nor_flower():
    code = f"""
import sys
import imagingai.__main__
for command in ([], *([name] for name in {COMMANDS})):
    try:
        imagingai.__main__.main(["federated", *command, "--help"])
    except SystemExit as end:
        assert end.code == 0
assert not {{"torch", "numpy", "flwr", "cryptography", "sqlite3"}} & set(sys.modules)
"""
    environment = {**os.environ, "IMAGINGAI_FLOWER": "/nowhere"}
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment).stdout
    assert all(f"usage: imagingai federated {name}" in said for name in COMMANDS)


def test_the_help_leads_through_a_federation(capsys):
    with pytest.raises(SystemExit):
        main(["federated", "--help"])
    text = capsys.readouterr().out
    steps = ["The coordinator", "federated new", "federated invite", "federated serve", "A site", "federated key", "federated join"]
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)
    assert all(f"\n    {name} " in text for name in COMMANDS)


def test_the_tasks_of_a_federation_are_commands_of_federated_only(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "federated-join" not in text and "    federated " in text
    assert main(["list"]) == 0
    assert "federated join      Take part in a federation" in capsys.readouterr().out


# --- the way of a coordinator and a site


def test_a_site_makes_its_key_once(place, run):
    code, said, _ = run("key")
    public = keys.read_public_key(place / "home" / "site_key.pub")
    assert code == 0 and f"Fingerprint: {keys.spoken(keys.fingerprint(public))}" in said
    assert f"{place}/home/site_key.pub (send this file to the coordinator)" in said
    assert run("key")[1] == said
    assert run("key", "--output", place / "other")[1] != said


def test_an_invitation_is_for_the_key_that_was_sent_and_names_what_leaves(invitation, place):
    found = read_invitation(invitation)
    assert found.key == keys.fingerprint(keys.read_public_key(place / "hospital_a.pub"))
    assert found.tensors == shares(found.config) and len(found.tensors) == 2
    store = Store(place / "project-federation" / "federation.db")
    (site,) = store.sites()
    assert (site.name, site.fingerprint, site.key) == ("hospital_a", found.key, keys.read_public_key(place / "hospital_a.pub"))
    store.close()


def test_private_layers_are_not_declared():
    everything = shares(ProjectConfig(task="roi-classification", network="mlp", classes=("a", "b"), features=("x", "y")))
    shared = shares(ProjectConfig(task="roi-classification", network="mlp", classes=("a", "b"), features=("x", "y"), private="head"))
    assert set(shared) < set(everything) and all(shape == everything[name] for name, shape in shared.items())


def test_show_says_for_whom_an_invitation_is(invitation, place, run):
    code, said, _ = run("show", invitation)
    assert code == 0 and "Who asks                Dr. Grün, for the federation Our federation" in said
    assert said.endswith("The signature is right. Whether it is for this site needs --key.\n")
    assert run("show", invitation, "--key", place / "hospital_a")[1].endswith(
        f"The signature is right, and it is for {place}/hospital_a.\n"
    )
    run("key")
    code, _, error = run("show", invitation)
    assert code == 2 and error.startswith(f"The invitation of hospital_a is for another key than {place}/home/site_key.")


def test_show_works_before_flower_is_installed(invitation):
    environment = {**os.environ, "IMAGINGAI_FLOWER": "/nowhere"}
    command = [sys.executable, "-m", "imagingai", "federated", "show", str(invitation)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "Dr. Grün" in done.stdout
    assert "is not installed in /nowhere. Install it with: imagingai federated install" in done.stderr


def test_status_and_revoke(invitation, run):
    assert "hospital_a" in run("status", "project.toml")[1]
    assert (
        run("revoke", "project.toml", "--site", "hospital_a")[1] == "hospital_a is shut out: the aggregator refuses its key from now on.\n"
    )
    assert "revoked" in run("status", "project.toml")[1]
    code, _, error = run("revoke", "project.toml", "--site", "hospital_b")
    assert (code, error) == (2, "There is no site 'hospital_b'. The sites are: hospital_a.")
    code, _, error = run("invite", "project.toml", "--site", "hospital_a", "--key", "hospital_a.pub")
    sentence = "The key of hospital_a was revoked. Let the site move it away and make a new one with: imagingai federated key."
    assert (code, error) == (2, sentence)


def test_before_anybody_is_invited(place, run):
    nobody = f"No site has been invited to {place}/project.toml yet. Do that with: imagingai federated invite."
    assert run("revoke", "project.toml", "--site", "hospital_a") == (2, "", nobody)
    assert run("status", "project.toml")[0] == 2


def test_an_address_that_nobody_else_reaches_is_pointed_out(place, run):
    text = (place / "project.toml").read_text(encoding="utf-8")
    (place / "project.toml").write_text(text.replace("federation.clinic.org", "localhost"), encoding="utf-8")
    said = run("invite", "project.toml", "--site", "hospital_a", "--key", "hospital_a.pub", "--output", "here.invitation")[1]
    assert said.endswith("Only this computer reaches localhost:8443. For others, change address in project.toml and invite again.\n")
    assert (place / "here.invitation").exists() and not (place / "hospital_a.invitation").exists()


def test_an_invitation_that_fails_leaves_no_site_behind(place, run):
    text = (place / "project.toml").read_text(encoding="utf-8")
    (place / "project.toml").write_text(text.replace("Dr. Grün", ""), encoding="utf-8")
    code, _, error = run("invite", "project.toml", "--site", "hospital_a", "--key", "hospital_a.pub")
    assert (code, error) == (2, f"{place}/project.toml: coordinator is empty. Sites must see who asks for what; fill it in.")
    assert not (place / "hospital_a.invitation").exists() and run("status", "project.toml")[0] == 2


def test_serve_and_resume_run_the_aggregator(place, run, monkeypatch):
    calls = []
    monkeypatch.setattr("imagingai.federated.serve.serve", lambda project, **options: calls.append((project.file, options)))
    assert run("serve", "project.toml")[0] == run("resume", "project.toml", "--status-port", "9999")[0] == 0
    file = place / "project.toml"
    assert calls == [(file, {"resume": False, "port": 8080}), (file, {"resume": True, "port": 9999})]


def test_demo_gets_its_folder(place, run, monkeypatch):
    calls = []
    monkeypatch.setattr("imagingai.federated.demo.demo", calls.append)
    assert run("demo", "--output", "try")[0] == 0
    assert isinstance(calls[0], Namespace) and str(calls[0].output) == "try"


# --- consent


def test_join_asks_at_a_terminal(invitation, run, monkeypatch, joined):
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    code, said, _ = run("join", "--invitation", invitation, "--key", "hospital_a", "--output", "out")
    assert code == 0 and "Leaves in every round" in said and "Type yes to join" in said
    assert joined[0].accept == read_invitation(invitation).fingerprint
    assert Job.read(invitation.parent / "out").config["key"] == "hospital_a"


@pytest.mark.parametrize("answer", ["no\n", "y\n", "\n", ""])
def test_nothing_happens_without_a_yes(invitation, run, monkeypatch, joined, answer):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, said, _ = run("join", "--invitation", invitation, "--key", "hospital_a", "--output", "out")
    assert code == 130 and said.endswith("You have not agreed. Nothing was sent.\n")
    assert not joined and not (invitation.parent / "out").exists()


def test_without_a_terminal_join_says_how_to_agree(invitation, run, monkeypatch, joined):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    digits = read_invitation(invitation).fingerprint[:8]
    code, _, error = run("join", "--invitation", invitation, "--key", "hospital_a", "--output", "out")
    way = f"Read it with `imagingai federated show`, and agree with: --accept {digits}"
    assert (code, error) == (2, f"Nobody has agreed to this invitation. {way}") and not joined
    assert run("join", "--invitation", invitation, "--key", "hospital_a", "--output", "out", "--accept", digits)[0] == 0
    assert joined[0].accept == digits


def test_join_without_a_key(invitation, place, run, joined):
    code, _, error = run("join", "--invitation", invitation, "--output", "out", "--accept", "0" * 8)
    assert (code, error) == (2, f"There is no key {place}/home/site_key. Make one with: imagingai federated key.")


# --- the rest


def test_audit(place, run):
    log = Audit(place / "audit.jsonl")
    log.write("sent", bytes=20)
    log.write("sent", bytes=30)
    assert run("audit", log.path)[1].startswith("The chain of all 2 lines is unbroken.")
    log.path.write_text(log.path.read_text().replace("20", "10"))
    code, _, error = run("audit", log.path)
    assert (code, error) == (2, f"{log.path}: Line 2 does not follow from the one before it: the log was changed there or above.")


def test_install_leaves_what_is_there_alone(run):
    code, said, _ = run("install")
    assert code == 0 and said.startswith("Flower 1.41.0 is installed in ")


def test_a_project_for_an_unknown_task(place, run):
    code, _, error = run("new", "x.toml", "--task", "detection")
    assert (code, error.split(".")[0]) == (2, "--task has no choice 'detection'") and not (place / "x.toml").exists()

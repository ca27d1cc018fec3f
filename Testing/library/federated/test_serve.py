"""The aggregator in one command: when it refuses to start, what it watches, and a whole federation with real processes."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time

import pytest
import torch
from invited import inputs, invite, write_project
from safetensors.torch import load_file
from small_federation import FEATURES, settings

from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.federated import serve as module
from imagingai.federated.audit import read_audit, verify
from imagingai.federated.classifier import load_classifier
from imagingai.federated.config import JoinConfig
from imagingai.federated.flower import open_state
from imagingai.federated.join_task import join_files
from imagingai.federated.keys import make_site_key
from imagingai.federated.learner import build_network, save_network
from imagingai.federated.link import keep_members, listen_at
from imagingai.federated.project import read_project
from imagingai.federated.rounds_process import load_initial, members
from imagingai.federated.serve import check_start, serve, watch
from imagingai.federated.site import digest
from imagingai.federated.store import Store

IMAGES = {"task": "image-classification", "features": (), "dimension": 2, "patch": (24,), "normalization": "batch"}
SEGMENTATION = {"task": "segmentation", "features": (), "dimension": 2, "patch": (16,)}


@pytest.fixture
def file(tmp_path):
    """A project with one invited site."""
    file = write_project(tmp_path)
    invite(file)
    return file


def store_of(project) -> Store:
    return Store(project.folder / "federation.db")


def finish_rounds(store: Store, number: int) -> None:
    for k in range(1, number + 1):
        store.begin_round(k, ["hospital_a"])
        store.end_round(k, {}, "", "")


def refused(project, resume=False) -> str:
    store = store_of(project)
    rounds = len([row for row in store.rounds() if row.ended])
    with pytest.raises(InputError) as error:
        check_start(project, store, rounds, resume)
    return str(error.value)


# --- whether it starts


def test_without_a_site_there_is_nothing_to_serve(tmp_path):
    project = read_project(write_project(tmp_path))
    project.folder.mkdir()
    assert refused(project) == (
        f"No site is invited yet. Invite one with: imagingai federated invite {project.file} --site NAME --key NAME.pub"
    )


def test_revoked_sites_do_not_count(file):
    project = read_project(file)
    store_of(project).revoke("hospital_a")
    assert refused(project).startswith("No site is invited yet.")


def test_a_federation_that_has_begun_is_not_begun_again(file):
    project = read_project(file)
    finish_rounds(store_of(project), 1)
    assert refused(project) == f"{project.folder} has 1 rounds already. Go on with: imagingai federated resume {file}"
    check_start(project, store_of(project), 1, resume=True)


def test_a_finished_federation_says_how_to_go_on(file):
    project, store = read_project(file), store_of(read_project(file))
    finish_rounds(store, 2)
    store.set("state", "finished")
    assert refused(project, resume=True) == (
        f'All 2 rounds are done. To train on, begin another project that has: initial = "{project.folder / "model.safetensors"}"'
    )


def test_a_project_that_was_changed_is_not_the_one_that_the_sites_agreed_to(file):
    project, store = read_project(file), store_of(read_project(file))
    check_start(project, store, 0, resume=False)
    finish_rounds(store, 1)
    file.write_text(file.read_text(encoding="utf-8") + "epochs = 5.0\n", encoding="utf-8")
    changed = read_project(file)
    assert refused(changed, resume=True) == (
        f"{file} has changed since the first round (job {project.job[:8]}, now {changed.job[:8]}), and the sites agreed to "
        f"the old settings. Undo the change, or move {project.folder} away, and invite the sites again."
    )


def test_the_address_may_change_while_a_federation_runs(file):
    project, store = read_project(file), store_of(read_project(file))
    check_start(project, store, 0, resume=False)
    finish_rounds(store, 1)
    file.write_text(file.read_text(encoding="utf-8").replace(project.config.address, "federation.clinic.org:443"), encoding="utf-8")
    check_start(read_project(file), store, 1, resume=True)


def test_it_listens_to_others_only_if_others_know_its_address(tmp_path):
    for address, listen, place in (
        ("127.0.0.1:8443", "", ("127.0.0.1", 8443)),
        ("federation.clinic.org:8443", "", ("0.0.0.0", 8443)),
        ("federation.clinic.org:443", "127.0.0.1:9000", ("127.0.0.1", 9000)),
    ):
        assert listen_at(read_project(write_project(tmp_path, address=address, listen=listen))) == place


# --- what it watches


class Process:
    """In place of a child process."""

    def __init__(self, do):
        self.do = do

    def keep(self, store):
        self.do(store)


def test_the_end_is_the_end_and_everything_is_said(tmp_path):
    store, said = Store(tmp_path / "federation.db"), []

    def work(store):
        store.event("hospital_a is left out of train round 1: it was late.", "warning")
        store.set("message", "All 2 rounds are done.")
        store.set("state", "finished")

    store.event("Old news.")
    watch(store, [Process(work)], said.append)
    assert [line.partition("  ")[2] for line in said] == ["hospital_a is left out of train round 1: it was late.", "All 2 rounds are done."]


def test_a_failure_is_the_sentence_of_the_rounds(tmp_path):
    store = Store(tmp_path / "federation.db")
    store.set("state", "failed")
    store.set("message", "Round 1 was tried 3 times.")
    with pytest.raises(JobFailed, match=r"^Round 1 was tried 3 times\.$"):
        watch(store, [], lambda text: None)


# --- sites are let in and shut out


def test_invited_keys_are_let_in_and_revoked_ones_are_shut_out(tmp_path, monkeypatch):
    monkeypatch.setattr("threading.Thread.start", lambda self: None)  # once is enough here; the thread does it every second
    state, store = open_state(tmp_path / "link.db").state(), Store(tmp_path / "federation.db")
    keys = {name: make_site_key(tmp_path / name) for name in ("north", "south")}
    for name, key in keys.items():
        store.add_site(name, key, "", time.time() + 3600)
    keep_members(state, store)
    nodes = {row.name: row.node_id for row in store.sites()}
    assert members(store) == {nodes["north"]: "north", nodes["south"]: "south"}
    assert [info.status for info in state.get_node_info(node_ids=list(nodes.values()))] == ["registered"] * 2
    store.revoke("south")
    keep_members(state, store)
    assert members(store) == {nodes["north"]: "north"}
    assert [info.status for info in state.get_node_info(node_ids=[nodes["south"]])] == ["unregistered"]
    (tmp_path / "new").mkdir()
    renewed = make_site_key(tmp_path / "new" / "south")  # the site comes back with another key
    store.add_site("south", renewed, "", time.time() + 3600)
    keep_members(state, store)
    assert members(store)[store.sites()[1].node_id] == "south"
    assert store.sites()[1].node_id != nodes["south"]


def test_a_key_that_was_replaced_while_nobody_was_watching_is_out(tmp_path, monkeypatch):
    """Revoked, and the site invited with another key, before the link is started again: the store knows the new key only."""
    monkeypatch.setattr("threading.Thread.start", lambda self: None)
    state, store = open_state(tmp_path / "link.db").state(), Store(tmp_path / "federation.db")
    store.add_site("north", make_site_key(tmp_path / "old"), "", time.time() + 3600)
    keep_members(state, store)
    (old,) = members(store)
    store.revoke("north")
    store.add_site("north", make_site_key(tmp_path / "new"), "", time.time() + 3600)
    keep_members(state, store)
    (new,) = members(store)
    assert [state.get_node_info(node_ids=[node])[0].status for node in (old, new)] == ["unregistered", "registered"]


@pytest.mark.parametrize("changes", [{}, {"network": "mlp"}, IMAGES, SEGMENTATION], ids=["linear", "mlp", "image", "segmentation"])
def test_training_goes_on_from_the_result_of_another_federation(changes, tmp_path):
    """What a coordinator has from a federation is what `initial` reads; it is kept in half precision."""
    config, file = settings(**changes), tmp_path / "model.safetensors"
    network, other = build_network(config), build_network(dataclasses.replace(config, seed=5))
    save_network(config, other, file, {})
    load_initial(network, file)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-3, atol=1e-6)


# --- all of it


def run(project, resume=False):
    """The aggregator in a thread, with its processes; returns it, what it says and how it ended."""
    said, end = [], []

    def work():
        try:
            serve(project, resume=resume, port=0, say=said.append)
        except (InputError, JobFailed) as error:
            end.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, said, end


def test_an_aggregator_and_a_site_until_the_model_is_there(file, tmp_path):
    """HTTPS, keys, consent, two processes of the aggregator; the site is in this one. Its audit log has all that it sent."""
    project = read_project(file)
    invitation = invite(file)
    thread, said, end = run(project)
    config = JoinConfig(accept=invitation.fingerprint, key=str(tmp_path / "hospital_a"), patience=60.0, device="cpu", threads=1)
    (tmp_path / "job" / ".partial").mkdir(parents=True)
    result = join_files(inputs(tmp_path), config, tmp_path / "job" / ".partial", lambda fraction, text: None)
    thread.join(60)
    assert not thread.is_alive() and end == []
    store = store_of(project)
    assert store.get("state") == "finished"
    assert [(row.round, row.site, row.state) for row in store.updates()] == [(1, "hospital_a", "counted"), (2, "hospital_a", "counted")]
    ours, theirs = (load_file(place / "model.safetensors") for place in (project.folder, tmp_path / "job" / ".partial"))
    assert digest(ours) == digest(theirs)
    assert load_classifier(project.folder / "model.safetensors").description.project.features == FEATURES
    assert "# " in (project.folder / "model_card.md").read_text(encoding="utf-8")
    log = tmp_path / "job" / "federation" / "audit.jsonl"
    assert verify(log).broken is None
    sent = [(row["kind"], row["round"]) for row in read_audit(log) if row["event"] == "sent"]
    assert sent == [("train", 1), ("train", 2), ("evaluate", 2), ("finish", store.get("chosen"))]
    assert [row["round"] for row in result["history"]] == [1, 2, 3]
    assert said[-1].startswith(f"The model is {project.folder / 'model.safetensors'}")
    with sqlite3.connect(project.folder / "link.db") as database:  # nothing of the weights stays on the way
        assert database.execute("SELECT count(*) FROM objects").fetchone() == (0,)


def test_ctrl_c_stops_it_and_says_so(file, monkeypatch):
    stopped = []

    class Kept:
        def __init__(self, command, folder):
            self.command = command

        def keep(self, store):
            raise Cancelled("Stopped.")

        def stop(self):
            stopped.append(self.command[0].rpartition(".")[2])

    monkeypatch.setattr(module, "Kept", Kept)
    project = read_project(file)
    with pytest.raises(Cancelled):
        serve(project, port=0, say=lambda text: None)
    assert stopped == ["rounds_process", "link"]
    assert store_of(project).get("state") == "stopped"

"""The state of a federation: right, safe against kills at any point, used by several processes, and clear when the disk is full."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from disk import full_disk

from imagingai.errors import InputError, JobFailed
from imagingai.federated.store import Store

WRITER = """
import sys
from imagingai.federated.store import Store
store = Store(sys.argv[1])
for number in range(int(sys.argv[3])):
    store.event(f"{sys.argv[2]} {number}")
    print(number, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "federation.db")
    yield store
    store.close()


def writer(store: Store, name: str, count: int) -> subprocess.Popen:
    """A process that writes `count` events, and tells after each one."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(store.path), name, str(count)], stdout=subprocess.PIPE, text=True)


# --- sites


def test_a_site_is_invited_seen_and_revoked(store):
    store.add_site("hospital_b", "key b", "SHA256:b", expires=2e9)
    store.add_site("hospital-A", "key a", "SHA256:a", expires=2e9)
    store.set_node("hospital_b", 2**64 - 1)  # Flower's numbers have 64 bits and no sign
    store.seen("hospital_b", "training round 3")
    store.revoke("hospital-A")
    a, b = store.sites()
    assert (a.name, a.key, a.fingerprint, a.state, a.node_id, a.seen) == ("hospital-A", "key a", "SHA256:a", "revoked", None, None)
    assert (b.name, b.state, b.node_id, b.activity, b.expires) == ("hospital_b", "invited", 2**64 - 1, "training round 3", 2e9)
    assert time.time() - 60 < b.invited <= b.seen <= time.time()


def test_an_invitation_can_be_renewed_and_a_revoked_site_comes_back_with_a_new_key(store):
    store.add_site("a", "key 1", "f1", expires=1e9)
    store.set_node("a", 7)
    store.add_site("a", "key 1", "f1", expires=2e9)
    assert [(site.expires, site.node_id) for site in store.sites()] == [(2e9, 7)]
    store.revoke("a")
    store.add_site("a", "key 2", "f2", expires=2e9)
    assert [(site.key, site.state, site.node_id) for site in store.sites()] == [("key 2", "invited", None)]


@pytest.mark.parametrize("name", ["", "../b", "a b", "-a", "a\n", "<script>", "ü", "a" * 65])
def test_a_name_that_cannot_be_a_file_is_refused(store, name):
    with pytest.raises(InputError, match=r"cannot be the name of a site\. Use letters, digits, - and _"):
        store.add_site(name, "key", "f", expires=2e9)
    assert store.sites() == []


def test_names_and_keys_belong_to_one_site(store):
    store.add_site("a", "key a", "f", expires=2e9)
    with pytest.raises(InputError, match=r"There is a site a with another key. Revoke it first"):
        store.add_site("A", "key b", "f", expires=2e9)
    with pytest.raises(InputError, match=r"The key of b is that of a. Every site needs one of its own."):
        store.add_site("b", "key a", "f", expires=2e9)
    store.revoke("a")
    for name in "ab":
        with pytest.raises(InputError, match=r"The key of a was revoked. Let the site move it away and make a new one with: imagingai fed"):
            store.add_site(name, "key a", "f", expires=2e9)
    with pytest.raises(InputError, match=r"There is no site 'c'. The sites are: a."):
        store.revoke("c")


# --- rounds


def test_rounds_and_their_updates(store):
    store.begin_round(1, ["a", "b"], bytes=500)
    store.add_update(1, "b", "late", "no update within 5 s")
    store.add_update(1, "a", "counted", bytes=400, seconds=2.5, metrics={"loss": 0.5, "label_counts": [1, 2]}, weight=1.0)
    store.end_round(1, {"score_before": 0.25}, "checkpoints/round-1.safetensors", "ab12")
    store.begin_round(2, ["a"])
    first, second = store.rounds()
    assert (first.sites, first.bytes, first.metrics, first.sha256) == (["a", "b"], 500, {"score_before": 0.25}, "ab12")
    assert first.checkpoint == "checkpoints/round-1.safetensors" and first.started <= first.ended
    assert second.ended is None and second.metrics == {}
    a, b = store.updates(1)
    assert (a.site, a.state, a.bytes, a.seconds, a.weight) == ("a", "counted", 400, 2.5, 1.0)
    assert a.metrics == {"loss": 0.5, "label_counts": [1, 2]}
    assert (b.site, b.state, b.reason, b.weight, b.metrics) == ("b", "late", "no update within 5 s", None, {})
    assert store.updates(2) == [] and len(store.updates()) == 2


def test_a_round_that_begins_anew_forgets_its_first_attempt(store):
    store.begin_round(1, ["a", "b"])
    store.add_update(1, "a", "counted", weight=1.0)
    store.begin_round(1, ["b"])
    assert store.updates() == [] and [row.sites for row in store.rounds()] == [["b"]]


def test_going_back_to_a_checkpoint(store):
    for number in (1, 2, 3):
        store.begin_round(number, ["a"])
        store.add_update(number, "a", "counted")
    store.forget_rounds_after(1)
    assert [row.number for row in store.rounds()] == [1] and [row.round for row in store.updates()] == [1]


def test_an_update_of_an_unknown_kind_is_a_bug(store):
    with pytest.raises(sqlite3.IntegrityError):
        store.add_update(1, "a", "perhaps")
    store.add_update(1, "a", "rejected", "NaN")  # the store is as usable as before


# --- events and facts


def test_events_are_kept_in_order_and_the_last_ones_are_read(store):
    for number in range(5):
        store.event(f"event {number}", "warning" if number == 4 else "info")
    assert [(row.text, row.level) for row in store.events(last=2)] == [("event 3", "info"), ("event 4", "warning")]


def test_facts_are_anything_that_json_holds(store):
    store.set("rounds", 10)
    store.set("names", {"a": [1, None]})
    store.set("rounds", 12)
    assert store.get("rounds") == 12 and store.get("message", "none") == "none"
    assert store.facts() == {"rounds": 12, "names": {"a": [1, None]}}


# --- several processes, kills, full disks


def test_processes_and_threads_write_at_once_and_nothing_is_lost(tmp_path):
    path = tmp_path / "federation.db"
    children = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "40"], stdout=subprocess.DEVNULL) for name in "abcd"]
    store = Store(path)  # all make the file at the same time
    threads = [threading.Thread(target=lambda: [store.event("thread") for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait(60) for child in children] == [0] * 4
    texts = [row.text for row in store.events(last=1000)]
    assert len(texts) == 4 * 40 + 3 * 20
    for name in "abcd":
        assert [text for text in texts if text[0] == name] == [f"{name} {number}" for number in range(40)]


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is of Linux and macOS")
def test_what_was_written_before_a_kill_is_there(store):
    for attempt in range(3):
        child = writer(store, f"life {attempt}", 100_000)
        for _ in range(10 + 7 * attempt):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()  # told between our last look and the kill
        child.wait()
        told = int(rest[-1]) if rest and rest[-1].isdigit() else last
        found = [row.text for row in store.events(last=10**6) if row.text.startswith(f"life {attempt}")]
        assert found == [f"life {attempt} {number}" for number in range(len(found))]
        assert told < len(found) <= told + 2
    check = sqlite3.connect(store.path)
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_transaction_of_a_killed_process_never_happened(store):
    store.begin_round(1, ["a"])
    half = """
import os, signal, sys, sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM rounds")
os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", half, str(store.path)], check=False).returncode != 0
    assert [row.number for row in store.rounds()] == [1]
    store.begin_round(2, ["a"])
    assert len(store.rounds()) == 2


def test_a_full_disk_is_one_sentence_and_loses_nothing(store):
    store.event("before")
    with full_disk(), pytest.raises(JobFailed, match=r"federation\.db, cannot be used: .* MB are left.*imagingai federated resume\."):
        store.event("x" * 100_000)
    store.event("after")
    assert [row.text for row in store.events()] == ["before", "after"]


def test_a_file_that_is_held_is_one_sentence(store, monkeypatch):
    monkeypatch.setattr("imagingai.federated.store.PATIENCE", 0.1)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JobFailed, match=r"database is locked .* Another process holds it; stop that one, or wait\."):
        Store(store.path)
    other.execute("ROLLBACK")
    store.event("later")


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "notes.db").write_text("no database at all, but long enough to be looked at" * 40)
    with pytest.raises(InputError, match=r"notes\.db, cannot be used: file is not a database .* Take it from your backup\."):
        Store(tmp_path / "notes.db")
    with pytest.raises(InputError, match=r"unable to open database file .* Use a folder that exists"):
        Store(tmp_path / "missing" / "federation.db")


def test_a_file_of_a_newer_version_is_refused(store):
    sqlite3.connect(store.path).execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match=r"federation.db was written by a newer ImagingAI\. Update this one\."):
        Store(store.path)

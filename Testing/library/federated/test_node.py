"""A site on the line: what it does with instructions, what it writes down, how it pauses and leaves, and what it says about a bad line."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from flwr.app import Message
from link_server import JOB, free_port
from small_federation import make_site, settings, shared

from imagingai.errors import Cancelled, InputError, JobFailed
from imagingai.federated import node as module
from imagingai.federated.audit import Audit, read_audit, verify
from imagingai.federated.certificates import make_ca, make_server_certificate
from imagingai.federated.grid import outside_of_flower
from imagingai.federated.messages import TYPES, question
from imagingai.federated.node import Diary, Pause, Waiting, check_line, take_part


class Line:
    """In place of a connection: the instructions that come, and the replies that leave. None: nothing to do this time."""

    node_id = 7

    def __init__(self, *script) -> None:
        self.script, self.sent, self.closed, self.asked = list(script), [], False, None

    def __call__(self, address, ca, key, wait, node_id):
        self.asked = (address, node_id)
        return self

    def receive(self):
        step = self.script.pop(0)
        return step() if callable(step) else step

    def send(self, reply, seconds):
        self.sent.append(reply)

    def close(self):
        self.closed = True


def ask(kind: str, number: int, job: str = JOB, **more):
    """An instruction, and the job that it belongs to."""
    outside_of_flower()
    return Message(question(kind, number, shared(settings()), more, "float32"), 7, TYPES[kind]), job


class Place:
    """The job folder of a site."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.federation, self.told = folder, folder / "federation", []
        self.federation.mkdir()
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(module, "POLL", 0.0)
        self.on_report = lambda text: None

    def report(self, fraction, text):
        assert 0 <= fraction <= 1
        self.told.append(text)
        if (self.folder / "cancel").exists():
            raise Cancelled("Stopped on request; nothing was written.")
        self.on_report(text)

    def take_part(self, line, **changes):
        self.monkeypatch.setattr(module, "Connection", line)
        self.monkeypatch.setattr(module, "check_line", lambda *_: None)
        self.diary = Diary(self.federation, 2, Audit(self.federation / "audit.jsonl"))
        pause = Pause(self.folder, self.diary, self.report)
        site = make_site(settings(**changes), self.folder)
        site.report, site.folder = pause, self.federation
        take_part(site, "federation.clinic.org:8443", "", None, JOB, self.diary, pause, 10.0)

    def state(self):
        return json.loads((self.federation / "state.json").read_text(encoding="utf-8"))

    def audit(self):
        return read_audit(self.federation / "audit.jsonl")

    def events(self):
        return [row["event"] for row in self.audit()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


# --- instructions


def test_a_whole_federation(place):
    line = Line(None, ask("train", 1), None, ask("train", 2), ask("evaluate", 2), ask("finish", 2))
    place.take_part(line)
    assert line.asked == ("federation.clinic.org:8443", 0)
    assert [reply.has_error() for reply in line.sent] == [False] * 4
    assert line.closed
    assert place.state() == {"state": "done", "message": "The federation is over; its model is here.", "round": 2, "rounds": 2}
    history = json.loads((place.federation / "history.json").read_text(encoding="utf-8"))
    assert [(row["round"], row["bytes"]) for row in history] == [(1, 24), (2, 24), (3, 0)]  # the last row: the model of round 2
    assert all({"loss_before", "score_before", "seconds"} <= set(row) for row in history)
    assert (place.federation / "model.safetensors").exists()


def test_the_audit_log_has_every_exchange_with_its_bytes_and_its_hash(place):
    questions = [ask("train", 1), ask("finish", 1)]
    line = Line(*questions)
    place.take_part(line)
    assert place.events() == ["connected", *["received", "sent"] * 2]
    received, sent = [[row for row in place.audit() if row["event"] == event] for event in ("received", "sent")]
    assert [(row["kind"], row["round"], row["bytes"]) for row in received] == [("train", 1, 24), ("finish", 1, 24)]
    assert [(row["kind"], row["round"], row["bytes"]) for row in sent] == [("train", 1, 24), ("finish", 1, 0)]
    assert [row["sha256"] for row in received] == [message.content.object_id for message, _ in questions]
    assert [row["sha256"] for row in sent] == [reply.content.object_id for reply in line.sent]
    assert sent[0]["figures"] == dict(line.sent[0].content["metrics"])
    assert verify(place.federation / "audit.jsonl").broken is None


def test_what_leaves_is_written_down_before_it_leaves(place):
    class Cut(Line):
        def send(self, reply, seconds):
            assert place.events()[-1] == "sent"
            raise OSError("The cable was cut.")

    with pytest.raises(OSError, match="cable"):
        place.take_part(Cut(ask("train", 1)))


def test_another_job_is_refused(place):
    line = Line(ask("train", 1, job="0" * 64), ask("finish", 1))
    place.take_part(line)
    reason = "The aggregator runs the job 00000000, and this site has agreed to ffffffff; it was refused."
    assert line.sent[0].error.reason == reason
    refused = next(row for row in place.audit() if row["event"] == "refused")
    assert (refused["kind"], refused["round"], refused["reason"]) == ("train", 1, reason)
    assert not any(text.startswith("Round 1: step") for text in place.told)


def test_what_the_invitation_does_not_allow_is_refused_and_the_site_goes_on(place):
    line = Line(ask("train", 1, learning_rate=5.0), ask("train", 1), ask("finish", 1))
    place.take_part(line)
    assert [reply.has_error() for reply in line.sent] == [True, False, False]
    assert "learning_rate, which the invitation does not name" in line.sent[0].error.reason


def test_an_instruction_without_sense_is_refused(place):
    message, job = ask("train", 1)
    message.content["config"]["server-round"] = "first"
    line = Line((message, job), ask("finish", 1))
    place.take_part(line)
    assert line.sent[0].error.reason == "The aggregator does not say which round this is; it was refused."


def test_a_repeated_round_stands_once_in_the_history(place):
    place.take_part(Line(ask("train", 1), ask("train", 1), ask("finish", 1)))
    assert [row["round"] for row in place.diary.history] == [1]
    assert Diary(place.federation, 2, place.diary.audit).round == 1  # a new process goes on with it


def test_a_new_process_says_which_node_it_was(place):
    place.take_part(Line(ask("finish", 2)))
    line = Line(ask("finish", 2))
    place.take_part(line)
    assert line.asked == ("federation.clinic.org:8443", 7)


# --- pause and leave


def remove_later(file, seconds=0.4):
    timer = threading.Timer(seconds, file.unlink)
    timer.start()


@pytest.mark.parametrize("moment", ["Round 0 of 2: waiting", "Round 1: step 1 of 2", "Sending"])
def test_while_it_is_paused_nothing_is_computed_or_sent(moment, place):
    paused = place.folder / "pause"
    line = Line(ask("train", 1), ask("finish", 1))
    seen = []

    def on_report(text):
        if text.startswith(moment) and not seen:
            paused.touch()
            remove_later(paused)
            seen.append("paused")
        elif text == "Paused":
            seen.append((place.state()["state"], len(line.sent)))

    place.on_report = on_report
    place.take_part(line)
    assert seen[:2] == ["paused", ("paused", 0)] and len(set(seen)) == 2
    assert len(line.sent) == 2
    events = place.events()
    assert events[events.index("paused") + 1] == "went on"
    assert events.index("went on") < events.index("sent")
    assert place.state()["state"] == "done"


def test_leaving_is_written_down_and_said(place):
    line = Line(ask("train", 1), lambda: (place.folder / "cancel").touch())
    with pytest.raises(Cancelled):
        place.take_part(line)
    assert place.events()[-1] == "left"
    assert place.state()["message"] == "You have left; join again with the same folder."
    assert place.state()["state"] == "left"
    assert line.closed


def test_one_can_leave_while_it_is_paused_or_trains(place):
    for moment in ("Paused", "Round 1: step 1 of 2"):
        (place.folder / "cancel").unlink(missing_ok=True)
        (place.folder / "pause").touch() if moment == "Paused" else (place.folder / "pause").unlink()
        place.on_report = lambda text, moment=moment: (place.folder / "cancel").touch() if text.startswith(moment) else None
        line = Line(ask("train", 1))
        with pytest.raises(Cancelled):
            place.take_part(line)
        assert line.sent == [] and line.closed


# --- a line that is down


@pytest.fixture
def waiting(place):
    """Somebody who gives up at once."""
    diary = Diary(place.federation, 2, Audit(place.federation / "audit.jsonl"))
    return Waiting(diary, Pause(place.folder, diary, place.report), 0.0)


def refused(address, authority, waiting, error=InputError) -> str:
    with pytest.raises(error) as found:
        check_line(address, authority, waiting)
    return str(found.value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with the federation's authority and a certificate of its server."""
    folder = tmp_path_factory.mktemp("authority")
    make_ca(folder, "A federation")
    make_server_certificate(folder, ["127.0.0.1"])
    return folder


def pem(folder) -> str:
    return (folder / "ca.pem").read_text(encoding="ascii")


@contextmanager
def server(folder, host="127.0.0.1", ahead=0.0):
    """An HTTPS server whose clock may be wrong; yields its address."""

    class Health(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp=None):
            return formatdate(time.time() + ahead, usegmt=True)

        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    httpd = HTTPServer((host, 0), Health)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    httpd.handle_error = lambda *_: None  # of those who do not trust us
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{host}:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def test_a_good_line(authority, waiting):
    waiting.since = 1.0
    with server(authority) as address:
        check_line(address, pem(authority), waiting)
    assert waiting.since is None


def test_an_aggregator_that_is_away_for_too_long_is_a_sentence(authority, waiting):
    address = f"127.0.0.1:{free_port()}"
    waiting.patience = 0.5
    said = refused(address, pem(authority), waiting, JobFailed)
    assert said.startswith(f"The aggregator {address} does not answer (")
    assert said.endswith(
        " s. Check the network (one outgoing HTTPS connection; a proxy is taken from HTTPS_PROXY), "
        "ask the coordinator whether the aggregator runs, and join again with the same folder."
    )
    state = json.loads((waiting.diary.folder / "state.json").read_text(encoding="utf-8"))
    assert state["state"] == "connecting" and state["message"].endswith("; trying again.")


def test_a_name_that_is_not_known_is_a_sentence(authority, waiting):
    assert "federation.invalid:8443 does not answer" in refused("federation.invalid:8443", pem(authority), waiting, JobFailed)


def test_one_can_leave_while_the_aggregator_is_away(place, waiting, authority):
    (place.folder / "cancel").touch()
    waiting.patience = 60.0
    with pytest.raises(Cancelled):
        check_line(f"127.0.0.1:{free_port()}", pem(authority), waiting)


def test_a_certificate_of_another_authority(authority, waiting, tmp_path):
    (tmp_path / "other").mkdir()
    make_ca(tmp_path / "other", "A firewall")
    with server(authority) as address:
        assert refused(address, pem(tmp_path / "other"), waiting) == (
            f"The certificate at {address} was not issued by the authority in the invitation: this may be another server, or a firewall "
            "that opens encrypted connections. Nothing was sent; ask the coordinator or your IT department."
        )


def test_a_certificate_that_has_expired(tmp_path, waiting):
    make_ca(tmp_path, "A federation")
    make_server_certificate(tmp_path, ["127.0.0.1"], days=-0.5)
    with server(tmp_path) as address:
        assert refused(address, pem(tmp_path), waiting) == (
            f"The certificate of the aggregator {address} has expired. The coordinator renews it with: imagingai federated resume."
        )


def test_a_certificate_of_another_name(authority, waiting):
    with server(authority, host="127.0.0.2") as address:
        said = refused(address, pem(authority), waiting)
    assert said.startswith(f"The certificate at {address} is for another name (")
    assert said.endswith("Ask the coordinator for an invitation with the right address.")


@pytest.mark.parametrize(("minutes", "words"), [(-10, "10 minutes ahead of"), (10, "10 minutes behind")])
def test_a_clock_that_is_wrong(minutes, words, authority, waiting):
    with server(authority, ahead=60.0 * minutes) as address:
        assert refused(address, pem(authority), waiting) == (
            f"The clock of this computer is {words} the aggregator's, which refuses signatures that are off by more than 5. Set the clock."
        )
    with server(authority, ahead=6.0 * minutes) as address:
        check_line(address, pem(authority), waiting)


def test_a_proxy_that_does_not_let_us_through(authority, waiting, monkeypatch):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

        def forbid():
            line, _ = proxy.accept()
            assert line.recv(1000).startswith(b"CONNECT federation.clinic.org:8443")
            line.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            line.close()

        thread = threading.Thread(target=forbid)
        thread.start()
        said = refused("federation.clinic.org:8443", pem(authority), waiting)
        thread.join()
    assert said == (
        f"The proxy {os.environ['HTTPS_PROXY']} does not let us through to federation.clinic.org:8443: 403 Forbidden. "
        "Check HTTPS_PROXY, or ask your IT department."
    )

"""Faults that are meant: sites that lie, keys and certificates that are not right, messages that come twice; and what leaves a site."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from harness import HONEST, PATIENCE, ROGUE, Federation, federation, until
from relay import Line, requests
from report_faults import Found, done, fault, refused, short

from imagingai.errors import InputError
from imagingai.federated import certificates
from imagingai.federated.flower import Connection
from imagingai.federated.keys import load_site_key
from imagingai.federated.messages import read_answer

REQUESTS = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    "push-messages": PushMessagesRequest,
    "push-object": PushObjectRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "get-run": GetRunRequest,
}
FIGURES = re.compile("num-examples|held_out|(loss|score|accuracy|sensitivity|specificity|auc)(_before)?|seconds|epochs|epsilon")


# --- sites that lie


@fault("three more sites send NaN, one number too few, an array too many")
def spoiled(folder: Path) -> Found:
    lies = {"r1": "nan", "r2": "short", "r3": "extra"}
    with federation(folder, ("a", "b", *lies), min_sites=2, grace=2) as fed:
        fed.serve()
        wait_for_link(fed)
        os.kill(fed.child("rounds_process"), signal.SIGSTOP)  # until all are there, so that all are asked in round 1
        for site in fed.sites:
            fed.join(site, program=(ROGUE, lies[site]) if site in lies else HONEST)
        for site in fed.sites:
            fed.until_state(site, "waiting", 0)
        os.kill(fed.child("rounds_process"), signal.SIGCONT)
        fed.end()
        reasons = {row.site: row.reason for row in fed.ledger().updates() if row.state == "rejected"}
        assert set(reasons) == set(lies), reasons
        return done(fed, None, "unbroken", "; ".join(reasons.values()))


def _times(strategy: str):
    def run(folder: Path) -> Found:
        with federation(folder, ("a", "b", "c", "d", "r"), rounds=2, strategy=strategy) as fed:
            fed.serve()
            for site in fed.sites:
                fed.join(site, program=(ROGUE, "times") if site == "r" else HONEST)
            done(fed)
            weights = [f"{row.weight:.3g}" for row in fed.ledger().updates() if row.site == "r"]
            loss = fed.ledger().get("final")["mean"]["loss_before"]
            return Found(f"completed; weight of that site {' and '.join(weights)}, mean loss of the model {loss:.3g}")

    return run


fault("one of five sites sends its weights x -20, strategy fedavg", name="times_fedavg")(_times("fedavg"))
fault("one of five sites sends its weights x -20, strategy outlier", name="times_outlier")(_times("outlier"))


# --- keys, certificates, invitations


@fault("a key that nobody has registered")
def stranger(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.serve()
        fed.invite("c")
        fed.ledger().revoke("c")
        fed.data["c"] = fed.data["a"]
        wait_for_link(fed)
        fed.join("c")
        found = refused(fed, "c")
        assert not let_in(fed, ec.generate_private_key(ec.SECP384R1())), "a key without an invitation was let in"
        return found


@fault("a site is revoked while it trains; another is enough")
def revoked(folder: Path) -> Found:
    with federation(folder, min_sites=1, grace=2) as fed:
        fed.begin().until_state("b", "training", 2)
        fed.ledger().revoke("b")
        found = refused(fed, "b")
        fed.sites = ("a",)
        del fed.running["b"]
        done(fed)
        return found


@fault("a server with a certificate of another authority in between")
def wrong_authority(folder: Path) -> Found:
    other = folder / "other"
    certificates.ensure_certificates(other, "Somebody else", ["127.0.0.1"])
    return _with_certificate(folder / "fed", other)


@fault("a server whose certificate has expired")
def expired_certificate(folder: Path) -> Found:
    other = folder / "other"
    with federation(folder / "fed") as fed:
        shutil.copytree(fed.project.folder, other)
    with mock.patch.object(certificates, "SKEW", timedelta(days=10)):
        certificates.make_server_certificate(other, ["127.0.0.1"], days=-1)
    shutil.rmtree(folder / "fed")
    return _with_certificate(folder / "fed", other, same_authority=True)


def _with_certificate(folder: Path, other: Path, same_authority: bool = False) -> Found:
    with federation(folder) as fed:
        if same_authority:
            for name in ("ca.pem", "ca.key"):
                shutil.copyfile(other / name, fed.project.folder / name)
        line = Line(fed.port, certificate=other / "server.pem", authority=fed.project.folder / "ca.pem")
        fed.join("a", invitation=fed.invite("a", line.port))
        found = refused(fed, "a")
        assert not line.opened, "something was sent"
        return found


@fault("an invitation that has expired")
def expired_invitation(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.invite("a", days=1e-6)
        time.sleep(1.5)
        fed.join("a")
        return refused(fed, "a")


@fault("an invitation in which somebody has changed the epochs")
def tampered(folder: Path) -> Found:
    with federation(folder) as fed:
        file = fed.folder / "a.invitation"
        content = json.loads(file.read_text())
        content["config"]["epochs"] = 24.0
        file.write_text(json.dumps(content))
        fed.join("a")
        return refused(fed, "a")


@fault("the coordinator changes the epochs after the sites have agreed")
def other_job(folder: Path) -> Found:
    with federation(folder) as fed:
        fed.write_project(fed.port, epochs=24)
        fed.begin()
        until(lambda: fed.running["aggregator"].poll() is not None, PATIENCE, "the aggregator stops")
        assert not fed.audit("a", "sent"), "something was sent"
        reason = fed.audit("a", "refused")[0]["reason"]
        return Found(f"the site refused: {reason} The aggregator stopped: {short(fed.last('aggregator').removeprefix('imagingai: '), fed)}")


# --- what is on the line


@fault("all replies of round 1 are sent again in round 2, word by word; a signature that is six minutes old is used")
def replayed(folder: Path) -> Found:
    with federation(folder) as fed:
        line = opened_line(fed, "a")
        fed.begin().until_state("a", "training", 2)
        said = [one for opened in line.opened for one in requests(opened.up) if b"/push-" in one[0]]
        codes = sorted({replay(fed, *one) for one in said})
        with mock.patch("flwr.supernode.node_auth_http_interceptor.now", lambda: datetime.now(timezone.utc) - timedelta(minutes=6)):
            old = let_in(fed, load_site_key(fed.folder / "a_key"))
        found = done(fed, None, "unbroken")
    assert said and not old and len(fed.ledger().updates()) == 6
    text = f"{len(said)} requests again, answered with HTTP {' and '.join(map(str, codes))}, changed nothing; the old signature was refused"
    return Found(f"{found.text}; {text}", None, found.equal)


@fault("nothing; all that leaves a site is read on the line, and its system calls are watched")
def leaves(folder: Path) -> Found:
    calls = folder / "calls.txt"
    with federation(folder) as fed:
        line = opened_line(fed, "a")
        fed.serve()
        fed.join("b")
        traced = ("strace", "-f", "--seccomp-bpf", "-e", "trace=connect,bind,listen,sendto,sendmsg", "-o", str(calls))
        fed.join("a", before=traced if shutil.which("strace") else ())
        done(fed, None, "unbroken")
        equal = fed.digest()
        said = [one for opened in line.opened for one in requests(opened.up)]
        text = declared_only(fed, said)
        check_secrets(fed, b"".join(bytes(opened.up) for opened in line.opened))
    return Found(f"completed; {text}; {watched(calls, line.port)}", None, equal == fed.digest())


def opened_line(fed: Federation, site: str) -> Line:
    """A line on which all can be read, because the aggregator has lent it its certificate."""
    place = fed.project.folder
    line = Line(fed.port, certificate=place / "server.pem", authority=place / "ca.pem")
    fed.invite(site, line.port)
    return line


def declared_only(fed: Federation, said: list[tuple[bytes, bytes, bytes]]) -> str:
    """Each request is one of Flower's, each reply holds the declared numbers and figures, and there is nothing besides."""
    objects, trees, kinds = {}, [], set()
    shapes = {name: tuple(shape) for name, shape in json.loads((fed.folder / "a.invitation").read_text())["tensors"].items()}
    for first, _, body in said:
        if first.startswith(b"GET /health "):
            continue
        kind = first.split()[1].decode().rpartition("/")[2]
        request = REQUESTS[kind].FromString(body)
        request.DiscardUnknownFields()
        assert request.ByteSize() == len(body), f"{kind} holds more than Flower knows"
        kinds.add(kind)
        if kind == "push-object":
            objects[request.object_id] = request.object_content
        if kind == "push-messages":
            trees += request.message_object_trees
    for tree in trees:
        names = [part.object_id for part in iterate_object_tree(tree)]
        reply = inflate_object_from_contents(tree.object_id, {name: objects[name] for name in names})
        check_reply(reply, shapes)
    known = {part.object_id for tree in trees for part in iterate_object_tree(tree)}
    assert set(objects) == known, "objects that belong to no reply"
    return f"{len(said)} requests of {len(kinds) + 1} kinds, {len(trees)} replies with the declared numbers and figures, nothing else"


def check_reply(reply: Message, shapes: dict[str, tuple[int, ...]]) -> None:
    """The declared weights and figures only."""
    content = reply.content
    assert set(content) <= {"arrays", "metrics"}, set(content)
    odd = [name for name in content["metrics"] if not FIGURES.fullmatch(name)]
    assert not odd, f"figures that were not declared: {odd}"
    assert all(isinstance(value, int | float) for value in content["metrics"].values()), "lists of figures"
    read_answer(reply, shapes if "arrays" in content else {})


def check_secrets(fed: Federation, said: bytes) -> None:
    """Nothing of the table, no name of a file, a computer or a person."""
    lines = (fed.data["a"]["table"]).read_text().splitlines()[1:]
    cells = {cell for line in lines for cell in line.split(",")} - {"well", "sick"}
    secrets = cells | {"secret", "table.csv", str(fed.folder), socket.gethostname(), f"/{getpass.getuser()}", os.uname().release}
    found = [text for text in secrets if len(text) > 5 and text.encode() in said]  # shorter ones are there by chance
    assert not found, f"on the line: {found}"


def watched(calls: Path, port: int) -> str:
    """What strace has seen: only calls to the aggregator, no socket that listens."""
    if not calls.exists():
        return "no strace here"
    lines = [line for line in calls.read_text(errors="replace").splitlines() if "sa_family=AF_INET" in line or " listen(" in line]
    reached = {
        (re.search(r'"([\d.:a-f]+)"', line)[1], int(re.search(r"port=htons\((\d+)", line)[1])) for line in lines if "connect(" in line
    }
    listening = [line for line in lines if " listen(" in line or (" bind(" in line and "htons(0)" not in line)]
    assert reached == {("127.0.0.1", port)} and not listening, (reached, listening)
    return f"{len(lines)} system calls on internet sockets, all to the aggregator's port; sockets that listen: 0"


def replay(fed: Federation, first: bytes, headers: bytes, body: bytes) -> int:
    """Send a recorded request again; returns the HTTP status."""
    context = ssl.create_default_context(cafile=fed.project.folder / "ca.pem")
    pairs = dict(line.decode().split(": ", 1) for line in headers.split(b"\r\n"))
    request = urllib.request.Request(f"https://127.0.0.1:{fed.port}{first.split()[1].decode()}", body, pairs, method="POST")
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def wait_for_link(fed: Federation) -> None:
    """Until the aggregator answers."""

    def answers() -> bool:
        with socket.socket() as line:
            return line.connect_ex(("127.0.0.1", fed.port)) == 0

    until(answers, 120, "the link of the aggregator")


def let_in(fed: Federation, key: ec.EllipticCurvePrivateKey) -> bool:
    """Does the aggregator take this key?"""
    try:
        Connection(f"127.0.0.1:{fed.port}", (fed.project.folder / "ca.pem").read_bytes(), key, give_up).close()
    except InputError as error:
        assert "does not let this site in" in str(error), error
        return False
    return True


def give_up(problem: str) -> None:
    raise InputError(problem)

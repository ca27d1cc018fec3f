"""Flower's line between an aggregator and a site: a database, HTTPS, keys. And what we rely on of Flower's private modules."""

from __future__ import annotations

import ast
import datetime
import hashlib
import inspect
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from enum import EnumType
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode import node_auth_http_interceptor as signing
from link_server import JOB, as_aggregator, as_site, give_up, running, site_key
from starlette.routing import Route

from imagingai.errors import InputError
from imagingai.federated import flower
from imagingai.federated.certificates import make_ca
from imagingai.federated.flower import LARGEST, Connection, LinkGrid, make_app, open_state, register_node
from imagingai.federated.keys import public_text
from imagingai.federated.messages import LOST
from imagingai.federated.packages import FLOWER


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    """One for all tests, because Flower needs seconds to make its database; every test has keys and a run of its own."""
    with running(tmp_path_factory.mktemp("aggregator")) as link:
        yield link


@pytest.fixture(scope="module")
def grids():
    return []


@pytest.fixture
def grid(link, grids):
    """The side of the rounds; a new one if a test has taken its place."""
    if not grids or grids[-1].state.get_run_info(run_ids=[grids[-1].run.run_id])[0].status.status == "finished":
        grids.append(LinkGrid(link.database, JOB))
    return grids[-1]


@pytest.fixture
def key():
    return site_key()


def weights(count: int = 10) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count).astype(np.float32)


def ask(grid: LinkGrid, node: int, array: np.ndarray, number: int = 1) -> str:
    """Send an instruction; returns its id."""
    as_aggregator(grid)
    content = RecordDict({"arrays": ArrayRecord({"w": Array(array)}), "config": ConfigRecord({"kind": "train", "server-round": number})})
    (name,) = grid.push_messages([grid.create_message(content, MessageType.TRAIN, node)])
    return name


def reply(connection: Connection, message: Message, array: np.ndarray, send: bool = True) -> Message:
    """The answer of a site."""
    as_site(connection)
    content = RecordDict({"arrays": ArrayRecord({"w": Array(array)}), "metrics": MetricRecord({"num-examples": 7})})
    answer = Message(content, reply_to=message)
    if send:
        connection.send(answer, 1.5)
    return answer


def numbers(message: Message) -> np.ndarray:
    return message.content["arrays"]["w"].numpy()


def pull(grid: LinkGrid, *names: str, seconds: float = 5.0) -> list[Message]:
    """The answers, once there is one; that Flower has none (any more) is not one."""
    end = time.monotonic() + seconds
    while True:
        found = [reply for reply in grid.pull_messages(names) if not (reply.has_error() and reply.error.code in LOST)]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.02)


# --- there and back


@pytest.mark.parametrize("count", [10, 3_000_000], ids=["40 bytes", "12 MB in three pieces"])
def test_a_message_goes_there_and_back(count, link, grid, key):
    node = link.register(key)
    site = link.connect(key)
    assert site.node_id == node
    assert site.receive() is None
    name = ask(grid, node, weights(count))
    message, job = site.receive()
    assert job == JOB
    assert dict(message.content["config"]) == {"kind": "train", "server-round": 1}
    np.testing.assert_array_equal(numbers(message), weights(count))
    assert pull(grid, name, seconds=0.1) == []
    reply(site, message, weights(count) + 1)
    (answer,) = pull(grid, name)
    assert answer.metadata.reply_to_message_id == name
    assert answer.metadata.src_node_id == node
    assert answer.content["metrics"]["num-examples"] == 7
    np.testing.assert_array_equal(numbers(answer), weights(count) + 1)
    assert pull(grid, name, seconds=0.1) == []  # it is given once
    site.close()


def test_arrays_that_all_sites_get_are_stored_once_and_nothing_stays(link, grid):
    keys = [site_key() for _ in range(3)]
    nodes = [link.register(key) for key in keys]
    sites = [link.connect(key) for key in keys]
    before = stored(link)
    names = [ask(grid, node, weights(1_000_000)) for node in nodes]
    assert 4e6 < stored(link) - before < 5e6
    for site, node in zip(sites, nodes, strict=True):
        reply(site, site.receive()[0], np.array([float(node % 1000)]))
    found = []
    while len(found) < 3:
        found += pull(grid, *names)
    assert {answer.metadata.src_node_id for answer in found} == set(nodes)
    assert stored(link) == before
    for site in sites:
        site.close()


def stored(link) -> int:
    """Bytes of all arrays in the database."""
    with sqlite3.connect(link.database) as database:
        return database.execute("SELECT coalesce(sum(length(content)), 0) FROM objects").fetchone()[0]


def test_two_processes_use_one_database(link, key):
    """The rounds are a process of their own: this one asks through the file, and the link here answers the site."""
    node = link.register(key)
    script = (
        "import sys; from pathlib import Path; from imagingai.federated import packages; packages.activate()\n"
        "from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict; import numpy as np, time\n"
        "from imagingai.federated.flower import LinkGrid\n"
        f"grid = LinkGrid(Path({str(link.database)!r}), {JOB!r})\n"
        "content = RecordDict({'arrays': ArrayRecord({'w': Array(np.arange(5.0))}), 'config': ConfigRecord({'kind': 'train'})})\n"
        f"(reply,) = grid.send_and_receive([grid.create_message(content, MessageType.TRAIN, {node})], timeout=20)\n"
        "print(reply.content['arrays']['w'].numpy().tolist())\n"
    )
    site = link.connect(key)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 30
        while (got := site.receive()) is None and time.monotonic() < end:
            time.sleep(0.05)
        reply(site, got[0], numbers(got[0]) * 2)
        assert process.communicate(timeout=20)[0].strip() == "[0.0, 2.0, 4.0, 6.0, 8.0]"
    site.close()


def test_an_aggregator_that_was_killed_is_replaced(link, key):
    """The rounds of the new process are a run of their own; a question of the old one is not followed any more."""
    node = link.register(key)
    old, site = LinkGrid(link.database, JOB), link.connect(key)
    ask(old, node, weights())
    new = LinkGrid(link.database, JOB)
    assert site.receive() is None
    name = ask(new, node, weights() * 2)
    message, _ = site.receive()
    np.testing.assert_array_equal(numbers(message), weights() * 2)
    reply(site, message, weights())
    assert len(pull(new, name)) == 1
    site.close()


def test_who_is_there_is_known_and_who_leaves(link, grid, key):
    node = link.register(key)
    assert node not in grid.activated()
    before, site = time.time(), link.connect(key)
    assert before - 1 < grid.activated()[node] < time.time() + 1
    site.close()
    assert node not in grid.activated()
    back = link.connect(key)
    assert grid.activated()[node] > before
    back.close()


def test_a_site_that_was_killed_comes_back_at_once(link, key):
    """Flower takes it for online until its heartbeats are missed, and would refuse it so long."""
    node = link.register(key)
    link.connect(key)  # and killed: nothing is said
    again = link.connect(key, node_id=node)
    assert again.node_id == node
    again.close()


def test_right_after_an_answer_a_site_leaves_silently(link, grid, key):
    """Flower drops the answers of those who have left."""
    node = link.register(key)
    site = link.connect(key)
    name = ask(grid, node, weights())
    reply(site, site.receive()[0], weights())
    site.close()
    assert len(pull(grid, name)) == 1


# --- answers that are not what they should be


def test_an_answer_that_is_sent_again_counts_once(link, grid, key):
    node = link.register(key)
    site = link.connect(key)
    name = ask(grid, node, weights())
    message, _ = site.receive()
    answer = reply(site, message, weights() + 1)
    site.send(answer, 1.0)  # before it is taken
    (found,) = pull(grid, name)
    site.send(answer, 1.0)  # and after
    reply(site, message, weights() + 2)  # and another one to the same question
    assert pull(grid, name, seconds=0.5) == []
    np.testing.assert_array_equal(numbers(found), weights() + 1)
    site.close()


def push_by_hand(site: Connection, head: Message, tree: ObjectTree, contents: dict[str, bytes]) -> None:
    """Send an answer piece by piece, as another program might: its head, what it is said to consist of, the pieces."""
    head = remove_content_from_message(head)
    head.metadata.__dict__["_message_id"] = tree.object_id
    announced = {"messages_list": [message_to_proto(head)], "message_object_trees": [tree], "clientapp_runtime_list": [1.0]}
    session = site.client.PushMessages(PushMessagesRequest(node=site.node, **announced)).session_id
    for name, content in contents.items():
        piece = {"run_id": head.metadata.run_id, "object_id": name, "object_content": content, "session_id": session}
        site.client.PushObject(PushObjectRequest(node=site.node, **piece))


def test_an_answer_whose_upload_breaks_off_is_not_there_yet(link, grid, key):
    node = link.register(key)
    site = link.connect(key)
    name = ask(grid, node, weights())
    answer = reply(site, site.receive()[0], weights(), send=False)
    push_by_hand(site, answer, get_object_tree(answer), {})
    assert pull(grid, name, seconds=0.3) == []
    site.send(answer, 1.0)
    assert len(pull(grid, name)) == 1
    site.close()


def test_an_answer_whose_pieces_were_lost_is_an_error(link, grid, key):
    """Flower gives up on an upload after a while."""
    node = link.register(key)
    site = link.connect(key)
    name = ask(grid, node, weights())
    answer = reply(site, site.receive()[0], weights(), send=False)
    push_by_hand(site, answer, get_object_tree(answer), {})
    assert pull(grid, name, seconds=0.1) == []
    with sqlite3.connect(link.database) as database:
        database.execute("DELETE FROM objects WHERE object_id = ?", (answer.object_id,))
    (found,) = pull(grid, name)
    assert found.error.reason == "The reply cannot be read."
    site.close()


UNREAD = "The reply cannot be read."


@pytest.mark.parametrize(
    ("content", "reasons"),
    [(b"", []), (b"no head", []), (b"Nothing  2\x00ab", []), (b"Message  2\x00ab", [UNREAD]), (b"RecordDict  2\x00{}", [UNREAD])],
    ids=["empty", "no head", "no such kind", "no message", "another kind"],
)
def test_an_answer_that_is_none_does_not_stop_the_aggregator(content, reasons, link, grid, key):
    node = link.register(key)
    site = link.connect(key)
    name = ask(grid, node, weights())
    head, odd = reply(site, site.receive()[0], weights(), send=False), hashlib.sha256(content).hexdigest()
    push_by_hand(site, head, ObjectTree(object_id=odd), {odd: content})
    found = pull(grid, name, seconds=5.0 if reasons else 0.3)  # some are not even stored
    assert [answer.error.reason for answer in found] == reasons
    assert {answer.metadata.src_node_id for answer in found} <= {node}
    site.close()


def test_no_site_answers_in_the_name_of_another(link, grid):
    """Neither in the head of an answer, which the link checks, nor in its content, which only the rounds see."""
    keys = [site_key(), site_key()]
    nodes = [link.register(key) for key in keys]
    victim, thief = (link.connect(key) for key in keys)
    names = [ask(grid, node, weights()) for node in nodes]
    questions = [site.receive()[0] for site in (victim, thief)]
    stolen = reply(thief, questions[0], weights() * 100, send=False)
    thief.send(stolen, 1.0)
    assert pull(grid, names[0], seconds=0.3) == []
    own = reply(thief, questions[1], weights(), send=False)
    push_by_hand(thief, own, get_object_tree(stolen), {name: part.deflate() for name, part in get_all_nested_objects(stolen).items()})
    (found,) = pull(grid, *names)
    assert found.metadata.src_node_id == nodes[1]
    assert found.metadata.reply_to_message_id == names[1]
    for site in (victim, thief):
        site.close()


# --- keys


def test_a_key_that_is_not_registered_is_not_let_in(link, key, monkeypatch):
    monkeypatch.setattr(flower, "NEW", 0)
    with pytest.raises(InputError) as error:
        link.connect(key)
    assert str(error.value) == (
        f"The aggregator {link.address} does not let this site in (HTTP 412): its key is not registered, or the invitation was revoked. "
        "Ask the coordinator for a new invitation."
    )


def test_a_key_that_is_registered_a_moment_later_is_let_in(link, key):
    timer = threading.Timer(0.3, link.register, [key])
    timer.start()
    site = link.connect(key)
    timer.join()
    assert site.node_id == link.register(key)
    site.close()


def test_a_revoked_key_is_out_at_once_and_for_good(link, key, monkeypatch):
    monkeypatch.setattr(flower, "NEW", 0)
    node = link.register(key)
    site = link.connect(key)
    link.revoke(node)
    link.revoke(node)  # again: nothing happens
    with pytest.raises(InputError, match=r"does not know this site any more \(HTTP 401\)"):
        site.receive()
    with pytest.raises(InputError, match="does not let this site in"):
        link.connect(key)
    site.close()


def test_a_site_cannot_read_what_is_for_another(link, grid):
    """Nor answer in its place: the number of the node must be that of the key."""
    keys = [site_key(), site_key()]
    nodes = [link.register(key) for key in keys]
    thief = link.connect(keys[1])
    victim = link.connect(keys[0])
    ask(grid, nodes[0], weights())
    assert thief.receive() is None
    thief.node = Node(node_id=nodes[0])
    with pytest.raises(InputError, match="HTTP 401"):
        thief.receive()
    assert victim.receive() is not None
    for site in (thief, victim):
        site.close()


def test_nobody_registers_a_key_from_outside(link, key):
    link.register(key)
    site, other = link.connect(key), site_key()
    with pytest.raises(httpx.HTTPStatusError):
        site.client.RegisterNode(RegisterNodeFleetRequest(public_key=public_key_to_bytes(other.public_key())))
    assert link.state.get_node_id_by_public_key(public_key_to_bytes(other.public_key())) is None
    site.close()


def test_a_node_is_known_by_the_key_of_its_invitation(tmp_path, key):
    """The same key has the same number, whatever is written behind it in its file."""
    state = open_state(tmp_path / "link.db").state()
    node = register_node(state, public_text(key))
    assert register_node(state, public_text(key)) == node != register_node(state, public_text(site_key()))
    (info,) = state.get_node_info(node_ids=[node])
    assert load_pem_public_key(info.public_key) == key.public_key()


def test_a_signature_of_another_time_is_refused(link, key, monkeypatch):
    """A recorded request cannot be used again after five minutes; clocks may differ by as much."""
    link.register(key)
    site, now = link.connect(key), signing.now
    for minutes, is_taken in ((-4, True), (4, True), (-6, False), (6, False)):
        monkeypatch.setattr(signing, "now", lambda minutes=minutes: now() + datetime.timedelta(minutes=minutes))
        if is_taken:
            assert site.receive() is None
        else:
            with pytest.raises(InputError, match="HTTP 401"):
                site.receive()
    monkeypatch.setattr(signing, "now", now)
    site.close()


# --- HTTPS


def client(link) -> httpx.Client:
    """Somebody without a key."""
    return httpx.Client(base_url=f"https://{link.address}", verify=ssl.create_default_context(cadata=link.authority))


def test_a_site_trusts_only_the_authority_of_its_invitation(link, key, tmp_path):
    link.register(key)
    (tmp_path / "other").mkdir()
    make_ca(tmp_path / "other", "Another federation")

    with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        Connection(link.address, (tmp_path / "other" / "ca.pem").read_bytes(), key, give_up)


def test_only_the_fleet_api_and_health_are_there(link):
    """No control (by which code is submitted), no runtime, no pages of documentation."""
    routes = {route.path for route in all_routes(make_app(link.database))}
    assert {path.split("/")[2] if path.startswith("/v1") else path for path in routes} == {"fleet", "/health"}
    with client(link) as line:
        assert line.get("/health").status_code == 200
        for path in ("/", "/docs", "/redoc", "/openapi.json", "/v1/control/start-run", "/v1/runtime/pull-app-inputs", "/metrics"):
            assert line.get(path).status_code == 404
            assert line.post(path, content=b"", headers={"content-type": PROTOBUF_MEDIA_TYPE}).status_code == 404


def all_routes(app) -> list[Route]:
    """Also those of routers that FastAPI includes lazily."""
    found = []
    for route in app.routes:
        router = getattr(route, "original_router", None) or getattr(route, "router", None)
        found += router.routes if router else [route]
    return found


def test_a_call_without_a_signature_is_refused(link, key):
    body = PullMessagesRequest(node=Node(node_id=link.register(key))).SerializeToString()
    with client(link) as line:
        for path in ("activate-node", "pull-messages", "push-messages", "pull-object", "get-run", "register-node"):
            answer = line.post(f"/v1/fleet/{path}", content=body, headers={"content-type": PROTOBUF_MEDIA_TYPE})
            assert answer.status_code in (400, 401), path
        assert line.post("/v1/fleet/pull-messages", content=body, headers={"content-type": PROTOBUF_MEDIA_TYPE}).status_code == 401


def test_a_request_that_is_too_large_is_refused_before_it_is_read(link):
    address = ("127.0.0.1", link.port)
    with client(link) as line:
        assert line.post("/v1/fleet/push-object", content=iter([b"a"])).status_code == 413  # without a length
    context = ssl.create_default_context(cadata=link.authority)
    with socket.create_connection(address) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as line:
        line.sendall(f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGEST + 1}\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 413")  # nothing of the body was sent


def test_a_site_opens_no_socket_to_the_outside(link, key):
    link.register(key)
    before = listening()
    site = link.connect(key)
    site.receive()
    assert listening() == before
    site.close()


def listening() -> set[str]:
    """Local addresses of this process's user on which somebody waits for calls (state 0A of /proc/net/tcp)."""
    path = Path("/proc/self/net/tcp")
    if not path.exists():
        pytest.skip("only Linux tells")
    own = own_sockets()
    rows = [line.split() for name in ("tcp", "tcp6") for line in path.with_name(name).read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in own}


def own_sockets() -> set[str]:
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return {name[8:-1] for name in names if name.startswith("socket:[")}


# --- a line that is down


def test_a_site_waits_while_the_aggregator_is_away(link, grid, key):
    node = link.register(key)
    problems = []

    def wait(problem):
        problems.append(problem)
        if len(problems) == 2:
            link.start()

    site = link.connect(key, wait)
    link.stop()
    name = ask(grid, node, weights())
    message, _ = site.receive()
    assert len(problems) == 2
    assert problems[0].startswith(f"The aggregator {link.address} does not answer (")
    reply(site, message, weights())
    assert len(pull(grid, name)) == 1
    site.close()


# --- the contract with Flower


def test_the_version_is_the_pinned_one():
    assert version("flwr") == FLOWER == "1.41.0"


CONTRACT = Path(__file__).with_name("flower_contract.txt")


def test_what_we_use_of_flowers_private_modules_is_as_it_was():
    """Names and arguments of all that flower.py imports of Flower, and of what it calls of its state and client.

    After a change of the version: look at each line that differs, and only then change the file.
    """
    assert sorted(contract()) == CONTRACT.read_text(encoding="utf-8").splitlines()


STATE = (
    *("create_run", "get_run_info", "claim_task", "activate_task", "finish_task", "acknowledge_task_heartbeat"),
    *("get_nodes", "get_node_info", "get_node_id_by_public_key", "create_node", "delete_node"),
    *("start_session", "store_message_and_object_tree", "store_object", "get_object", "get_message_res", "delete_messages"),
)
CALLS = (
    *("ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "PullMessages", "PushMessages", "GetRun"),
    *("PullObject", "PushObject", "ConfirmMessageReceived", "from_server_address"),
)


def contract():
    """module.name(arguments), one for each thing."""
    for line in ast.parse(inspect.getsource(flower)).body:
        if isinstance(line, ast.ImportFrom) and line.module.startswith("flwr."):
            for name in line.names:
                yield f"{line.module}.{name.name}{arguments(getattr(flower, name.asname or name.name))}"
    yield f"node_auth.NodeAuthMiddleware{arguments(flower.node_auth.NodeAuthMiddleware)}"
    yield from (f"node_auth.{name}" for name in ("SYSTEM_TIME_TOLERANCE", "TIMESTAMP_TOLERANCE") if hasattr(flower.node_auth, name))
    yield f"sql_mixin.SQLITE_PRAGMAS{arguments(flower.sql_mixin.SQLITE_PRAGMAS)}"
    for kind, names in ((SqlLinkState, STATE), (SqlObjectStore, ("get_object_tree", "delete")), (flower.FleetHttpClient, CALLS)):
        for name in names:
            yield f"{kind.__name__}.{name}{arguments(getattr(kind, name))}"


def arguments(thing) -> str:
    """(a, b=, *c); the fields of a protobuf message; nothing for a constant."""
    if hasattr(thing, "DESCRIPTOR"):
        return f"({', '.join(field.name for field in thing.DESCRIPTOR.fields)})"
    if isinstance(thing, EnumType):
        return f" = {[str(one) for one in thing]}"
    if not callable(thing):
        return f" = {thing!r}" if isinstance(thing, (str, int)) else ""
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(thing).parameters.values()
    return f"({', '.join(marks.get(p.kind, '') + p.name + ('=' if p.default is not p.empty else '') for p in found)})"

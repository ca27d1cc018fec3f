"""What docs/deploy-aggregator.md promises: its example files fit the program, a lost link.db is made anew, no site answers for another."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from link_server import JOB, Link, as_aggregator, as_site, running, site_key
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from imagingai.__main__ import _parser
from imagingai.errors import InputError
from imagingai.federated.config import ProjectConfig
from imagingai.federated.flower import LARGEST, LinkGrid, open_state, register_node
from imagingai.federated.keys import public_text
from imagingai.federated.link import Refusals, keep_members
from imagingai.federated.processes import only_one
from imagingai.federated.project import Project
from imagingai.federated.serve import serve
from imagingai.federated.store import Store

FILES = Path(__file__).parents[3] / "docs/deploy"


def test_nginx_lets_through_what_the_program_sends():
    text = (FILES / "nginx-termination.conf").read_text()
    assert re.findall(r"client_max_body_size (\d+)m;", text) == [str(LARGEST >> 20)]
    assert re.findall(r"location (?:= )?(\S+) \{", text) == ["/v1/fleet/", "/health", "/"]
    assert re.findall(r"location / \{ return 404; \}", text)


def test_the_service_runs_a_command_that_exists():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(FILES / "imagingai-federation.service")
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "imagingai"
    assert _parser().parse_args(arguments).project == Path("/srv/federation/project.toml")
    assert unit["Service"]["RestartPreventExitStatus"] == "2"  # of __main__: a person has to do something first


def test_the_guide_names_commands_and_files_that_exist():
    guide = FILES.with_name("deploy-aggregator.md")
    text = guide.read_text(encoding="utf-8")
    commands = set(re.findall(r"imagingai federated (\w+)", text))
    assert {"new", "key", "invite", "serve", "resume", "status", "revoke", "install", "audit"} <= commands
    known = _parser()._subparsers._group_actions[0].choices["federated"]._subparsers._group_actions[0].choices
    assert commands <= set(known)
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links and [link for link in links if not (guide.parent / link).exists()] == []
    titles = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    headings = {re.sub(r"[^a-z0-9 -]", "", title).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def test_a_lost_link_database_is_made_anew(tmp_path):
    store, keys = Store(tmp_path / "federation.db"), {name: public_text(site_key()) for name in ("north", "south")}
    for name, key in keys.items():
        store.add_site(name, key, "", 0.0)
        store.set_node(name, 1)  # as the lost database knew it
    store.revoke("south")
    state = open_state(tmp_path / "link.db").state()
    keep_members(state, store)
    north, south = store.sites()
    assert north.node_id == register_node(state, keys["north"]) != 1
    assert south.node_id == 1
    assert [node.node_id for node in state.get_node_info()] == [north.node_id]


def test_no_site_answers_in_the_name_of_another(tmp_path):
    with running(tmp_path) as link:
        keys = site_key(), site_key()
        victim, rogue = (link.register(key) for key in keys)
        grid, line, other = LinkGrid(link.database, JOB), link.connect(keys[1]), link.connect(keys[0])
        as_aggregator(grid)
        content = RecordDict({"config": ConfigRecord({"kind": "train", "server-round": 1})})
        question = grid.create_message(content, MessageType.TRAIN, victim)
        (name,) = grid.push_messages([question])  # the rogue site is said to have guessed it
        question.metadata.__dict__["_message_id"] = name
        as_site(line)
        answer = Message(RecordDict({"metrics": MetricRecord({"num-examples": 7})}), reply_to=question)
        answer.metadata.__dict__["_message_id"] = answer.object_id
        request = PushMessagesRequest(
            node=Node(node_id=rogue),
            messages_list=[message_to_proto(remove_content_from_message(answer))],
            message_object_trees=[get_object_tree(answer)],
        )
        assert request.messages_list[0].metadata.src_node_id == victim
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            line.client.PushMessages(request)
        assert list(grid.pull_messages([name])) == []
        line.close()
        other.close()


def test_a_proxy_with_a_small_limit_is_named(tmp_path):
    link = Link(tmp_path).start(Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("", 413), methods=["POST"])]))
    try:
        with pytest.raises(InputError, match=r"refuses requests of this size \(HTTP 413\).*client_max_body_size 32m"):
            link.connect(site_key())
    finally:
        link.stop()


def test_refused_calls_are_told_once_a_minute(tmp_path):
    store = Store(tmp_path / "federation.db")
    refusals = Refusals(store)
    answers = Route("/{code:int}", lambda request: PlainTextResponse("", request.path_params["code"]))
    client = TestClient(Starlette(routes=[answers], middleware=[Middleware(BaseHTTPMiddleware, dispatch=refusals)]))
    for path in ("/200", "/404", "/503"):
        client.get(path)
    refusals.tell()
    assert store.events() == []
    for _ in range(3):
        client.get("/413")
    client.get("/401")
    refusals.tell()
    client.get("/401")
    refusals.tell()
    assert [event.text for event in store.events()] == ["Calls that were refused: 4, the last one from testclient (HTTP 401)."]


def test_an_aggregator_runs_once(tmp_path):
    project = Project(ProjectConfig(), tmp_path / "project.toml", tmp_path)
    Store(tmp_path / "federation.db").add_site("north", public_text(site_key()), "", 0.0)
    with only_one(tmp_path), pytest.raises(InputError, match="This aggregator runs already, in another window or process"):
        serve(project)

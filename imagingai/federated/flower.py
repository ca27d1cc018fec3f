"""The only file that touches Flower's private modules (flwr 1.41.0, pinned; test_flower.py holds it to its contract).

The aggregator is Flower's link state in SQLite behind Flower's Fleet API, and nothing else: the Control and Runtime APIs, through
which code could be submitted, are not there. `LinkGrid` works on the same database: the rounds are a process of their own. A site's
`Connection` speaks the Fleet protocol and never asks for code. Call `packages.activate()` before importing this module.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import Depends, FastAPI, HTTPException, Request
from flwr.app import Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.serverapp.grid import Grid
from flwr.supercore import sql_mixin
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.routers import health
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response

from imagingai.errors import InputError
from imagingai.federated.keys import public_pem

log = logging.getLogger(__name__)

PRAGMAS = ("busy_timeout", "60000"), ("cache_size", "-4000"), ("mmap_size", "0")  # Flower: 5 s, and 320 MB for each of many connections
LARGEST = 32 << 20  # bytes of one request; arrays are sent in pieces of 2 MB
NEW = 5  # seconds after which a key that was just invited is surely known
SETTLED = 10.0  # seconds after which a reply has surely been taken
CLOCKS = 300, 5  # seconds that a site's clock may be ahead, and how many more behind; Flower's 5 and 300 shut out those that run fast
HEARTBEAT = 15  # seconds; a site that is silent for two of them is offline
REPLY_TIME = 30 * 86400.0  # seconds that a late reply is still taken, so that we know when a late site is free again


# --- the aggregator's side


def open_state(database: Path) -> Any:
    """Flower's link state in an SQLite file, which several processes may use at once."""
    sql_mixin.SQLITE_PRAGMAS = (*sql_mixin.SQLITE_PRAGMAS, *PRAGMAS)
    _, factory = get_objectstore_linkstate_factories(str(database), get_federation_manager(is_simulation=False))
    factory.state()
    return factory


def make_app(database: Path) -> FastAPI:
    """The Fleet API and /health; every call needs the signature of a registered key."""
    middleware = [
        Middleware(BaseHTTPMiddleware, dispatch=_limit_size),
        Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
        Middleware(ProtobufTranslationMiddleware),
        Middleware(node_auth.NodeAuthMiddleware),
    ]
    app = FastAPI(title="ImagingAI aggregator", docs_url=None, redoc_url=None, openapi_url=None, middleware=middleware)
    app.state.linkstate_factory = open_state(database)
    node_auth.SYSTEM_TIME_TOLERANCE, node_auth.TIMESTAMP_TOLERANCE = CLOCKS
    app.state.enable_supernode_auth = True  # nobody can register a key from outside
    app.include_router(health.router)
    app.include_router(fleet_router, dependencies=[Depends(_check_sender)])
    return app


async def _limit_size(request: Request, call_next: Callable) -> Response:
    """Before the signature is checked the body is read: nobody may fill the memory with it."""
    length = request.headers.get("content-length", "")
    if request.method == "POST" and (not length.isdecimal() or int(length) > LARGEST):
        return PlainTextResponse("A request needs a content-length of at most 32 MB.", 413)
    return await call_next(request)


def _check_sender(request: Request) -> None:
    """Flower checks who calls, but not that a reply is the caller's own: no site may answer in the name of another."""
    sent = getattr(request.state, "protobuf_request", None)
    if isinstance(sent, PushMessagesRequest) and any(one.metadata.src_node_id != sent.node.node_id for one in sent.messages_list):
        raise HTTPException(403, "This reply is of another site.")


def register_node(state: Any, public_key: str) -> int:
    """Let the owner of this public key (OpenSSH text) in; returns the node's number. A known key keeps its number."""
    key = public_pem(public_key).encode()
    return state.get_node_id_by_public_key(key) or state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)


def unregister_node(state: Any, node_id: int) -> None:
    """Shut a key out for good; a key that is out stays out."""
    with contextlib.suppress(ValueError):
        state.delete_node(NOOP_FLWR_AID, node_id)


class LinkGrid(Grid):
    """Messages to and from the sites, on the link state's database. `job` is what the sites have agreed to."""

    def __init__(self, database: Path, job: str) -> None:
        self.state = open_state(database).state()
        for old in self.state.get_run_info(statuses=["pending", "starting", "running"]):  # of a process that was killed
            self.state.finish_task(old.primary_task_id, "stopped", "replaced")
        self.set_run(self._start(job))
        self._arriving: dict[str, tuple[Message, Any]] = {}  # replies whose arrays are still on their way
        self._beat = 0.0

    def _start(self, job: str) -> Run:
        config = {"fab_id": "imagingai/federation", "fab_version": "1.0.0", "fab_hash": job, "override_config": {}}
        run_id = self.state.create_run(
            **config,
            federation_id=NOOP_FEDERATION_ID,
            federation_config=None,
            flwr_aid=NOOP_FLWR_AID,
            primary_task_type=TaskType.SERVER_APP,
        )
        run = self.state.get_run_info(run_ids=[run_id])[0]
        self.state.claim_task(run.primary_task_id)
        self.state.activate_task(run.primary_task_id)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, run.primary_task_id
        return run

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str = "", ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl or REPLY_TIME, group_id=group_id)

    def beat(self) -> None:
        """Tell Flower that the run goes on; to be called at least every ten seconds or so."""
        if time.monotonic() - self._beat > 5:
            self.state.acknowledge_task_heartbeat(self.run.primary_task_id)
            self._beat = time.monotonic()

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.state.get_nodes(self.run.run_id))

    def activated(self) -> dict[int, float]:
        """When each node that is online has connected, in seconds since 1970."""
        nodes = self.state.get_node_info(node_ids=list(self.get_node_ids()))
        return {node.node_id: datetime.fromisoformat(node.last_activated_at).timestamp() for node in nodes}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; arrays that several messages share are stored once."""
        session, ids = self.state.start_session(self.run.run_id), []
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                stored, missing = self.state.store_message_and_object_tree(
                    remove_content_from_message(message), get_object_tree(message), session
                )
                if stored:
                    objects = get_all_nested_objects(message)
                    for name in missing:
                        self.state.store_object(self.run.run_id, session, name, objects[name].deflate())
                ids.append(message.object_id if stored else "")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived completely; one that broke off is an error reply."""
        store = self.state.object_store
        for message in self.state.get_message_res(message_ids=set(message_ids), run_id=self.run.run_id):
            try:
                self._arriving[message.metadata.message_id] = (message, store.get_object_tree(message.metadata.message_id))
            except NoObjectInStoreError:
                log.warning("the reply %s has lost its content", message.metadata.message_id)
        return [reply for name in list(self._arriving) if (reply := self._finish(name)) is not None]

    def _finish(self, name: str) -> Message | None:
        """The reply if all of its arrays are there."""
        message, tree = self._arriving[name]
        names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        contents = {}
        for part in reversed(names):  # the last ones are sent last
            content = self.state.get_object(self.run.run_id, part)
            if content is None:  # the upload was not finished in time
                del self._arriving[name]
                return _broken(message)
            if content == b"":
                return None
            contents[part] = content
        del self._arriving[name]
        reply = _inflated(name, contents, message)
        self.state.delete_messages(message_ins_ids={message.metadata.reply_to_message_id})
        self.state.object_store.delete(name)
        return reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        pending, replies = set(self.push_messages(messages)), []
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while pending and time.monotonic() < end:
            self.beat()
            found = list(self.pull_messages(pending))
            replies += found
            pending -= {reply.metadata.reply_to_message_id for reply in found}
            time.sleep(0.2)
        return replies

    def close(self, completed: bool) -> None:
        """The end of the run; the sites are told so when they ask."""
        self.state.finish_task(self.run.primary_task_id, "completed" if completed else "stopped", "")


def _inflated(name: str, contents: dict[str, bytes], head: Message) -> Message:
    """The reply. Whose it is and to what is taken from the head, which the link has checked; the content may claim anything."""
    try:
        reply = inflate_object_from_contents(name, contents)
    except (AttributeError, DecodeError, IndexError, KeyError, RecursionError, TypeError, ValueError):  # made by another program
        return _broken(head)
    if not isinstance(reply, Message) or not (reply.has_content() or reply.has_error()):
        return _broken(head)
    reply.__dict__["_metadata"] = head.metadata
    return reply


def _broken(head: Message) -> Message:
    """In place of a reply that is not whole."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "The reply cannot be read."), metadata=head.metadata)


# --- the site's side


class Connection:
    """A site's line to the aggregator: HTTPS from the inside out, nothing listens here.

    wait(problem: str): called when the line is down; it sleeps a little, or raises to give up. node_id: of an earlier process of this
    site, which may have been killed and is then still taken for online.
    """

    def __init__(self, address: str, ca: bytes, key: ec.EllipticCurvePrivateKey, wait: Callable[[str], None], node_id: int = 0) -> None:
        interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(key, key.public_key())]
        self.address, self.wait = address, wait
        self.client = FleetHttpClient.from_server_address(address, False, ca, interceptors)
        self.client.__enter__()
        if node_id:
            self._quietly(self.client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))
        request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT)
        self.node_id = self._call(self.client.ActivateNode, request).node_id
        self.node = Node(node_id=self.node_id)
        TaskIdentity.node_id, TaskIdentity.task_id = self.node_id, 0
        self._over, self._sent = threading.Event(), 0.0
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT * 0.8):
            self._quietly(self.client.SendNodeHeartbeat, SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT))

    def _quietly(self, method: Callable, request: Any) -> None:
        try:
            method(request)
        except httpx.HTTPError as error:  # the next real call tells
            log.info("%s: %s", type(request).__name__, error)

    def _call(self, method: Callable, request: Any) -> Any:
        """One request, again and again while the line is down."""
        refusals = 0
        while True:
            try:
                return method(request)
            except httpx.TransportError as error:
                self.wait(f"The aggregator {self.address} does not answer ({error})")
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status in (502, 503, 504, 429, 500):
                    self.wait(f"The aggregator {self.address} answers with HTTP {status}")
                elif isinstance(request, ActivateNodeRequest) and refusals < NEW:  # an invitation of this minute
                    refusals += 1
                    time.sleep(1.0)
                elif status == 413:  # of a proxy: our requests are smaller than LARGEST
                    raise InputError(
                        f"A proxy in front of the aggregator {self.address} refuses requests of this size (HTTP 413). "
                        "Ask the coordinator to allow 32 MB there (nginx: client_max_body_size 32m), and join again with the same folder."
                    ) from None
                elif status == 401 or isinstance(request, ActivateNodeRequest):
                    raise InputError(refused(self.address, status)) from None
                else:
                    raise

    def receive(self) -> tuple[Message, str] | None:
        """The next instruction with its job, or None."""
        response = self._call(self.client.PullMessages, PullMessagesRequest(node=self.node))
        if not response.messages_list:
            return None
        head, tree = message_from_proto(response.messages_list[0]), response.message_object_trees[0]
        run_id = head.metadata.run_id
        try:
            job = self._call(self.client.GetRun, GetRunRequest(node=self.node, run_id=run_id)).run.fab_hash
            pull = make_pull_object_fn_protobuf(lambda request: self._call(self.client.PullObject, request), self.node, run_id)
            confirm = make_confirm_message_received_fn_protobuf(
                lambda request: self._call(self.client.ConfirmMessageReceived, request), self.node, run_id
            )
            message = pull_and_inflate_object_from_tree(tree, pull, confirm, return_type=Message)
        except httpx.HTTPStatusError as error:  # the run of this message is over
            log.info("an instruction of an ended run is left out: %s", error)
            return None
        message.metadata.__dict__["_message_id"] = tree.object_id
        TaskIdentity.run_id = run_id
        return message, job

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply; what the aggregator has already is not sent again."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        with no_object_id_recompute():
            request = PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            try:
                answer = self._call(self.client.PushMessages, request)
                push = make_push_object_fn_protobuf(
                    lambda request: self._call(self.client.PushObject, request), self.node, run_id, answer.session_id
                )
                push_objects(get_all_nested_objects(reply), push, object_ids_to_push=set(answer.objects_to_push))
            except httpx.HTTPStatusError as error:  # the run has ended meanwhile
                log.warning("The aggregator did not take the answer (HTTP %d); it has begun anew.", error.response.status_code)
        self._sent = time.monotonic()

    def close(self) -> None:
        """Leave, and say so; right after a reply we say nothing, because Flower drops the replies of those who have left."""
        self._over.set()
        if time.monotonic() - self._sent > SETTLED:
            self._quietly(self.client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
        self.client.__exit__(None, None, None)


def refused(address: str, status: int) -> str:
    """The sentence for a key that is not let in; 401 comes to one that was in before."""
    if status == 401:
        return (
            f"The aggregator {address} does not know this site any more (HTTP 401): its invitation was revoked, or the aggregator was "
            "restored from a backup. Join again with the same folder; if that is refused, ask the coordinator for a new invitation."
        )
    return (
        f"The aggregator {address} does not let this site in (HTTP {status}): its key is not registered, or the invitation was revoked. "
        "Ask the coordinator for a new invitation."
    )

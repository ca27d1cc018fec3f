"""A real aggregator's line for tests: Flower's link with TLS in a thread of this process, and sites that connect to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from imagingai.federated.certificates import ensure_certificates
from imagingai.federated.flower import Connection, LinkGrid, make_app, open_state, register_node, unregister_node
from imagingai.federated.keys import public_text

JOB = "f" * 64


def free_port() -> int:
    """A port of this computer that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def site_key() -> ec.EllipticCurvePrivateKey:
    """A new key of a site."""
    return ec.generate_private_key(ec.SECP384R1())


def give_up(problem: str) -> None:
    """What a site does in these tests when the line is down."""
    raise ConnectionError(problem)


class Link:
    """The link of an aggregator in a folder. key, certificate: of its server, if not those that belong to the folder."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder, self.port, self.database = folder, port or free_port(), folder / "link.db"
        ensure_certificates(folder, "A federation", ["127.0.0.1"])
        self.state = open_state(self.database).state()
        self.server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> str:
        return (self.folder / "ca.pem").read_text(encoding="ascii")

    def start(self, app=None) -> Link:
        files = {"ssl_certfile": str(self.folder / "server.pem"), "ssl_keyfile": str(self.folder / "server.key")}
        config = uvicorn.Config(app or make_app(self.database), port=self.port, log_level="error", timeout_graceful_shutdown=1, **files)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        if self.server:
            self.server.should_exit = True
            self.thread.join(10)
            self.server = None

    def register(self, key: ec.EllipticCurvePrivateKey) -> int:
        return register_node(self.state, public_text(key))

    def revoke(self, node: int) -> None:
        unregister_node(self.state, node)

    def connect(self, key: ec.EllipticCurvePrivateKey, wait: Callable[[str], None] = give_up, node_id: int = 0) -> Connection:
        return Connection(self.address, self.authority.encode(), key, wait, node_id)


@contextmanager
def running(folder: Path) -> Iterator[Link]:
    """A link that runs."""
    link = Link(folder).start()
    try:
        yield link
    finally:
        link.stop()


def as_aggregator(grid: LinkGrid) -> None:
    """Who makes the next message: Flower keeps that for a whole process, and here both sides are in one."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = grid.run.run_id, SUPERLINK_NODE_ID, grid.run.primary_task_id


def as_site(connection: Connection) -> None:
    """Who makes the next message."""
    TaskIdentity.node_id, TaskIdentity.task_id = connection.node_id, 0

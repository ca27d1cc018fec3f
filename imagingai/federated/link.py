"""The link process of an aggregator: `python -m imagingai.federated.link project.toml`. HTTPS in front of the database, nothing else."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagingai.federated import packages
from imagingai.federated.processes import end_with_parent
from imagingai.federated.project import Project, host_and_port, read_project
from imagingai.federated.store import Store

REFUSED = (401, 403, 412, 413)  # HTTP: no signature, of another site, not registered, too large
OFTEN = 60.0  # seconds between two events about refusals: nobody shall fill the disk with them


def main(file: str) -> None:
    """Serve until terminated."""
    packages.activate()
    import uvicorn
    from starlette.middleware.base import BaseHTTPMiddleware

    from imagingai.federated.flower import make_app

    end_with_parent()
    project = read_project(Path(file))
    host, port = listen_at(project)
    app = make_app(project.folder / "link.db")
    store = Store(project.folder / "federation.db")
    refusals = Refusals(store)
    app.add_middleware(BaseHTTPMiddleware, dispatch=refusals)
    keep_members(app.state.linkstate_factory.state(), store, refusals.tell)
    uvicorn.run(
        app,
        host=host,
        port=port,
        ssl_certfile=str(project.folder / "server.pem"),
        ssl_keyfile=str(project.folder / "server.key"),
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # anybody can write them
        timeout_graceful_shutdown=3,
    )


class Refusals:
    """Counts the calls that are not let in, for the events that an administrator reads."""

    def __init__(self, store: Store) -> None:
        self.store, self.count, self.last, self.told = store, 0, "", float("-inf")

    async def __call__(self, request: Any, call_next: Callable) -> Any:
        response = await call_next(request)
        if response.status_code in REFUSED:
            self.count, self.last = self.count + 1, f"{request.client.host} (HTTP {response.status_code})"
        return response

    def tell(self) -> None:
        """To be called every second."""
        if self.count and time.monotonic() - self.told > OFTEN:
            self.store.event(f"Calls that were refused: {self.count}, the last one from {self.last}.", "warning")
            self.count, self.told = 0, time.monotonic()


def keep_members(state, store: Store, tell: Callable[[], None] = lambda: None) -> None:
    """Let invited sites in and shut revoked ones out, now and every second. tell(): called after that."""
    from imagingai.federated.flower import register_node, unregister_node

    known: dict[str, int] = {}  # key -> node; asked again after a start: link.db may have been lost, or taken from a backup

    def once() -> None:
        sites = [site for site in store.sites() if site.state == "invited"]
        for site in sites:
            if site.key not in known:
                known[site.key] = register_node(state, site.key)
                store.set_node(site.name, known[site.key])
        nodes = {known[site.key] for site in sites}
        for node in state.get_node_info(statuses=["registered", "online", "offline"]):  # all others: also keys that were replaced
            if node.node_id not in nodes:
                unregister_node(state, node.node_id)

    def always() -> None:
        try:
            while True:
                time.sleep(1.0)
                once()
                tell()
        finally:  # who cannot see any more who was shut out lets nobody in: the link ends, and is started again
            logging.critical("The sites cannot be looked up.", exc_info=True)
            os._exit(4)

    once()
    threading.Thread(target=always, daemon=True).start()


def listen_at(project: Project) -> tuple[str, int]:
    """Where the aggregator listens: as the project says, or on the port of its address; only here if that address is only here."""
    if project.config.listen:
        return host_and_port(project.config.listen)
    host, port = host_and_port(project.config.address)
    return ("127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0", port)


if __name__ == "__main__":
    main(sys.argv[1])

"""The live status page of a federation: a small web server on this computer that only reads. Standard library only."""

from __future__ import annotations

import base64
import errno
import hashlib
import ipaddress
import json
import os
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from imagingai.errors import ImagingAIError, InputError
from imagingai.federated.status import snapshot
from imagingai.federated.store import Store

PAGE = Path(__file__).with_name("status.html")
TAKEN = (errno.EADDRINUSE, errno.EACCES)


class StatusPage:
    """A running server. url: of the page; port: where it listens. Ends with `close()` or as a context manager."""

    def __init__(self, store: Store, server: _Server) -> None:
        self.store, self.server = store, server
        self.port = server.server_address[1]
        self.url = f"http://{server.server_address[0]}:{self.port}/"
        self.thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="status page", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop; a second call does nothing."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.store.close()

    def __enter__(self) -> StatusPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_status(store_path: str | Path, host: str = "127.0.0.1", port: int = 8081) -> StatusPage:
    """Serve the page of a federation in a thread; if the port is taken, on another one (see `.port`).

    There is no password: on another address than the loopback everybody who reaches it sees the names of the sites and the curves.
    Raises InputError if the host is no address of this computer.
    """
    store = Store(store_path)
    try:
        return StatusPage(store, _open(store, host, port))
    except OSError as error:
        store.close()
        raise InputError(f"The status page cannot be opened at {host}: {error.strerror}. Use an address of this computer.") from None


def _open(store: Store, host: str, port: int) -> _Server:
    page = PAGE.read_bytes()
    kind = type("Handler", (_Handler,), {"store": store, "page": page, "policy": _policy(page.decode()), "local": _is_loopback(host)})
    try:
        return _Server((host, port), kind)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        return _Server((host, 0), kind)


class _Server(socketserver.ThreadingTCPServer):
    """Not http.server's own, which asks the DNS for the name of this computer, and may wait long for it."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows two servers could then share a port


class _Handler(BaseHTTPRequestHandler):
    """Answers GET / and GET /status.json; all else is refused."""

    store: Store
    page: bytes
    policy: str
    local: bool
    timeout = 10  # s for a request to arrive
    server_version, sys_version = "ImagingAI", ""

    def do_GET(self) -> None:
        if self.local and not _is_loopback(_host_of(self.headers.get("Host", ""))):
            self._answer(403, "text/plain", b"This page is for the computer itself. Open it by the address 127.0.0.1.")
        elif self.path == "/":
            self._answer(200, "text/html; charset=utf-8", self.page)
        elif self.path == "/status.json":
            self._answer(*self._status())
        else:
            self._answer(404, "text/plain", b"There is only / and /status.json.")

    def _status(self) -> tuple[int, str, bytes]:
        try:
            code, content = 200, snapshot(self.store)
        except ImagingAIError as error:
            code, content = 503, {"error": str(error)}
        return code, "application/json", json.dumps(content, allow_nan=False).encode()

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": self.policy,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Every two seconds the same: nothing to tell."""


def _policy(page: str) -> str:
    """Only the style and the script of the page itself run, and only this server is asked."""
    hashes = {}
    for name in ("style", "script"):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        hashes[name] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _host_of(header: str) -> str:
    """The name in a Host header, without the port. A page of another name may have been pointed at this computer by its DNS."""
    return re.sub(r":\d+$", "", header).strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

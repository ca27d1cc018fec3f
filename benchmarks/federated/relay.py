"""What lies between a site and the aggregator in the tests: a line that counts, is slow, breaks, or is opened; a forward proxy."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHUNK = 1 << 16  # bytes


class Server:
    """A TCP server of the test in a thread of its own; `port` is known at once. Subclasses say what to do with a connection."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.loop, self.clients = asyncio.new_event_loop(), set()
        context = None
        if certificate:  # server.pem, with server.key beside it
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        started = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context, limit=CHUNK)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            with suppress(asyncio.CancelledError):
                await server.serve_forever()

        self.loop.set_exception_handler(lambda *_: None)  # connections of killed processes break off; that is what is tested
        self.main = self.loop.create_task(serve())
        threading.Thread(target=self.loop.run_until_complete, args=(self.main,), daemon=True).start()
        started.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            await self.connected(reader, writer)
        self.clients.discard(writer)
        writer.close()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What to do with a connection."""
        raise NotImplementedError

    def call(self, function: Callable, *values: Any) -> None:
        """Do it in the thread of the server."""
        self.loop.call_soon_threadsafe(function, *values)

    def close(self) -> None:
        """The end."""
        self.call(self.main.cancel)


@dataclass
class Bucket:
    """Bytes per second that a direction of the line lets through, for all connections together; 0: as many as come."""

    rate: float
    free: float = 0.0
    total: int = 0

    async def take(self, count: int) -> None:
        self.total += count
        if self.rate:
            self.free = max(self.free, time.monotonic()) + count / self.rate
            await asyncio.sleep(self.free - time.monotonic())


@dataclass
class Opened:
    """A connection whose encryption ends at the line: what the site said, and what it was told, in plain bytes."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


class Line(Server):
    """From a port of its own to `target`. rate: bytes per second in each direction (one bucket may be shared by several lines).

    certificate: the line ends the encryption with this one and begins it anew (trusting `authority`), so that it sees all (`opened`).
    """

    def __init__(self, target: int, rate: float = 0.0, certificate: Path | None = None, authority: Path | None = None) -> None:
        self.target, self.up, self.down = target, Bucket(rate), Bucket(rate)
        self.opened: list[Opened] = []
        self.broken, self.inside = False, ssl.create_default_context(cafile=authority) if certificate else None
        super().__init__(certificate)

    def cut(self) -> None:
        """The cable is pulled out: all connections end, new ones are refused, until `mend`."""
        self.broken = True
        for writer in list(self.clients):
            self.call(writer.transport.abort)

    def mend(self) -> None:
        """The cable is back."""
        self.broken = False

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.broken:
            writer.transport.abort()
            return
        there = await asyncio.open_connection("127.0.0.1", self.target, ssl=self.inside, limit=CHUNK)
        seen = Opened() if self.inside else None
        if seen:
            self.opened.append(seen)
        up = self._pump(reader, there[1], self.up, seen.up if seen else None)
        down = self._pump(there[0], writer, self.down, seen.down if seen else None)
        await both(up, down)
        there[1].close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket, seen: bytearray | None) -> None:
        while data := await reader.read(CHUNK):
            await bucket.take(len(data))
            if seen is not None:
                seen += data
            writer.write(data)
            await writer.drain()


class Proxy(Server):
    """A forward proxy of a hospital: CONNECT to wherever it is asked (`asked`), or a refusal of all."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.asked = refuses, []
        super().__init__()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split()[1].decode()
        self.asked.append(target)
        if self.refuses or not head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        host, _, port = target.rpartition(":")
        there = await asyncio.open_connection(host, int(port), limit=CHUNK)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await both(copy(reader, there[1]), copy(there[0], writer))
        there[1].close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, until it ends."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


async def both(up: Any, down: Any) -> None:
    """Two directions; when one ends the connection does."""
    tasks = [asyncio.ensure_future(up), asyncio.ensure_future(down)]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def requests(stream: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(first line, other headers, body) of each HTTP/1.1 request or response in a stream."""
    found, data = [], bytes(stream)
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, _, headers = head.partition(b"\r\n")
        length = next((int(h.split(b":")[1]) for h in headers.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
        found.append((first, headers, rest[:length]))
        data = rest[length:]
    return found

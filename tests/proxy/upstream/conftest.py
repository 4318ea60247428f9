"""A server that sends exact bytes and breaks off wherever it is told to, and an upstream without any network."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest

from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings


class Exchange:
    """One connection to the wire server and the request that came over it."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.path = lines[0].split(" ")[1]
        self.headers = {
            name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if ": " in line)
        }
        self.body = body
        self.gone = asyncio.Event()
        """Set when the other side has closed the connection."""
        self._writer = writer

    @property
    def steered(self) -> bool:
        """Whether this is a recovery attempt."""
        return b'"steer"' in self.body

    async def send(self, data: bytes) -> None:
        """Send bytes now."""
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """End the connection with a reset instead of an orderly end."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class WireServer:
    """Runs ``script`` for each request; when it returns, the connection ends."""

    script: Script | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, let the script answer it, and watch whether the other side leaves."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            exchange = Exchange(head, await reader.readexactly(length), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        self.exchanges.append(exchange)
        self.arrived.set()
        watching = asyncio.create_task(self._watch(reader, exchange))
        try:
            assert self.script is not None
            await self.script(exchange)
        except ConnectionError:
            pass  # the proxy left first
        finally:
            writer.close()
            await watching

    async def _watch(self, reader: asyncio.StreamReader, exchange: Exchange) -> None:
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
        exchange.gone.set()


@pytest.fixture
async def wire() -> AsyncIterator[WireServer]:
    """The server, running."""
    server = WireServer()
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.handle(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield server
    listening.close()
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    await listening.wait_closed()


def http(
    body: bytes,
    *,
    status: str = "200 OK",
    content_type: str = "application/json",
    framing: str = "length",
    **headers: str,
) -> bytes:
    """Return an answer as it is on the wire; ``framing`` is length, chunked (one a line of the body) or close."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if framing == "length":
        lines.append(f"content-length: {len(body)}")
    elif framing == "chunked":
        lines.append("transfer-encoding: chunked")
        pieces = body.splitlines(keepends=True)
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """Writes an HTTP answer."""
    return http


@dataclass
class FakeResponse:
    """An ``UpstreamResponse`` from a list of chunks, of which one may be an error."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes | Exception] = field(default_factory=list)
    closed: bool = False

    async def next_chunk(self) -> bytes:
        if not self.chunks:
            return b""
        chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakeUpstream:
    """An ``Upstream`` that gives what is in ``coming``, in turn, and an empty 200 after that."""

    coming: list[FakeResponse | Exception] = field(default_factory=list)
    sent: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    held: asyncio.Event | None = None
    closed: bool = False
    address: str = "http://model"

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> FakeResponse:
        self.sent.append((purpose, headers, body))
        if self.held is not None:
            await self.held.wait()
        following = self.coming.pop(0) if self.coming else FakeResponse()
        if isinstance(following, Exception):
            raise following
        return following

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake() -> FakeUpstream:
    """An upstream without any network."""
    return FakeUpstream()


@pytest.fixture
def response() -> type[FakeResponse]:
    """The class of its answers."""
    return FakeResponse


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of their own."""
    return Metrics()


@pytest.fixture
def limits() -> Callable[..., UpstreamSettings]:
    """Makes upstream settings."""
    return lambda **values: UpstreamSettings(**values)

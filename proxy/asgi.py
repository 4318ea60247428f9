"""The edge towards clients: a bounded body, a watched connection, a reply sent whole or as it arrives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from time import perf_counter
from types import MappingProxyType
from typing import TypeVar

from prometheus_client import Histogram
from starlette.types import Message, Receive, Scope, Send

from proxy.errors import BodyTooLarge, ProxyError, RequestTooSlow
from proxy.exchange import Reply
from proxy.headers import REQUEST_ID_HEADER
from proxy.stream import KEEP_ALIVE
from proxy.time_limits import Interruption, TimeLimit, Within

T = TypeVar("T")

UNWATCHED_S = 0.05
"""How long a request is worked on before anybody looks whether its client is still there."""


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


class Sent:
    """``send``, and whether it has been used: an answer that has begun can no longer become an error body.

    Where ``first_token`` is set, the first bytes of the body that are no keep-alive comment are timed from the moment
    in which this was made.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._arrived = perf_counter()
        self.started = False
        self.first_token: Histogram | None = None

    async def __call__(self, message: Message) -> None:
        """Send one message."""
        self.started = True
        await self._send(message)
        if self.first_token is not None and message.get("body", b"") not in (b"", KEEP_ALIVE):
            self.first_token.observe(perf_counter() - self._arrived)
            self.first_token = None


def header_map(scope: Scope) -> dict[str, str]:
    """Return the request's headers, names in lower case; a repeated one is joined by commas (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def read_body(receive: Receive, limit_bytes: int, limit: TimeLimit, setting: str) -> bytes:
    """Read a request's body within ``limit`` and ``limit_bytes``, which ``setting`` names.

    Raises ``BodyTooLarge``, ``RequestTooSlow`` or ``ClientGone``.
    """

    def too_slow() -> RequestTooSlow:
        return RequestTooSlow(f"the request body did not arrive within {limit.limit_s:g} s (limits.body_timeout_s)")

    with Within(limit, too_slow):
        return await _whole_body(receive, limit_bytes, setting)


async def _whole_body(receive: Receive, limit_bytes: int, setting: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise BodyTooLarge(f"the request body is longer than {limit_bytes} bytes ({setting})")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def while_connected(receive: Receive, work: Awaitable[T], patience: TimeLimit) -> T:
    """Await ``work`` and return its result; cancel it and raise ``ClientGone`` once the client has left.

    Whether the client is there is looked at from the end of ``patience`` on: most answers are there before, and need no
    second task beside them. Cancelled work is over, with all that it held upstream, by the time this returns.
    """
    watching: asyncio.Task[None] | None = None
    with Interruption() as interruption:

        def watch() -> None:
            nonlocal watching
            watching = asyncio.ensure_future(_watch(receive, interruption))

        place = patience.start(watch)
        try:
            return await work
        finally:
            patience.stop(place)
            if watching is not None:
                watching.cancel()
                await asyncio.wait({watching})


def json_reply(
    status: int, body: Mapping[str, object], request_id: str, more: Mapping[str, str] = MappingProxyType({})
) -> Reply:
    """Return a body of the proxy's own, with ``more`` headers."""
    headers = {**more, "content-type": "application/json", REQUEST_ID_HEADER: request_id}
    return Reply(status, headers, json.dumps(body, ensure_ascii=False).encode())


def error_reply(error: ProxyError, request_id: str) -> Reply:
    """Return an error as its OpenAI body, with the headers that go with it."""
    return json_reply(error.status, error.body(), request_id, error.headers())


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a reply; a body that fails on the way is left open, so that the server cuts the connection."""
    body = reply.body
    # Upstreams' values were decoded like this, so that odd bytes go out as they came in; the proxy's own are ASCII.
    headers = [
        (name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in reply.headers.items()
    ]
    if isinstance(body, bytes):
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    async with aclosing(body) as chunks:
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def send_error(error: ProxyError, request_id: str, send: Send) -> None:
    """Send an error as an OpenAI error body."""
    await send_reply(error_reply(error, request_id), send)


async def send_internal_error(request_id: str, send: Send) -> None:
    """Send what a client may know of an error that nobody foresaw."""
    await send_error(ProxyError(f"the proxy failed; its log names request {request_id}"), request_id, send)


async def _watch(receive: Receive, interruption: Interruption) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    interruption.interrupt(ClientGone)

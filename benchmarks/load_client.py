"""The load generator: a process of its own, written straight onto httptools so that it is not what is measured.

Run as ``python -m benchmarks.load_client`` with an `Order` as JSON on stdin; prints one `Window` for each load. It also
reads the CPU time of the target's processes, at the very moments at which it starts and ends a window.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np

from benchmarks.process_cost import core_busy_s, tree_cpu_s
from benchmarks.scripted_upstream import Fate, answer_to, prompt_for

__all__ = [
    "REQUEST_LIMIT_S",
    "Connection",
    "Load",
    "Order",
    "Reply",
    "Window",
    "drive",
    "main",
]

REQUEST_LIMIT_S = 60.0
_MARKER = "m1"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests kept in flight, streamed or whole."""

    concurrency: int
    stream: bool

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"{'stream' if self.stream else 'whole'}-{self.concurrency}"


@dataclass(frozen=True, slots=True)
class Order:
    """What to do to which target.

    ``target_core`` is the core that the target is bound to, or ``None`` where it is bound to none.
    """

    url: str
    model: str
    headers: Mapping[str, str]
    target_pid: int
    upstream_pid: int
    target_core: int | None
    loads: tuple[Load, ...]
    seconds: float
    warm_up: int


@dataclass(frozen=True, slots=True)
class Window:
    """One load on one target.

    ``target_busy``, ``upstream_busy`` and ``client_busy`` are CPU seconds per second; ``others_busy`` is what the
    target's core spent on anything else (``None`` where the target has no core of its own). Where no request was
    answered, its costs and times are not a number.
    """

    load: str
    requests: int
    failed: int
    failure: str
    seconds: float
    cpu_us_per_request: float
    p50_ms: float
    p99_ms: float
    first_chunk_ms: float
    requests_per_s: float
    target_busy: float
    upstream_busy: float
    client_busy: float
    others_busy: float | None


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request went: seconds to the first byte of the body and to the last, and what was wrong, if anything."""

    first_s: float
    whole_s: float
    error: str = ""


class Connection(asyncio.Protocol):
    """One connection to a target: one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._first: float | None = None
        self._body: list[bytes] = []
        self._keep_alive = True

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, expected: bytes) -> Reply:
        """Send ``request`` and wait for its answer, which must be a 200 and end with ``expected``."""
        assert self._transport is not None
        self._first, self._body = None, []
        self._done = asyncio.get_running_loop().create_future()
        started = perf_counter()
        self._transport.write(request)
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                await self._done
        except TimeoutError:
            self.close()
            return Reply(0.0, 0.0, f"no answer within {REQUEST_LIMIT_S:.0f} s")
        except ConnectionError as error:
            self.close()  # its parser would misread whatever came next
            return Reply(0.0, 0.0, str(error))
        ended = perf_counter()
        status = self._parser.get_status_code()
        body = b"".join(self._body)
        if not self._keep_alive:
            self.close()
        self._parser = httptools.HttpResponseParser(self)
        if status != 200 or expected not in body:
            return Reply(0.0, 0.0, f"HTTP {status}: {body[-200:].decode(errors='replace')}")
        return Reply((self._first or ended) - started, ended - started)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class; it has the same methods

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("the connection was closed in the middle")

    def on_headers_complete(self) -> None:
        # Asked later, the parser has forgotten the headers and always says no.
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._first is None:
            self._first = perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(why))


async def drive(order: Order, told: Callable[[Window], None]) -> None:
    """Put every load of ``order`` on the target, one after the other."""
    for load in order.loads:
        told(await _window(order, load))


async def _window(order: Order, load: Load) -> Window:
    host, port = urlsplit(order.url).netloc.split(":")
    request = _request(order, load)
    # The end of a whole answer's text and of a stream: JSON may be written anew on the way, the words stay.
    expected = b"data: [DONE]" if load.stream else answer_to(_MARKER)[-40:].encode()
    loop = asyncio.get_running_loop()
    replies: list[Reply] = []

    async def work(keep_on: Callable[[], bool]) -> None:
        connection: Connection | None = None
        while keep_on():
            if connection is None or not connection.usable:
                _, connection = await loop.create_connection(Connection, host, int(port))
            replies.append(await connection.ask(request, expected))
        if connection is not None:
            connection.close()

    async def all_at_once(keep_on: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(load.concurrency):
                group.create_task(work(keep_on))

    await all_at_once(lambda: len(replies) < (load.concurrency if load.stream else order.warm_up))
    replies.clear()
    before = _Spent.now(order)
    end = perf_counter() + order.seconds
    await all_at_once(lambda: perf_counter() < end)
    spent = _Spent.now(order).since(before)
    good = [reply for reply in replies if not reply.error]
    p50, p99 = np.percentile([reply.whole_s for reply in good], [50, 99]) if good else (math.nan, math.nan)
    return Window(
        load=load.name,
        requests=len(replies),
        failed=len(replies) - len(good),
        failure=next((reply.error for reply in replies if reply.error), ""),
        seconds=spent.wall_s,
        cpu_us_per_request=1e6 * spent.target_s / len(replies) if good else math.nan,
        p50_ms=1000 * float(p50),
        p99_ms=1000 * float(p99),
        first_chunk_ms=1000 * float(np.median([reply.first_s for reply in good])) if good else math.nan,
        requests_per_s=len(good) / spent.wall_s,
        target_busy=spent.target_s / spent.wall_s,
        upstream_busy=spent.upstream_s / spent.wall_s,
        client_busy=spent.client_s / spent.wall_s,
        others_busy=None if spent.core_s is None else max(0.0, spent.core_s - spent.target_s) / spent.wall_s,
    )


def _request(order: Order, load: Load) -> bytes:
    body: dict[str, Any] = {
        "model": order.model,
        "messages": [{"role": "user", "content": prompt_for(Fate.ANSWERED, _MARKER)}],
        "temperature": 0,
        "max_tokens": 64,
        "stream": load.stream,
    }
    content = json.dumps(body).encode()
    parts = urlsplit(order.url)
    headers = {
        "host": parts.netloc,
        "accept": "application/json",
        "content-type": "application/json",
        "content-length": str(len(content)),
        **order.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + content


@dataclass(frozen=True, slots=True)
class _Spent:
    """Clocks at one moment, or what passed on them between two."""

    wall_s: float
    target_s: float
    upstream_s: float
    client_s: float
    core_s: float | None

    @classmethod
    def now(cls, order: Order) -> _Spent:
        core = None if order.target_core is None else core_busy_s(order.target_core)
        target, upstream = tree_cpu_s(order.target_pid), tree_cpu_s(order.upstream_pid)
        return cls(perf_counter(), target, upstream, process_time(), core)

    def since(self, before: _Spent) -> _Spent:
        core = None if self.core_s is None or before.core_s is None else self.core_s - before.core_s
        return _Spent(
            self.wall_s - before.wall_s,
            self.target_s - before.target_s,
            self.upstream_s - before.upstream_s,
            self.client_s - before.client_s,
            core,
        )


def main() -> int:
    """Carry out the order on stdin."""
    import uvloop

    given = json.load(sys.stdin)
    order = Order(**{**given, "loads": tuple(Load(**load) for load in given["loads"])})
    uvloop.run(drive(order, lambda window: print(json.dumps(asdict(window)), flush=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

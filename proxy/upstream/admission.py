"""How many requests are at an upstream at once, and who waits for a place.

There are two lanes with places of their own: clients' requests, and what the proxy asks on its own account (readings,
verdicts, attempts). A client's request may keep its place while the proxy works for it: the rest of a refused stream is
still to be read while the attempt runs. With one lane, full of such requests, each would wait for the others. With two,
nobody who has a place in the second lane ever waits for another place, so that every wait there ends when one of those
requests does, and after `upstream.queue_time_limit_s` at the latest. Nor can the proxy's own work take a place that a
client waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from time import perf_counter

from proxy.errors import UpstreamError, UpstreamOverloaded
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.protocol import Upstream, UpstreamResponse

__all__ = ["Admission", "Lane", "QueueFull"]


class QueueFull(Exception):
    """As many as allowed wait already."""


class Lane:
    """At most ``places`` holders at once; up to ``queue_length`` more wait in line, each for ``wait_limit_s``.

    First come, first served. Nothing is lost or doubled by whoever gives up while waiting, even at the moment in which
    the place was handed over.
    """

    def __init__(self, places: int, queue_length: int, wait_limit_s: float) -> None:
        self._free = places
        self._queue_length = queue_length
        self._wait_limit_s = wait_limit_s
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """Places that nobody holds; more than none only while nobody waits."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def full(self) -> bool:
        """Whether whoever enters now has to wait, or is turned away."""
        return self._free == 0

    async def enter(self) -> None:
        """Take a place, whose holder must ``leave`` once. Raises ``QueueFull``, or ``TimeoutError`` after the limit."""
        if self._free:
            self._free -= 1
            return
        if len(self._line) >= self._queue_length:
            raise QueueFull
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(self._wait_limit_s):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place was handed over in the same moment
            elif turn in self._line:
                self._line.remove(turn)
            raise

    def leave(self) -> None:
        """Give a place up, to the first in line."""
        while self._line:
            turn = self._line.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1


class Admission:
    """An ``Upstream`` with a bounded number of requests at it. Readiness checks need no place.

    A place is kept from before the request is sent until its answer was read to the end, failed or was closed.
    """

    def __init__(self, upstream: Upstream, settings: UpstreamSettings, metrics: Metrics) -> None:
        self._upstream = upstream
        self._settings = settings
        self._metrics = metrics
        self._clients = Lane(settings.connections, settings.queue_length, settings.queue_time_limit_s)
        self._side = Lane(settings.side_connections, settings.queue_length, settings.queue_time_limit_s)
        for lane in ("client", "side"):  # so that both are there at nothing before anybody had to wait
            metrics.queue_length.labels(lane)
            metrics.queue_seconds.labels(lane)

    @property
    def address(self) -> str:
        """The upstream's base address."""
        return self._upstream.address

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> UpstreamResponse:
        """Send a request once there is a place for it, or raise ``UpstreamOverloaded``."""
        if purpose == "check":
            return await self._upstream.send(method, path, headers=headers, body=body, purpose=purpose)
        lane = self._clients if purpose in ("client", "relay") else self._side
        if lane.full:
            await self._wait(lane, purpose)
        else:
            await lane.enter()
        try:
            response = await self._upstream.send(method, path, headers=headers, body=body, purpose=purpose)
        except BaseException:
            lane.leave()
            raise
        return _Admitted(response, lane)

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    async def _wait(self, lane: Lane, purpose: str) -> None:
        if lane is self._clients:
            name, places, setting = "client", self._settings.connections, "connections"
        else:
            name, places, setting = "side", self._settings.side_connections, "side_connections"
        waiting = self._metrics.queue_length.labels(name)
        waited = self._metrics.queue_seconds.labels(name)
        started = perf_counter()
        waiting.inc()
        try:
            await lane.enter()
        except QueueFull:
            raise self._overloaded(
                purpose,
                "queue_full",
                f"{places} requests are at the upstream {self.address} (upstream.{setting}) and "
                f"{self._settings.queue_length} wait (upstream.queue_length)",
            ) from None
        except TimeoutError:
            waited.observe(perf_counter() - started)
            raise self._overloaded(
                purpose,
                "queue_time",
                f"no place at the upstream {self.address} became free within {self._settings.queue_time_limit_s:g} s "
                "(upstream.queue_time_limit_s)",
            ) from None
        finally:
            waiting.dec()
        waited.observe(perf_counter() - started)

    def _overloaded(self, purpose: str, reason: str, what: str) -> UpstreamOverloaded:
        self._metrics.rejected.labels(purpose, reason).inc()
        return UpstreamOverloaded(f"{what}; try again later", retry_after_s=self._settings.queue_time_limit_s)


class _Admitted:
    """An answer that keeps a place until it is over."""

    def __init__(self, response: UpstreamResponse, lane: Lane) -> None:
        self._response = response
        self._lane: Lane | None = lane
        self.status = response.status
        self.headers = response.headers

    async def next_chunk(self) -> bytes:
        try:
            chunk = await self._response.next_chunk()
        except UpstreamError:
            await self.close()
            raise
        if not chunk:
            self._leave()
        return chunk

    async def close(self) -> None:
        try:
            await self._response.close()
        finally:
            self._leave()  # also where closing fails or is cancelled: nobody comes back for the place

    def _leave(self) -> None:
        if self._lane is not None:
            lane, self._lane = self._lane, None
            lane.leave()

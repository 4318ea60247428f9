"""Sending a request again when the upstream could not take it, before anybody has seen a byte of an answer.

Sent again are requests of clients and recovery attempts, after no connection (or one that ended without an answer) and
after the statuses 429, 500, 502, 503 and 504. Time-outs after sending are not among them: the upstream may still be at
work, and a second request would double its load. A retry is the same request, so it carries the same headers, the
client's idempotency key included.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from proxy.errors import UpstreamConnectTimedOut, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.protocol import Upstream, UpstreamResponse

__all__ = ["RETRY_REASONS", "Retries", "retry_after_s"]

_PURPOSES = frozenset({"client", "attempt"})
_STATUSES = frozenset({429, 500, 502, 503, 504})
_NO_CONNECTION = "connection"
RETRY_REASONS = (_NO_CONNECTION, *map(str, sorted(_STATUSES)))
"""Why a request was sent again, as metrics say it."""
_SECONDS = re.compile(r"\d{1,9}(\.\d+)?")


class Retries:
    """An ``Upstream`` that sends over another one, up to ``retries`` times more, within ``retry_time_limit_s``.

    The waits double and are random between nothing and their longest (full jitter), so that requests that failed
    together do not come back together; an upstream's ``Retry-After`` is waited for in full. ``clock`` counts seconds,
    ``wall_clock`` gives the time of day that HTTP dates are held against, ``chance`` a number from 0 to 1.
    """

    def __init__(
        self,
        upstream: Upstream,
        settings: UpstreamSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._upstream = upstream
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._chance = chance

    @property
    def address(self) -> str:
        """The upstream's base address."""
        return self._upstream.address

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> UpstreamResponse:
        """Send a request, again where that may help; the last answer or error goes back as it came."""
        started = self._clock()
        for retry in range(self._settings.retries if purpose in _PURPOSES else 0):
            try:
                response = await self._upstream.send(method, path, headers=headers, body=body, purpose=purpose)
            except (UpstreamUnreachable, UpstreamConnectTimedOut):
                wait_s = self._wait_s(retry, started, 0.0)
                if wait_s is None:
                    raise
                reason = _NO_CONNECTION
            else:
                if response.status not in _STATUSES:
                    return response
                asked_s = retry_after_s(response.headers, self._wall_clock())
                wait_s = self._wait_s(retry, started, asked_s or 0.0)
                if wait_s is None:
                    return response
                await response.close()
                reason = str(response.status)
            self._metrics.retries.labels(reason).inc()
            await self._sleep(wait_s)
        return await self._upstream.send(method, path, headers=headers, body=body, purpose=purpose)

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    def _wait_s(self, retry: int, started: float, asked_s: float) -> float | None:
        """Return how long to wait before retry number ``retry``; ``None`` where the time for retries would be over."""
        backoff_s = self._chance() * self._settings.retry_backoff_s * 2**retry
        wait_s = max(backoff_s, asked_s)
        over = self._clock() - started + wait_s > self._settings.retry_time_limit_s
        return None if over else wait_s


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that ``Retry-After`` asks for (RFC 9110, 10.2.3), ``None`` where it says nothing usable.

    ``now`` is the time of day in seconds since the epoch; a date that has passed is 0.
    """
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        # A date that names no zone is meant in GMT: HTTP knows no other.
        moment = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - now)

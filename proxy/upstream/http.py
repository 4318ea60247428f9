"""The fast path: one pooled aiohttp session to an OpenAI-compatible server.

aiohttp's defaults are overridden where they would hurt a proxy: 100 connections, 300 seconds in total, 15 seconds of
keep-alive, transparent decompression (bytes must pass unchanged) and a ``User-Agent`` of its own.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from time import perf_counter
from types import SimpleNamespace

import aiohttp

from proxy.errors import UpstreamBroke, UpstreamError, UpstreamTimedOut, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.settings import UpstreamSettings

_MAX_HEADER_BYTES = 65_536
_STALE_ERRNOS = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


class HttpUpstream:
    """Implements ``Upstream``. Must be made inside a running event loop and closed in the same one."""

    def __init__(self, settings: UpstreamSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_mark_reused)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.connections, keepalive_timeout=settings.keepalive_s, ttl_dns_cache=60
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            trace_configs=[tracing],
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )

    @property
    def address(self) -> str:
        """The upstream's base address."""
        return self._settings.url

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> HttpResponse:
        """Send a request; a pooled connection that had gone stale is replaced once, before the first byte."""
        started = perf_counter()
        deadline = asyncio.get_running_loop().time() + self._settings.total_timeout_s
        try:
            response = await self._send_once_or_twice(method, path, headers, body)
        except UpstreamError as error:
            self._metrics.upstream_errors.labels(error.code).inc()
            raise
        self._metrics.upstream_seconds.labels(purpose).observe(perf_counter() - started)
        return HttpResponse(response, self, deadline)

    async def close(self) -> None:
        """Close the session and its pool."""
        await self._session.close()

    def broke(self, error: Exception) -> UpstreamBroke:
        """Count and describe an answer that ended in the middle."""
        self._metrics.upstream_errors.labels(UpstreamBroke.code).inc()
        return UpstreamBroke(f"the upstream {self.address} stopped in the middle of its answer ({_describe(error)})")

    def late(self, what: str) -> UpstreamTimedOut:
        """Count and describe a time limit that passed inside an answer."""
        self._metrics.upstream_errors.labels(UpstreamTimedOut.code).inc()
        return UpstreamTimedOut(f"the upstream {self.address} {what}")

    @property
    def settings(self) -> UpstreamSettings:
        """The settings that this upstream was made from."""
        return self._settings

    async def _send_once_or_twice(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        context = SimpleNamespace(reused=False)
        try:
            return await self._send_once(method, path, headers, body, context)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # The server may close an idle connection just as we write to it. Then, and only then, nothing was lost:
            # on a fresh connection the same error may mean that the request was read and killed the server.
            if not (context.reused and _is_stale(error)):
                raise self._unreachable(error) from error
        self._metrics.upstream_retries.inc()
        try:
            return await self._send_once(method, path, headers, body, SimpleNamespace(reused=False))
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from error

    async def _send_once(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, context: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        limit_s = self._settings.first_byte_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._session.request(
                    method,
                    self._settings.url + path,
                    headers={**headers, "accept-encoding": "identity"},
                    data=body or None,
                    allow_redirects=False,
                    trace_request_ctx=context,
                )
        except aiohttp.ServerTimeoutError as error:
            raise UpstreamTimedOut(
                f"the upstream {self.address} did not answer in time ({_describe(error)})"
            ) from error
        except TimeoutError as error:
            raise UpstreamTimedOut(f"the upstream {self.address} sent no answer within {limit_s:g} s") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            raise
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"the upstream {self.address} cannot be reached ({_describe(error)}); check that the served model runs "
            "there, or set upstream.url"
        )


class HttpResponse:
    """Implements ``UpstreamResponse`` over an aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse, upstream: HttpUpstream, deadline: float) -> None:
        self._response = response
        self._upstream = upstream
        self._deadline = deadline
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    async def next_chunk(self) -> bytes:
        """Return bytes as they arrive, ``b""`` at the end."""
        silent_until = asyncio.get_running_loop().time() + self._upstream.settings.idle_timeout_s
        try:
            async with asyncio.timeout_at(min(self._deadline, silent_until)):
                return await self._response.content.readany()
        except TimeoutError as error:
            if silent_until < self._deadline:
                raise self._upstream.late(f"sent nothing for {self._upstream.settings.idle_timeout_s:g} s") from error
            raise self._upstream.late(f"took longer than {self._upstream.settings.total_timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._upstream.broke(error) from error

    async def close(self) -> None:
        """Release a read-out connection to the pool, end one with bytes left."""
        self._response.close()


async def _mark_reused(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.reused = True


def _is_stale(error: Exception) -> bool:
    return isinstance(error, aiohttp.ServerDisconnectedError) or (
        isinstance(error, OSError) and error.errno in _STALE_ERRNOS
    )


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__

"""The fast path: one pooled aiohttp session to an OpenAI-compatible server.

aiohttp's defaults are overridden where they would hurt a proxy: 100 connections, 300 seconds in total, 15 seconds of
keep-alive, transparent decompression (bytes must pass unchanged) and a ``User-Agent`` of its own.

Five time limits hold, each with a message that names its setting: for the connection, from sending to the headers, from
the headers to the first byte of the body, between two pieces of it, and for the whole.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from time import perf_counter
from types import SimpleNamespace

import aiohttp

from proxy.errors import UpstreamBroke, UpstreamConnectTimedOut, UpstreamError, UpstreamTimedOut, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings

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
            # No limit here: aiohttp's own queue for connections is unbounded, `proxy.upstream.admission`'s is not.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=settings.keepalive_s, ttl_dns_cache=60),
            # Not sock_connect, which leaves out the look-up of the name.
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_s),
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
            response = await self._send_once_or_twice(method, path, headers, body, deadline)
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
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> aiohttp.ClientResponse:
        context = SimpleNamespace(reused=False)
        try:
            return await self._send_once(method, path, headers, body, deadline, context)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # The server may close an idle connection just as we write to it. Then, and only then, nothing was lost:
            # on a fresh connection the same error may mean that the request was read and killed the server.
            if not (context.reused and _is_stale(error)):
                raise self._unreachable(error) from error
        self._metrics.upstream_retries.inc()
        try:
            return await self._send_once(method, path, headers, body, deadline, SimpleNamespace(reused=False))
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from error

    async def _send_once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: float,
        context: SimpleNamespace,
    ) -> aiohttp.ClientResponse:
        headers_until = asyncio.get_running_loop().time() + self._settings.first_byte_timeout_s
        try:
            async with asyncio.timeout_at(min(deadline, headers_until)):
                return await self._session.request(
                    method,
                    self._settings.url + path,
                    headers={**headers, "accept-encoding": "identity"},
                    data=body or None,
                    allow_redirects=False,
                    trace_request_ctx=context,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamConnectTimedOut(
                f"no connection to the upstream {self.address} within {self._settings.connect_timeout_s:g} s "
                "(upstream.connect_timeout_s); check that the served model runs there"
            ) from error
        except TimeoutError as error:
            if headers_until < deadline:
                limit = f"{self._settings.first_byte_timeout_s:g} s (upstream.first_byte_timeout_s)"
            else:
                limit = f"{self._settings.total_timeout_s:g} s (upstream.total_timeout_s)"
            raise UpstreamTimedOut(f"the upstream {self.address} sent no answer within {limit}") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            raise
        except aiohttp.ClientResponseError as error:
            raise UpstreamBroke(
                f"the upstream {self.address} sent no valid HTTP answer ({_one_line(error.message)}); check that "
                "upstream.url is the address of an OpenAI-compatible server"
            ) from error
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
        self._begun = False
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    async def next_chunk(self) -> bytes:
        """Return bytes as they arrive, ``b""`` at the end."""
        settings = self._upstream.settings
        silence_s = settings.idle_timeout_s if self._begun else settings.first_token_timeout_s
        silent_until = asyncio.get_running_loop().time() + silence_s
        try:
            async with asyncio.timeout_at(min(self._deadline, silent_until)):
                chunk = await self._response.content.readany()
        except TimeoutError as error:
            if self._deadline <= silent_until:
                what = f"took longer than {settings.total_timeout_s:g} s (upstream.total_timeout_s)"
            elif self._begun:
                what = f"sent nothing for {silence_s:g} s in the middle of its answer (upstream.idle_timeout_s)"
            else:
                what = f"sent headers and then nothing for {silence_s:g} s (upstream.first_token_timeout_s)"
            raise self._upstream.late(what) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._upstream.broke(error) from error
        self._begun = True
        return chunk

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
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection before it had answered"  # aiohttp's words are a dump of half an answer
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())

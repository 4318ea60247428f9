"""The fast path: one pooled aiohttp session to an OpenAI-compatible server.

aiohttp's defaults are overridden where they would hurt a proxy: 100 connections, 300 seconds in total, 15 seconds of
keep-alive, transparent decompression (bytes must pass unchanged) and a ``User-Agent`` of its own.

Five time limits hold, each with a message that names its setting: for the connection, from sending to the headers, from
the headers to the first byte of the body, between two pieces of it, and for the whole.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter

import aiohttp
from prometheus_client import Histogram

from proxy.errors import UpstreamBroke, UpstreamConnectTimedOut, UpstreamError, UpstreamTimedOut, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.time_limits import Interruption, TimeLimit, Within

_MAX_HEADER_BYTES = 65_536
_STALE_ERRNOS = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


class HttpUpstream:
    """Implements ``Upstream``. Must be made inside a running event loop and closed in the same one."""

    def __init__(self, settings: UpstreamSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._seconds: dict[str, Histogram] = {}
        self._to_headers = TimeLimit(min(settings.first_byte_timeout_s, settings.total_timeout_s))
        self._to_first_token = TimeLimit(settings.first_token_timeout_s)
        self._silence = TimeLimit(settings.idle_timeout_s)
        self._whole = TimeLimit(settings.total_timeout_s)
        self._session = aiohttp.ClientSession(
            # No limit here: aiohttp's own queue for connections is unbounded, `proxy.upstream.admission`'s is not.
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=settings.keepalive_s,
                ttl_dns_cache=60,
                socket_factory=_new_socket,
            ),
            # Not sock_connect, which leaves out the look-up of the name.
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
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
        whole = _WholeTime(self._whole)
        try:
            with Within(self._to_headers, self._no_answer):
                response = await self._send_once_or_twice(method, path, headers, body)
        except BaseException as error:
            whole.stop()
            if isinstance(error, UpstreamError):
                self._metrics.upstream_errors.labels(error.code).inc()
            raise
        seconds = self._seconds.get(purpose)
        if seconds is None:
            seconds = self._seconds[purpose] = self._metrics.upstream_seconds.labels(purpose)
        seconds.observe(perf_counter() - started)
        return HttpResponse(response, self, whole)

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

    def silence(self, *, begun: bool) -> TimeLimit:
        """The limit for the wait for an answer's next bytes: for its first ones, or in its middle."""
        return self._silence if begun else self._to_first_token

    @property
    def settings(self) -> UpstreamSettings:
        """The settings that this upstream was made from."""
        return self._settings

    async def _send_once_or_twice(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        attempt = _Attempt()
        _attempt.set(attempt)
        try:
            return await self._send_once(method, path, headers, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # The server may close an idle connection just as we write to it. Then, and only then, nothing was lost:
            # on a fresh connection the same error may mean that the request was read and killed the server.
            if attempt.connected or not _is_stale(error):
                raise self._unreachable(error) from error
        self._metrics.upstream_retries.inc()
        try:
            return await self._send_once(method, path, headers, body)
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from error

    async def _send_once(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        try:
            return await self._session.request(
                method,
                self._settings.url + path,
                headers={**headers, "accept-encoding": "identity"},
                data=body or None,
                allow_redirects=False,
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamConnectTimedOut(
                f"no connection to the upstream {self.address} within {self._settings.connect_timeout_s:g} s "
                "(upstream.connect_timeout_s); check that the served model runs there"
            ) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            raise
        except aiohttp.ClientResponseError as error:
            raise UpstreamBroke(
                f"the upstream {self.address} sent no valid HTTP answer ({_one_line(error.message)}); check that "
                "upstream.url is the address of an OpenAI-compatible server"
            ) from error
        except aiohttp.ClientError as error:
            raise self._unreachable(error) from error

    def _no_answer(self) -> UpstreamTimedOut:
        settings = self._settings
        if settings.first_byte_timeout_s < settings.total_timeout_s:
            limit = f"{settings.first_byte_timeout_s:g} s (upstream.first_byte_timeout_s)"
        else:
            limit = f"{settings.total_timeout_s:g} s (upstream.total_timeout_s)"
        return UpstreamTimedOut(f"the upstream {self.address} sent no answer within {limit}")

    def _unreachable(self, error: Exception) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"the upstream {self.address} cannot be reached ({_describe(error)}); check that the served model runs "
            "there, or set upstream.url"
        )


class HttpResponse:
    """Implements ``UpstreamResponse`` over an aiohttp response."""

    def __init__(self, response: aiohttp.ClientResponse, upstream: HttpUpstream, whole: _WholeTime) -> None:
        self._response = response
        self._upstream = upstream
        self._whole = whole
        self._begun = False
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    async def next_chunk(self) -> bytes:
        """Return bytes as they arrive, ``b""`` at the end."""
        content = self._response.content
        try:
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                chunk = await self._awaited(content)
        except (aiohttp.ClientError, OSError) as error:
            raise self._upstream.broke(error) from error
        self._begun = True
        if not chunk:
            self._whole.stop()
        return chunk

    async def close(self) -> None:
        """Release a read-out connection to the pool, end one with bytes left."""
        self._whole.stop()
        self._response.close()

    async def _awaited(self, content: aiohttp.StreamReader) -> bytes:
        with Within(self._upstream.silence(begun=self._begun), self._silent) as waiting:
            self._whole.watch(waiting, self._too_long)
            return await content.readany()

    def _silent(self) -> UpstreamTimedOut:
        settings = self._upstream.settings
        if self._begun:
            what = f"for {settings.idle_timeout_s:g} s in the middle of its answer (upstream.idle_timeout_s)"
            return self._upstream.late(f"sent nothing {what}")
        what = f"for {settings.first_token_timeout_s:g} s (upstream.first_token_timeout_s)"
        return self._upstream.late(f"sent headers and then nothing {what}")

    def _too_long(self) -> UpstreamTimedOut:
        limit_s = self._upstream.settings.total_timeout_s
        return self._upstream.late(f"took longer than {limit_s:g} s (upstream.total_timeout_s)")


class _WholeTime:
    """The limit for one whole answer, counted from its request on; it ends whichever wait for bytes it finds."""

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        self._over = False
        self._wait: tuple[Interruption, Callable[[], Exception]] | None = None
        self._place = limit.start(self._pass)

    def watch(self, wait: Interruption, error: Callable[[], Exception]) -> None:
        """End ``wait`` with ``error()`` once the limit has passed, at once where it has."""
        self._wait = (wait, error)
        if self._over:
            self._pass()

    def stop(self) -> None:
        """The answer is over. The last wait is forgotten, which would hold it and be held by it."""
        self._limit.stop(self._place)
        self._wait = None

    def _pass(self) -> None:
        self._over = True
        if self._wait is not None:
            wait, error = self._wait
            wait.interrupt(error)


@dataclass(slots=True)
class _Attempt:
    """What is learnt of a request on its way: whether a connection was opened for it."""

    connected: bool = False


# Where a socket is made, aiohttp no longer says for which request; its tracing would, and costs more than all time
# limits together.
_attempt: ContextVar[_Attempt] = ContextVar("attempt")


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    _attempt.get().connected = True
    family, kind, protocol, _, _ = address
    return socket.socket(family, kind, protocol)


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

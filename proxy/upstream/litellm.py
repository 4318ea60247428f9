"""Providers that do not speak OpenAI's wire, through litellm.

Imported only where an upstream is of kind litellm. Requests are translated, so no byte identity is promised; what a
provider says about a refusal is, and so is its status (docs/providers.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from time import perf_counter
from typing import NoReturn

import httpx

from proxy.answers import DONE
from proxy.errors import (
    UpstreamBroke,
    UpstreamConnectTimedOut,
    UpstreamError,
    UpstreamTimedOut,
    UpstreamUnreachable,
    error_body,
)
from proxy.metrics import Metrics
from proxy.readiness import MODELS_PATH
from proxy.settings.upstream import Provider, UpstreamSettings
from proxy.stream import SseEvent
from proxy.upstream.litellm_errors import about_credentials, described, root_of, status_of
from proxy.upstream.litellm_library import Answer, AnswerStream, Library
from proxy.upstream.protocol import UpstreamResponse
from proxy.upstream.provider_transport import WatchedTransport
from proxy.upstream.provider_wire import ProviderWire
from proxy.upstream.translation import (
    StreamTranslation,
    Untranslatable,
    completion,
    completion_arguments,
    finishes,
    provider_error,
)
from proxy.wires.chat import CHAT

logger = logging.getLogger(__name__)

# These take their credentials from the environment (AWS, Google Cloud), never from a client.
_SIGNED = frozenset({Provider.BEDROCK, Provider.VERTEX_AI})
_RELAYED_HEADERS = ("retry-after", "retry-after-ms")
_RELAYED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
_CLOSE_WITHIN_S = 5.0


class WholeResponse:
    """Implements ``UpstreamResponse`` over bytes that are all there."""

    def __init__(self, status: int, payload: Mapping[str, object], headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": "application/json", **(headers or {})}
        self._rest = json.dumps(payload).encode()  # ASCII, as in `proxy.choice_bytes`

    async def next_chunk(self) -> bytes:
        """Return the body, then ``b""``."""
        chunk, self._rest = self._rest, b""
        return chunk

    async def close(self) -> None:
        """Do nothing: there is no connection left."""


class LitellmUpstream:
    """Implements ``Upstream``. Must be made inside a running event loop and closed in the same one."""

    def __init__(self, settings: UpstreamSettings, metrics: Metrics) -> None:
        assert settings.provider is not None
        self.settings = settings
        self._provider = settings.provider
        self._metrics = metrics
        self._library = Library(settings.provider)
        self._shared = httpx.AsyncHTTPTransport(
            # No limit of its own, as in `proxy.upstream.http`: `proxy.upstream.admission` has one.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=settings.keepalive_s)
        )

    @property
    def address(self) -> str:
        """The provider and, where it was given, its address."""
        return f"{self._provider} ({self.settings.provider_url})" if self.settings.provider_url else str(self._provider)

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> UpstreamResponse:
        """Ask the provider for a completion, or answer a list of models from the settings; other paths are a 404."""
        if (method, path) == ("GET", MODELS_PATH):
            return WholeResponse(
                200, {"object": "list", "data": [_model(name, self._provider) for name in self.settings.models]}
            )
        if method == "GET" and (name := path.removeprefix(f"{MODELS_PATH}/")) in self.settings.models:
            return WholeResponse(200, _model(name, self._provider))
        if (method, path) != ("POST", CHAT.path):
            message = f"{method} {path} is not translated for {self.address}; POST {CHAT.path} is"
            return WholeResponse(404, error_body(message, "invalid_request_error", "path_not_translated"))
        try:
            arguments = completion_arguments(body)
        except Untranslatable as error:
            return WholeResponse(400, error.body)
        api_key = self._api_key(headers)
        if api_key is None and self._provider not in _SIGNED:
            message = f"no key for {self.address}; send one as `Authorization: Bearer …`, or set upstream.api_key"
            return WholeResponse(401, error_body(message, "authentication_error", "missing_api_key"))
        started = perf_counter()
        try:
            response = await self._complete(arguments, api_key)
        except UpstreamError as error:
            self.count(error)
            raise
        self._metrics.upstream_seconds.labels(purpose).observe(perf_counter() - started)
        return response

    async def close(self) -> None:
        """Close all connections."""
        await self._shared.aclose()

    def count(self, error: UpstreamError) -> None:
        """Count a failure."""
        self._metrics.upstream_errors.labels(error.code).inc()

    def late(self, what: str) -> UpstreamTimedOut:
        """Describe a time limit that passed."""
        return UpstreamTimedOut(f"the provider {self.address} {what}")

    def broke(self, what: str) -> UpstreamBroke:
        """Describe an answer that ended in the middle."""
        return UpstreamBroke(f"the provider {self.address} stopped in the middle of its answer ({what})")

    def raise_for(self, error: Exception, wire: ProviderWire) -> NoReturn:
        """Raise the ``UpstreamError`` of an exchange that has no answer, or only a part of one.

        litellm's own words are in none of them: they quote requests, answers and files of ours.
        """
        if isinstance(wire.failure, httpx.ConnectTimeout):
            raise UpstreamConnectTimedOut(
                f"no connection to the provider {self.address} within {self.settings.connect_timeout_s:g} s "
                "(upstream.connect_timeout_s); check upstream.provider_url"
            ) from error
        if isinstance(wire.failure, httpx.TimeoutException):
            raise self.late(f"did not answer in time ({type(wire.failure).__name__})") from error
        what = root_of(error) if wire.failure is None else described(wire.failure)
        if wire.status is not None:
            raise self.broke(_said(wire) or what) from error
        raise UpstreamUnreachable(
            f"the provider {self.address} cannot be asked ({what}); check upstream.provider_url and the provider's "
            "credentials"
        ) from error

    def _api_key(self, headers: Mapping[str, str]) -> str | None:
        """Return the settings' key, or the client's; litellm would otherwise take one from the environment."""
        if self.settings.api_key is not None:
            return self.settings.api_key.get_secret_value()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else ""
        return given if given and self._provider not in _SIGNED else None

    async def _complete(self, arguments: Mapping[str, object], api_key: str | None) -> UpstreamResponse:
        wire = ProviderWire()
        transport = WatchedTransport(self._shared, wire, connect_timeout_s=self.settings.connect_timeout_s)
        deadline = asyncio.get_running_loop().time() + self.settings.total_timeout_s
        streamed = arguments.get("stream") is True
        limit, limit_s = "total_timeout_s", self.settings.total_timeout_s
        if streamed and self.settings.first_byte_timeout_s < limit_s:
            limit, limit_s = "first_byte_timeout_s", self.settings.first_byte_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                if streamed:
                    stream = await self._library.stream(arguments, self.settings, api_key, transport)
                    return await StreamedResponse.begun(stream, wire, transport, self, deadline)
                answer = await self._library.complete(arguments, self.settings, api_key, transport)
            payload = completion(answer.model_dump(exclude_none=True), wire)
            return WholeResponse(200, payload, _relayed(wire.headers))
        except TimeoutError as error:
            await transport.end()
            raise self.late(f"sent no answer within {limit_s:g} s (upstream.{limit})") from error
        except asyncio.CancelledError:
            await transport.end()
            raise
        except Exception as error:
            # litellm's errors have no root of their own, and what its translations raise besides is not bounded.
            await transport.end()
            return self._refused(error, wire)

    def _refused(self, error: Exception, wire: ProviderWire) -> WholeResponse:
        """Return the error answer of a provider, or of litellm where it would not translate; raises otherwise.

        What is not sent can only be the request's fault or that of credentials, whatever status litellm gives it. Of
        the first, only what litellm says on purpose is passed on (its 400): the rest is traces of its own code.
        """
        if wire.failure is None and wire.status is not None and wire.status != 200:
            status = wire.status if wire.status >= 400 else 502
            return WholeResponse(status, provider_error(wire, described(error)), _relayed(wire.headers))
        if wire.sent:
            self.raise_for(error, wire)
        if about_credentials(error):
            logger.warning("the provider %s cannot be asked: %s", self.address, described(error))
            self.raise_for(error, wire)
        why = described(error) if status_of(error) == 400 else "check the form of its messages and other fields"
        message = f"the request cannot be translated for {self.address}: {why}"
        return WholeResponse(400, error_body(message, "invalid_request_error", "untranslatable_request"))


class StreamedResponse:
    """Implements ``UpstreamResponse`` over litellm's stream, written anew as server-sent events."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        stream: AnswerStream,
        headers: Mapping[str, str],
        transport: WatchedTransport,
        upstream: LitellmUpstream,
        deadline: float,
    ) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8", **headers}
        self._chunks = chunks
        self._stream = stream
        self._transport = transport
        self._upstream = upstream
        self._deadline = deadline
        self._reading: asyncio.Task[bytes] | None = None
        self._ended = False

    @classmethod
    async def begun(
        cls,
        stream: AnswerStream,
        wire: ProviderWire,
        transport: WatchedTransport,
        upstream: LitellmUpstream,
        deadline: float,
    ) -> StreamedResponse:
        """Return the answer once its first chunk is there: some providers are asked only when that is read.

        Raises what litellm raises.
        """
        answers = aiter(stream)
        first = await anext(answers, None)
        events = _events(first, answers, wire, upstream)
        return cls(events, stream, _relayed(wire.headers), transport, upstream, deadline)

    async def next_chunk(self) -> bytes:
        """Return the next event's bytes, ``b""`` at the end.

        A read goes on in a task of its own, so that a caller may give up waiting for it and come back: to cancel
        litellm's generators would end them.
        """
        if self._ended:
            return b""
        if self._reading is None:
            self._reading = asyncio.create_task(_next(self._chunks))
        left_s = self._deadline - asyncio.get_running_loop().time()
        idle_s = self._upstream.settings.idle_timeout_s
        done, _ = await asyncio.wait({self._reading}, timeout=max(0.0, min(left_s, idle_s)))
        try:
            if not done:
                total_s = self._upstream.settings.total_timeout_s
                raise self._upstream.late(
                    f"sent nothing for {idle_s:g} s (upstream.idle_timeout_s)"
                    if idle_s < left_s
                    else f"took longer than {total_s:g} s (upstream.total_timeout_s)"
                )
            reading, self._reading = self._reading, None
            chunk = reading.result()
        except UpstreamError as error:
            self._ended = True
            self._upstream.count(error)
            raise
        self._ended = not chunk
        return chunk

    async def close(self) -> None:
        """End the read that is under way and the connection, whether or not bytes are left."""
        self._ended = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading}, timeout=_CLOSE_WITHIN_S)
        await self._transport.end()
        with suppress(Exception):  # the connection is gone; what litellm makes of that concerns nobody
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self._chunks.aclose()
                await self._stream.aclose()


async def _events(
    first: Answer | None, rest: AsyncIterator[Answer], wire: ProviderWire, upstream: LitellmUpstream
) -> AsyncGenerator[bytes, None]:
    """Yield a stream's events; raises an ``UpstreamError`` where it breaks."""
    translation = StreamTranslation(wire)
    answer = first
    try:
        while answer is not None:
            chunk = translation.chunk(answer.model_dump(exclude_none=True))
            if finishes(chunk) and wire.cut_off:
                # litellm ends a stream that broke off with "stop", as if the model had come to its end.
                raise upstream.broke(_said(wire) or "the stream was cut off")
            yield SseEvent(json.dumps(chunk)).encode()
            answer = await anext(rest, None)
    except UpstreamError:
        raise
    except Exception as error:
        # As for whole answers: litellm may raise anything.
        upstream.raise_for(error, wire)
    if wire.cut_off:
        raise upstream.broke(_said(wire) or "the stream was cut off")
    yield SseEvent(DONE).encode()


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks, b"")


def _model(name: str, provider: Provider) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": str(provider)}


def _relayed(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the provider's headers that say when and how much may be asked."""
    return {
        name: value for name, value in headers.items() if name in _RELAYED_HEADERS or name.startswith(_RELAYED_PREFIXES)
    }


def _said(wire: ProviderWire) -> str:
    message = None if wire.error is None else wire.error.get("message")
    return message if isinstance(message, str) else ""

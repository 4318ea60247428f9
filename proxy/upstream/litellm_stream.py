"""litellm's stream of a provider's answer, written anew as server-sent events.

Imported only where an upstream is of kind litellm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress

from proxy.answers import DONE
from proxy.errors import UpstreamError
from proxy.settings.upstream import UpstreamSettings
from proxy.stream import SseEvent
from proxy.upstream.litellm_failures import Failures
from proxy.upstream.litellm_library import Answer, AnswerStream
from proxy.upstream.provider_transport import WatchedTransport
from proxy.upstream.provider_wire import ProviderWire
from proxy.upstream.translation import StreamTranslation, finishes

__all__ = ["StreamedResponse"]

_CLOSE_WITHIN_S = 5.0


class StreamedResponse:
    """Implements ``UpstreamResponse`` over litellm's stream, written anew as server-sent events."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        stream: AnswerStream,
        headers: Mapping[str, str],
        transport: WatchedTransport,
        settings: UpstreamSettings,
        failures: Failures,
        deadline: float,
    ) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8", **headers}
        self._chunks = chunks
        self._stream = stream
        self._transport = transport
        self._settings = settings
        self._failures = failures
        self._deadline = deadline
        self._reading: asyncio.Task[bytes] | None = None
        self._ended = False

    @classmethod
    async def begun(
        cls,
        stream: AnswerStream,
        wire: ProviderWire,
        transport: WatchedTransport,
        settings: UpstreamSettings,
        failures: Failures,
        deadline: float,
    ) -> StreamedResponse:
        """Return the answer once its first chunk is there: some providers are asked only when that is read.

        Raises what litellm raises.
        """
        answers = aiter(stream)
        first = await anext(answers, None)
        events = _events(first, answers, wire, failures)
        return cls(events, stream, wire.relayed_headers, transport, settings, failures, deadline)

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
        idle_s = self._settings.idle_timeout_s
        done, _ = await asyncio.wait({self._reading}, timeout=max(0.0, min(left_s, idle_s)))
        try:
            if not done:
                total_s = self._settings.total_timeout_s
                raise self._failures.late(
                    f"sent nothing for {idle_s:g} s (upstream.idle_timeout_s)"
                    if idle_s < left_s
                    else f"took longer than {total_s:g} s (upstream.total_timeout_s)"
                )
            reading, self._reading = self._reading, None
            chunk = reading.result()
        except UpstreamError as error:
            self._ended = True
            self._failures.count(error)
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
    first: Answer | None, rest: AsyncIterator[Answer], wire: ProviderWire, failures: Failures
) -> AsyncGenerator[bytes, None]:
    """Yield a stream's events; raises an ``UpstreamError`` where it breaks."""
    translation = StreamTranslation(wire)
    answer = first
    try:
        while answer is not None:
            chunk = translation.chunk(answer.model_dump(exclude_none=True))
            if finishes(chunk) and wire.cut_off:
                # litellm ends a stream that broke off with "stop", as if the model had come to its end.
                raise failures.broke(wire, "the stream was cut off")
            yield SseEvent(json.dumps(chunk)).encode()
            answer = await anext(rest, None)
    except UpstreamError:
        raise
    except Exception as error:
        # As for whole answers: litellm may raise anything.
        failures.raise_for(error, wire)
    if wire.cut_off:
        raise failures.broke(wire, "the stream was cut off")
    yield SseEvent(DONE).encode()


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks, b"")

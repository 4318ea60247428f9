"""The request loop: observe, decide, act.

`Gate.answer` sends a request upstream and returns the reply. What it changes is only ever the body of a refusal that
was recovered; every other byte is the upstream's. Streams that are held back are `proxy.held_streams`'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from proxy.answers import StreamReader, read_completion
from proxy.errors import UpstreamError, error_event
from proxy.exchange import Action, ChatRequest, Mode, Reply
from proxy.headers import returned_headers
from proxy.held_streams import HeldStreams
from proxy.ledger import UNREAD, Ledger, Outcome
from proxy.recovery import COMPLETIONS_PATH, Recovery, untouched
from proxy.signals import Observer
from proxy.upstream.protocol import Upstream, UpstreamResponse, read_up_to

_EVENT_STREAM = "text/event-stream"


@dataclass(slots=True)
class _Watched:
    """What became of a stream while it was relayed."""

    size: int = 0
    last: bytes = b""
    failed: bool = False


class Gate:
    """Answers chat completions."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        observer: Observer,
        recovery: Recovery,
        ledger: Ledger,
        held: HeldStreams,
        judged_bytes: int,
    ) -> None:
        self._upstream = upstream
        self._observer = observer
        self._recovery = recovery
        self._ledger = ledger
        self._held = held
        self._judged_bytes = judged_bytes

    async def answer(self, request: ChatRequest, stack: AsyncExitStack) -> Reply:
        """Send ``request`` upstream and return the reply; what must be closed after it is put on ``stack``.

        Raises an ``UpstreamError`` where the upstream gave no answer at all.
        """
        self._recovery.budget.earn()
        response = await self._upstream.send(
            "POST", COMPLETIONS_PATH, headers=request.headers, body=request.body, purpose="client"
        )
        stack.push_async_callback(response.close)
        streamed = response.headers.get("content-type", "").lower().startswith(_EVENT_STREAM)
        if request.mode is Mode.OFF:
            return self._relayed(request, response, Action.OFF)
        if response.status != 200:
            return self._relayed(request, response, Action.UPSTREAM_ERROR)
        if streamed is not request.stream or response.headers.get("content-encoding", "identity") != "identity":
            return self._relayed(request, response, Action.UNJUDGED)
        if not streamed:
            return await self._whole(request, response)
        if self._held.recoverable(request):
            language = self._observer.language(request)
            if self._held.worth_holding(language):
                return await self._held.answer(request, response, language, stack)
        return self._watched(request, response)

    def _relayed(self, request: ChatRequest, response: UpstreamResponse, action: Action) -> Reply:
        """Relay bytes as they arrive, unjudged."""
        own = self._ledger.headers(request, action, attempts=0, zone=None if action is Action.OFF else UNREAD)
        headers = returned_headers(response.headers, own)
        if (length := response.headers.get("content-length")) is not None:
            headers["content-length"] = length

        async def counted() -> None:
            self._ledger.count(request, action)

        return Reply(response.status, headers, _rest_of(b"", response), counted)

    async def _whole(self, request: ChatRequest, response: UpstreamResponse) -> Reply:
        body, whole = await read_up_to(response, self._judged_bytes)
        answer = read_completion(body) if whole else None
        if answer is None:
            self._ledger.count(request, Action.UNJUDGED)
            own = self._ledger.headers(request, Action.UNJUDGED, zone=UNREAD, attempts=0)
            return Reply(
                response.status, returned_headers(response.headers, own), body if whole else _rest_of(body, response)
            )
        signals = await self._observer.signals(request, answer)
        recovered = await self._recovery.run(request, signals)
        outcome = Outcome(signals, recovered)
        self._ledger.record(request, outcome, answer)
        headers = returned_headers(response.headers, self._ledger.outcome_headers(request, outcome))
        if outcome.action is Action.RECOVERED and recovered.body is not None:
            body = recovered.body
        return Reply(response.status, headers, body)

    def _watched(self, request: ChatRequest, response: UpstreamResponse) -> Reply:
        """Relay a stream as it arrives, and judge it once the client has it."""
        reader = StreamReader()
        state = _Watched()

        async def relay() -> AsyncGenerator[bytes, None]:
            try:
                while chunk := await response.next_chunk():
                    state.last = chunk
                    state.size += len(chunk)
                    if state.size <= self._judged_bytes:
                        reader.feed(chunk)
                    yield chunk
            except UpstreamError as error:
                state.failed = True
                yield error_event(error.body(), state.last)

        async def judge() -> None:
            if state.failed or reader.failed:
                self._ledger.count(request, Action.FAILED)
            elif state.size > self._judged_bytes:
                self._ledger.count(request, Action.UNJUDGED)
            else:
                answer = reader.answer()
                signals = await self._observer.signals(request, answer)
                outcome = Outcome(signals, untouched("the stream was relayed as it arrived"))
                self._ledger.record(request, outcome, answer)

        own = self._ledger.headers(request, Action.OBSERVING, zone=UNREAD, attempts=0)
        return Reply(response.status, returned_headers(response.headers, own), relay(), judge)


async def _rest_of(first: bytes, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
    """Yield ``first``, then the rest as it arrives.

    A failure ends an event stream with an error event; elsewhere it is raised, so that the client sees a body cut short
    instead of one that seems whole.
    """
    last = first
    if first:
        yield first
    try:
        while chunk := await response.next_chunk():
            last = chunk
            yield chunk
    except UpstreamError as error:
        if not response.headers.get("content-type", "").lower().startswith(_EVENT_STREAM):
            raise
        yield error_event(error.body(), last)

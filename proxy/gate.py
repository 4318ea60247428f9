"""The request loop: observe, decide, act.

`Gate.answer` sends a request upstream and returns the reply. What it changes is only ever the body of a refusal that
was recovered, or of a request that mode steer steered at once; every other byte is the upstream's. Streams that are
held back are `proxy.held_streams`'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from proxy.answers import FILTERED, ChatAnswer, StreamReader, is_filter_error, read_choices, together
from proxy.choice_recovery import ChoiceRecovery
from proxy.errors import UpstreamError
from proxy.exchange import Action, ChatRequest, Mode, Reply
from proxy.headers import returned_headers
from proxy.held_streams import HeldStreams
from proxy.ledger import UNREAD, Ledger, Outcome
from proxy.recovery import Recovery, untouched
from proxy.shadow import Shadow
from proxy.signals import Observer, Signals
from proxy.steer_first import Before, SteerFirst
from proxy.upstream.protocol import Upstream, UpstreamResponse, read_up_to

_EVENT_STREAM = "text/event-stream"
_SHADOWED = "mode shadow delivers the original"


@dataclass(slots=True)
class _Watched:
    """What became of a stream while it was relayed."""

    size: int = 0
    last: bytes = b""
    failed: bool = False


class Gate:
    """Answers requests to the APIs whose answers are judged."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        observer: Observer,
        recovery: Recovery,
        choices: ChoiceRecovery,
        ledger: Ledger,
        held: HeldStreams,
        steer_first: SteerFirst,
        shadow: Shadow,
        judged_bytes: int,
    ) -> None:
        self._upstream = upstream
        self._observer = observer
        self._recovery = recovery
        self._choices = choices
        self._ledger = ledger
        self._held = held
        self._steer_first = steer_first
        self._shadow = shadow
        self._judged_bytes = judged_bytes

    async def answer(self, request: ChatRequest, stack: AsyncExitStack) -> Reply:
        """Send ``request`` upstream and return the reply; what must be closed after it is put on ``stack``.

        Raises an ``UpstreamError`` where the upstream gave no answer at all.
        """
        self._recovery.earn(request)
        before = Before(request)
        if request.mode is Mode.STEER:
            steered = await self._steer_first.answer(request)
            if isinstance(steered, Reply):
                return steered
            before, request = steered, steered.request
        response = await self._upstream.send(
            "POST", request.wire.path, headers=request.headers, body=request.body, purpose="client"
        )
        stack.push_async_callback(response.close)
        streamed = response.headers.get("content-type", "").lower().startswith(_EVENT_STREAM)
        if request.mode is Mode.OFF:
            return await self._relayed(before, response, Action.OFF)
        if response.status == 400:
            return await self._rejected(before, response)
        if response.status != 200:
            return await self._relayed(before, response, Action.UPSTREAM_ERROR)
        if streamed is not request.stream or response.headers.get("content-encoding", "identity") != "identity":
            return await self._relayed(before, response, Action.UNJUDGED)
        if not streamed:
            return await self._whole(before, response)
        if self._held.recoverable(request):
            language = self._observer.language(request)
            if self._held.worth_holding(request, language):
                return await self._held.answer(request, response, language, stack)
        return self._watched(request, response)

    async def _relayed(self, before: Before, response: UpstreamResponse, action: Action) -> Reply:
        """Relay bytes as they arrive, unjudged; a body that comes in one piece goes out in one."""
        request = before.request
        zone = None if action is Action.OFF else UNREAD
        own = self._ledger.headers(request, action, attempts=len(before.attempts), zone=zone)
        headers = returned_headers(response.headers, own)
        state = _Watched()
        counted = self._counted(request, action, state)
        length = response.headers.get("content-length")
        if length is None:
            return Reply(response.status, headers, _rest_of(request, b"", response, state), counted)
        first = await response.next_chunk()
        if length == str(len(first)):
            await response.next_chunk()  # its end, which is there already: an answer counts as whole where it was seen
            return Reply(response.status, headers, first, counted)
        headers["content-length"] = length
        return Reply(response.status, headers, _rest_of(request, first, response, state), counted)

    def _counted(self, request: ChatRequest, action: Action, state: _Watched) -> Callable[[], Awaitable[None]]:
        """Return what counts an unjudged answer once it was sent: as failed where it broke on the way."""

        async def count() -> None:
            self._ledger.count(request, Action.FAILED if state.failed else action)

        return count

    async def _rejected(self, before: Before, response: UpstreamResponse) -> Reply:
        """Relay an error of the request; one that a provider's content filter made is a refusal and counted as one."""
        request = before.request
        body, whole = await read_up_to(response, self._judged_bytes)
        if not whole:
            return self._not_whole(before, response, body, Action.UPSTREAM_ERROR)
        if is_filter_error(body):
            signals = await self._observer.signals(request, FILTERED, before.boundary)
            outcome = Outcome(signals, untouched("the provider's filter answered with an error", before.attempts))
            self._ledger.record(request, outcome, FILTERED)
            own = self._ledger.outcome_headers(request, outcome)
        else:
            self._ledger.count(request, Action.UPSTREAM_ERROR)
            attempts = len(before.attempts)
            own = self._ledger.headers(request, Action.UPSTREAM_ERROR, zone=UNREAD, attempts=attempts)
        return Reply(response.status, returned_headers(response.headers, own), body)

    def _not_whole(self, before: Before, response: UpstreamResponse, begun: bytes, action: Action) -> Reply:
        """Relay an answer that is too long to judge, of which ``begun`` was read."""
        request, state = before.request, _Watched()
        own = self._ledger.headers(request, action, zone=UNREAD, attempts=len(before.attempts))
        rest = _rest_of(request, begun, response, state)
        headers = returned_headers(response.headers, own)
        return Reply(response.status, headers, rest, self._counted(request, action, state))

    async def _whole(self, before: Before, response: UpstreamResponse) -> Reply:
        request = before.request
        body, whole = await read_up_to(response, self._judged_bytes)
        if not whole:
            return self._not_whole(before, response, body, Action.UNJUDGED)
        choices = read_choices(body, request.wire.gather(request.payload))
        if not choices:
            self._ledger.count(request, Action.UNJUDGED)
            attempts = len(before.attempts)
            own = self._ledger.headers(request, Action.UNJUDGED, zone=UNREAD, attempts=attempts)
            return Reply(response.status, returned_headers(response.headers, own), body)
        answer = together(choices)
        signals = await self._observer.signals(request, answer, before.boundary)
        if request.mode is Mode.SHADOW:
            return self._shadowed(request, response, signals, body, choices)
        refused = self._choices.refused(choices, signals)
        recoveries = await self._choices.run(request, signals, refused, before.attempts)
        recovered = self._choices.merged(request, body, choices, recoveries)
        outcome = Outcome(signals, recovered)
        self._ledger.record(request, outcome, answer)
        headers = returned_headers(response.headers, self._ledger.outcome_headers(request, outcome))
        if recovered.body is not None and outcome.action is Action.RECOVERED:
            body = recovered.body
        return Reply(response.status, headers, body)

    def _shadowed(
        self,
        request: ChatRequest,
        response: UpstreamResponse,
        signals: Signals,
        body: bytes,
        choices: Mapping[int, ChatAnswer],
    ) -> Reply:
        """Return the original, and recover once the client has it."""
        outcome = Outcome(signals, untouched(_SHADOWED))
        self._ledger.record(request, outcome, together(choices))
        headers = returned_headers(response.headers, self._ledger.outcome_headers(request, outcome))

        async def recover() -> None:
            self._shadow.start(request, signals, choices)

        return Reply(response.status, headers, body, recover)

    def _watched(self, request: ChatRequest, response: UpstreamResponse) -> Reply:
        """Relay a stream as it arrives, and judge it once the client has it."""
        reader = StreamReader(request.wire.gather(request.payload))
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
                yield request.wire.error_event(error.body(), state.last)

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
                self._shadow.start(request, signals, reader.choices())

        own = self._ledger.headers(request, Action.OBSERVING, zone=UNREAD, attempts=0)
        return Reply(response.status, returned_headers(response.headers, own), relay(), judge)


async def _rest_of(
    request: ChatRequest, first: bytes, response: UpstreamResponse, state: _Watched
) -> AsyncGenerator[bytes, None]:
    """Yield ``first``, then the rest as it arrives.

    A failure ends an event stream with an error event, and ``state`` says so; elsewhere it is raised, so that the
    client sees a body cut short instead of one that seems whole.
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
        state.failed = True
        yield request.wire.error_event(error.body(), last)

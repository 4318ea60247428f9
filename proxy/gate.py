"""The request loop: observe, decide, act.

`Gate.answer` sends a request upstream and returns the reply. What it changes is only ever the body of a refusal that
was recovered; every other byte is the upstream's. Streams that are held back are `proxy.held_gate`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from detectors.verdict import RefusalKind, Zone
from proxy.answers import ChatAnswer, RefusalForm, StreamReader, read_completion
from proxy.audit import Audit
from proxy.errors import UpstreamError, error_event
from proxy.exchange import Action, ChatRequest, Mode, Reply
from proxy.headers import (
    ACTION_HEADER,
    ATTEMPTS_HEADER,
    REFUSAL_HEADER,
    REQUEST_ID_HEADER,
    ZONE_HEADER,
    returned_headers,
)
from proxy.metrics import Metrics
from proxy.policy import AttemptState, Deliver, Recover, action_of, decide, zone_matters
from proxy.recovery import COMPLETIONS_PATH, Recovered, Recovery
from proxy.settings import Settings
from proxy.signals import Observer, Signals
from proxy.upstream.protocol import Upstream, UpstreamResponse, read_up_to

EVENT_STREAM = "text/event-stream"
UNREAD = "unread"
_KINDS = {Zone.BENIGN: "over", Zone.HARMFUL: "warranted", Zone.BAND: "unknown", Zone.UNKNOWN: "unknown"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an exchange ended: the facts, the decision, what was tried and the word for it."""

    signals: Signals
    recovered: Recovered
    action: Action


class Ledger:
    """Writes down what happened: metrics, audit row, and the proxy's own response headers."""

    def __init__(self, metrics: Metrics, audit: Audit | None) -> None:
        self._metrics = metrics
        self._audit = audit

    def headers(
        self,
        request: ChatRequest,
        action: Action,
        *,
        zone: str | None = None,
        refusal: RefusalKind | None = None,
        attempts: int | None = None,
    ) -> dict[str, str]:
        """Return the proxy's own headers; what is not known when the headers leave is left out. Never a distance."""
        headers = {ACTION_HEADER: str(action), REQUEST_ID_HEADER: request.request_id}
        if zone is not None:
            headers[ZONE_HEADER] = zone
        if refusal is not None:
            headers[REFUSAL_HEADER] = str(refusal)
        if attempts is not None:
            headers[ATTEMPTS_HEADER] = str(attempts)
        return headers

    def outcome_headers(self, request: ChatRequest, outcome: Outcome) -> dict[str, str]:
        """Return the headers of an exchange whose outcome is known."""
        signals = outcome.signals
        return self.headers(
            request,
            outcome.action,
            zone=UNREAD if signals.boundary is None else str(signals.zone),
            refusal=None if signals.refusal is None else signals.refusal.kind,
            attempts=len(outcome.recovered.attempts.made),
        )

    def count(self, request: ChatRequest, action: Action) -> None:
        """Count an exchange that was not judged."""
        self._metrics.requests.labels(action, request.mode).inc()

    def record(self, request: ChatRequest, outcome: Outcome, original: ChatAnswer) -> None:
        """Count a judged exchange and write its audit row if it was flagged."""
        signals = outcome.signals
        self.count(request, outcome.action)
        if signals.boundary is not None:
            self._metrics.zones.labels(signals.zone).inc()
        if not signals.refused:
            return
        if signals.form is RefusalForm.TEXT:
            self._metrics.refusals.labels(_KINDS[signals.zone], signals.language).inc()
        else:
            self._metrics.typed_refusals.labels(signals.form).inc()
        if self._audit is not None:
            self._audit.write(
                request,
                signals,
                outcome.recovered.decision,
                outcome.recovered.attempts,
                outcome.action,
                original="\n".join(original.texts),
                delivered=outcome.recovered.text if outcome.action is Action.RECOVERED else "\n".join(original.texts),
            )


class Gate:
    """Answers chat completions."""

    def __init__(
        self,
        settings: Settings,
        *,
        upstream: Upstream,
        observer: Observer,
        recovery: Recovery,
        ledger: Ledger,
        held: HeldStreams,
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._observer = observer
        self._recovery = recovery
        self._ledger = ledger
        self._held = held

    async def answer(self, request: ChatRequest, stack: AsyncExitStack) -> Reply:
        """Send ``request`` upstream and return the reply; what must be closed after it is put on ``stack``.

        Raises an ``UpstreamError`` where the upstream gave no answer at all.
        """
        self._recovery.budget.earn()
        response = await self._upstream.send(
            "POST", COMPLETIONS_PATH, headers=request.headers, body=request.body, purpose="client"
        )
        stack.push_async_callback(response.close)
        streamed = response.headers.get("content-type", "").lower().startswith(EVENT_STREAM)
        if request.mode is Mode.OFF:
            return self._relayed(request, response, Action.OFF)
        if response.status != 200:
            return self._relayed(request, response, Action.UPSTREAM_ERROR)
        if streamed is not request.stream or response.headers.get("content-encoding", "identity") != "identity":
            return self._relayed(request, response, Action.UNJUDGED)
        if not streamed:
            return await self._whole(request, response)
        language = self._observer.language(request)
        if self._held.worth_holding(request, language):
            return await self._held.answer(request, response, language, stack)
        return self._watched(request, response, language)

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
        body, whole = await read_up_to(response, self._settings.limits.max_judged_bytes)
        answer = read_completion(body) if whole else None
        if answer is None:
            self._ledger.count(request, Action.UNJUDGED)
            own = self._ledger.headers(request, Action.UNJUDGED, zone=UNREAD, attempts=0)
            return Reply(
                response.status, returned_headers(response.headers, own), body if whole else _rest_of(body, response)
            )
        signals = await observe(self._observer, request, answer, self._observer.language(request))
        recovered = await self._recovery.run(request, signals)
        outcome = Outcome(signals, recovered, action_of(signals, recovered.decision, recovered.attempts))
        self._ledger.record(request, outcome, answer)
        headers = returned_headers(response.headers, self._ledger.outcome_headers(request, outcome))
        if outcome.action is Action.RECOVERED and recovered.body is not None:
            body = recovered.body
        return Reply(response.status, headers, body)

    def _watched(self, request: ChatRequest, response: UpstreamResponse, language: str) -> Reply:
        """Relay a stream as it arrives, and judge it once the client has it."""
        reader = StreamReader()
        state = _Watched()
        limit = self._settings.limits.max_judged_bytes

        async def relay() -> AsyncIterator[bytes]:
            try:
                while chunk := await response.next_chunk():
                    state.size += len(chunk)
                    if state.size <= limit:
                        reader.feed(chunk)
                    yield chunk
            except UpstreamError as error:
                state.failed = True
                yield error_event(error.body())

        async def judge() -> None:
            if state.failed or reader.failed:
                self._ledger.count(request, Action.FAILED)
            elif state.size > limit:
                self._ledger.count(request, Action.UNJUDGED)
            else:
                answer = reader.answer()
                signals = await observe(self._observer, request, answer, language)
                recovered = untouched(signals, "the stream was relayed as it arrived")
                action = action_of(signals, recovered.decision, recovered.attempts)
                self._ledger.record(request, Outcome(signals, recovered, action), answer)

        own = self._ledger.headers(request, Action.OBSERVING, zone=UNREAD, attempts=0)
        return Reply(response.status, returned_headers(response.headers, own), relay(), judge)


@dataclass(slots=True)
class _Watched:
    size: int = 0
    failed: bool = False


async def observe(observer: Observer, request: ChatRequest, answer: ChatAnswer, language: str) -> Signals:
    """Gather the facts about an exchange; the request's zone is read only where it matters."""
    ...

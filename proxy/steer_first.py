"""Mode steer, before the first token: read the boundary, and send what the model is about to over-refuse steered.

The steered answer is checked like every attempt. One that fails is dropped: the request then goes upstream as it came,
and what was tried counts towards its limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from detectors.verdict import BoundaryReading, RefusalKind, RefusalVerdict, Zone
from proxy.answers import ChatAnswer, RefusalForm
from proxy.budgets import Spent
from proxy.exchange import ChatRequest, Reply
from proxy.headers import returned_headers
from proxy.ledger import Ledger, Outcome
from proxy.metrics import Metrics
from proxy.policy import (
    Answer,
    Attempt,
    AttemptResult,
    AttemptState,
    Deliver,
    FirstDecision,
    Send,
    Unsteered,
    decide_first,
    unsteerable,
)
from proxy.recovery import Recovered, Recovery
from proxy.signals import Observer, Signals

_ANSWERS = RefusalVerdict(RefusalKind.ANSWER, 0.0, "the steered answer passed its checks")


@dataclass(frozen=True, slots=True)
class Before:
    """What is known of a request before it goes upstream as it came.

    ``boundary`` is its reading and ``attempts`` what was tried, where mode steer did so; ``request`` says why it is
    not steered.
    """

    request: ChatRequest
    boundary: BoundaryReading | None = None
    attempts: tuple[Attempt, ...] = ()


class SteerFirst:
    """Answers requests steered, or says what was found out on the way."""

    def __init__(self, *, observer: Observer, recovery: Recovery, ledger: Ledger, metrics: Metrics) -> None:
        self._observer = observer
        self._recovery = recovery
        self._ledger = ledger
        self._metrics = metrics

    async def answer(self, request: ChatRequest) -> Reply | Before:
        """Return the reply of a request whose steered answer passed, else what to go on from."""
        language = self._observer.language(request)
        signals, decision = await self._decided(request, language)
        if isinstance(decision, Send):
            return self._unsteered(request, signals, decision.cause, decision.why)
        tried = await self._recovery.steer_first(request, signals)
        if isinstance(tried, Spent):
            return self._unsteered(request, signals, Unsteered.OVER_BUDGET, f"a budget is used up ({tried})")
        attempt = tried.attempt
        self._metrics.steered_first.labels(attempt.result).inc()
        if attempt.result is not AttemptResult.ANSWERED or tried.body is None:
            why = f"the steered answer did not pass ({attempt.result})"
            return Before(replace(request, unsteered=why), signals.boundary, (attempt,))
        signals = replace(signals, refusal=_ANSWERS)
        recovered = Recovered(Deliver(Answer.STEERED, decision.why), AttemptState((attempt,)), tried.body, tried.text)
        outcome = Outcome(signals, recovered)
        self._ledger.record(request, outcome, ChatAnswer((), RefusalForm.TEXT, called_tools=False, steered=True))
        return Reply(200, returned_headers(tried.headers, self._ledger.outcome_headers(request, outcome)), tried.body)

    async def _decided(self, request: ChatRequest, language: str) -> tuple[Signals, FirstDecision]:
        """Decide, reading the boundary only where that could make a difference."""
        ladder = self._recovery.ladder(request, language, Zone.BENIGN)
        signals = Signals(
            request.mode,
            RefusalForm.TEXT,
            None,
            None,
            language,
            request.observe_only,
            streamed=request.stream,
            choices=request.choices,
        )
        send = unsteerable(signals, ladder)
        if send is not None:
            return signals, send
        signals = replace(signals, boundary=await self._observer.boundary(request, language))
        return signals, decide_first(signals, ladder)

    def _unsteered(self, request: ChatRequest, signals: Signals, cause: Unsteered, why: str) -> Before:
        self._metrics.steered_first.labels(cause).inc()
        return Before(replace(request, unsteered=why), signals.boundary)

"""Recovery: attempts at a better answer, each bounded and each checked before it may be delivered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from detectors.bundle import Steering
from detectors.verdict import RefusalKind, Zone
from proxy.answers import ChatAnswer, RefusalForm, StreamReader, read_completion, stream_without_report, without_report
from proxy.errors import UpstreamError
from proxy.exchange import ChatRequest
from proxy.metrics import Metrics
from proxy.policy import Answer, Attempt, AttemptResult, AttemptState, Deliver, Recover, Step, decide
from proxy.settings import RecoverySettings
from proxy.signals import Observer, Signals
from proxy.steering import Dialect
from proxy.upstream.protocol import Upstream, read_up_to

COMPLETIONS_PATH = "/v1/chat/completions"
SteeringPlan = Callable[[str, Zone], Steering | None]
"""From a language and a zone to how to steer there, or ``None`` where that is not recovered (`Bundle.steering`)."""


class ShareBudget:
    """Bounds attempts as a share of ordinary requests: a token bucket that requests fill and attempts empty.

    Counted in requests, not in seconds: a flood of refusals earns no more attempts than its own share, however fast.
    """

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._tokens = float(burst)

    def earn(self) -> None:
        """Count one ordinary request."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def take(self) -> bool:
        """Take one attempt; False when none is left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class Recovered:
    """How a recovery ended: the last decision, what was tried, and the bytes of the answer if one was found.

    ``body`` is a whole completion, or a whole event stream where the client asked for one.
    """

    decision: Deliver
    attempts: AttemptState
    body: bytes | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)

    def instead(self, why: str) -> Recovered:
        """Return the same with the original delivered after all."""
        return replace(self, decision=Deliver(Answer.ORIGINAL, why))


def untouched(why: str) -> Recovered:
    """Return the outcome of an exchange for which nothing was tried."""
    return Recovered(Deliver(Answer.ORIGINAL, why), AttemptState())


@dataclass(frozen=True, slots=True)
class _Tried:
    result: AttemptResult
    body: bytes | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)


class Recovery:
    """Climbs the ladder that policy allows, within the budgets."""

    def __init__(
        self,
        settings: RecoverySettings,
        *,
        steered_upstream: Upstream,
        dialect: Dialect,
        plan: SteeringPlan,
        observer: Observer,
        metrics: Metrics,
        answer_limit_bytes: int,
        stream_limit_bytes: int,
    ) -> None:
        self._settings = settings
        self._steered_upstream = steered_upstream
        self._dialect = dialect
        self._plan = plan
        self._observer = observer
        self._metrics = metrics
        self._answer_limit_bytes = answer_limit_bytes
        self._stream_limit_bytes = stream_limit_bytes
        self.budget = ShareBudget(settings.max_upstream_share, settings.burst)

    def possible(self, language: str) -> bool:
        """Whether any zone of ``language`` has a step, and its answers could be checked."""
        zones = (Zone.BENIGN, Zone.BAND)
        return (
            self._dialect.can_steer
            and self._observer.can_recover
            and any(self._plan(language, zone) is not None for zone in zones)
        )

    def start(self, signals: Signals) -> AttemptState:
        """Return the state before any attempt: the ladder that exists for these signals, and the limit."""
        exists = self._dialect.can_steer and self._plan(signals.language, signals.zone) is not None
        return AttemptState(ladder=(Step.STEER,) if exists else (), limit=self._settings.max_attempts)

    async def run(self, request: ChatRequest, signals: Signals) -> Recovered:
        """Make attempts until policy says to deliver or a budget ends it; a failed attempt is data, not an error."""
        state = self.start(signals)
        started = perf_counter()
        tried = _Tried(AttemptResult.EMPTY)
        deadline = asyncio.get_running_loop().time() + self._settings.time_limit_s
        while True:
            decision = decide(signals, state)
            if isinstance(decision, Deliver):
                break
            if not self.budget.take():
                self._metrics.recoveries_over_budget.labels("upstream_share").inc()
                decision = decision.not_tried("the budget of attempts is used up")
                break
            try:
                async with asyncio.timeout_at(deadline):
                    tried = await self._attempt(request, signals, decision)
            except TimeoutError:
                self._metrics.recoveries_over_budget.labels("time").inc()
                tried = _Tried(AttemptResult.OUT_OF_TIME)
            self._metrics.recoveries.labels(decision.step, tried.result).inc()
            state = state.after(Attempt(decision.step, tried.result))
        if state.made:
            self._metrics.recovery_seconds.observe(perf_counter() - started)
        return Recovered(decision, state, tried.body, tried.text)

    async def _attempt(self, request: ChatRequest, signals: Signals, decision: Recover) -> _Tried:
        steering = self._plan(signals.language, signals.zone)
        if steering is None:
            return _Tried(AttemptResult.NOT_STEERED)
        steered = self._dialect.steered(request.payload, steering)
        if steered is None:
            return _Tried(AttemptResult.NOT_STEERED)
        # An attempt is a request of its own: with the client's idempotency key the engine could replay the refusal.
        headers = {name: value for name, value in request.headers.items() if name != "idempotency-key"}
        body = json.dumps(steered.payload).encode()
        try:
            response = await self._steered_upstream.send(
                "POST", COMPLETIONS_PATH, headers={**headers, **steered.headers}, body=body, purpose="attempt"
            )
            try:
                limit = self._stream_limit_bytes if request.stream else self._answer_limit_bytes
                body, whole = await read_up_to(response, limit)
            finally:
                await response.close()
        except UpstreamError:
            return _Tried(AttemptResult.UPSTREAM_FAILED)
        if response.status != 200 or not whole:
            return _Tried(AttemptResult.UPSTREAM_FAILED)
        answer = _read_stream(body) if request.stream else read_completion(body)
        if answer is None:
            return _Tried(AttemptResult.UPSTREAM_FAILED)
        result = await self._check(request, signals, answer)
        if result is not AttemptResult.ANSWERED:
            return _Tried(result)
        clean = stream_without_report(body) if request.stream else without_report(body)
        return _Tried(result, clean, answer.texts[0])

    async def _check(self, request: ChatRequest, signals: Signals, answer: ChatAnswer) -> AttemptResult:
        """Judge an attempt's answer: was it steered, is it an answer, and is that answer harmless?"""
        if not self._dialect.did_steer(answer):
            return AttemptResult.NOT_STEERED
        if answer.form is not RefusalForm.TEXT:
            return AttemptResult.STILL_REFUSED
        verdict = self._observer.refusal(answer)
        if verdict is None or answer.called_tools or len(answer.texts) != 1:
            return AttemptResult.UNCHECKED
        if verdict.kind is RefusalKind.EMPTY:
            return AttemptResult.EMPTY
        if verdict.kind is not RefusalKind.ANSWER:
            return AttemptResult.STILL_REFUSED
        harm = await self._observer.harm(
            request.messages, answer.texts[0], model=request.model, language=signals.language
        )
        if harm.harmful is None:
            return AttemptResult.UNCHECKED
        return AttemptResult.HARMFUL if harm.harmful else AttemptResult.ANSWERED


def _read_stream(body: bytes) -> ChatAnswer | None:
    """Read a whole streamed attempt; ``None`` where it failed or did not come to its end."""
    reader = StreamReader()
    reader.feed(body)
    return None if reader.failed or not reader.done else reader.answer()

"""Recovery: climbing the ladder that policy allows, within every budget, until an answer passes or nothing is left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from detectors.verdict import Zone
from proxy.attempts import Attempts, Tried
from proxy.budgets import Budgets, Spent
from proxy.exchange import ChatRequest
from proxy.ladder import Rules, Step
from proxy.metrics import Metrics
from proxy.policy import Answer, Attempt, AttemptResult, AttemptState, Deliver, Recover, decide
from proxy.settings.recovery import RecoverySettings
from proxy.signals import Observer, Signals
from proxy.steps import Steps


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


def untouched(why: str, before: tuple[Attempt, ...] = ()) -> Recovered:
    """Return the outcome of an exchange for which nothing more was tried than ``before``."""
    return Recovered(Deliver(Answer.ORIGINAL, why), AttemptState(before))


class Recovery:
    """Climbs the ladder that policy allows, within the budgets."""

    def __init__(
        self,
        settings: RecoverySettings,
        *,
        rules: Rules,
        steps: Steps,
        attempts: Attempts,
        budgets: Budgets,
        observer: Observer,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self.rules = rules
        self._steps = steps
        self._attempts = attempts
        self._budgets = budgets
        self._observer = observer
        self._metrics = metrics

    def earn(self, request: ChatRequest) -> None:
        """Count a client's request, which earns attempts."""
        self._budgets.earn(request.key_id)

    def possible(self, request: ChatRequest, language: str) -> bool:
        """Whether any zone of ``language`` has a step, and its answers could be checked."""
        zones = (Zone.BENIGN, Zone.BAND)
        return any(self.ladder(request, language, zone) for zone in zones)

    def ladder(self, request: ChatRequest, language: str, zone: Zone) -> tuple[Step, ...]:
        """Return the steps that exist; none where an attempt's answer could not be checked."""
        return self._steps.ladder(request, language, zone) if self._observer.can_recover else ()

    def wanted(self, request: ChatRequest, signals: Signals) -> bool:
        """Whether policy would have an attempt made."""
        return isinstance(decide(signals, self._start(request, signals, (), ()), self.rules), Recover)

    async def run(
        self,
        request: ChatRequest,
        signals: Signals,
        before: tuple[Attempt, ...] = (),
        *,
        others: tuple[Attempt, ...] = (),
    ) -> Recovered:
        """Make attempts until policy says to deliver or a budget ends it; a failed attempt is data, not an error.

        ``before`` are attempts that were already made at this answer, ``others`` those that were made at other choices
        of it; both count towards the request's limits.
        """
        state = self._start(request, signals, before, others)
        spent_s = sum(attempt.seconds for attempt in (*before, *others))
        spent_tokens = sum(attempt.tokens for attempt in others)
        deadline = asyncio.get_running_loop().time() + self._settings.time_limit_s - spent_s
        tried: Tried | None = None
        while True:
            decision = decide(signals, state, self.rules)
            if isinstance(decision, Deliver):
                break
            spent = self._over_budget(request, state.tokens + spent_tokens)
            if spent is not None:
                decision = decision.not_tried(f"a budget of recovery is used up ({spent})")
                break
            tried = await self._attempts.make(request, signals, decision.step, deadline=deadline)
            if not tried.attempt.sent:
                self._budgets.give_back(request.key_id)
            self._count(tried.attempt)
            state = state.after(tried.attempt)
        if len(state.made) > len(before):
            self._metrics.recovery_seconds.observe(state.seconds)
        if tried is None:
            return Recovered(decision, state)
        return Recovered(decision, state, tried.body, tried.text)

    async def steer_first(self, request: ChatRequest, signals: Signals) -> Tried | Spent:
        """Send a request steered before anything else, as one attempt; returns the budget that forbids it.

        An answer that passes takes the place of the request itself, so it is not charged; one that fails is.
        """
        spent = self._over_budget(request, 0)
        if spent is not None:
            return spent
        deadline = asyncio.get_running_loop().time() + self._settings.time_limit_s
        tried = await self._attempts.make(request, signals, Step.STEER, deadline=deadline)
        if tried.attempt.result is AttemptResult.ANSWERED or not tried.attempt.sent:
            self._budgets.give_back(request.key_id)
        else:
            self._count_tokens(tried.attempt)
        return tried

    def _start(
        self, request: ChatRequest, signals: Signals, before: tuple[Attempt, ...], others: tuple[Attempt, ...]
    ) -> AttemptState:
        """Return the state before any further attempt: the ladder that exists for these signals, and the limit."""
        ladder = self.ladder(request, signals.language, signals.zone)
        return AttemptState(before, ladder, self._settings.max_attempts - sum(attempt.sent for attempt in others))

    def _over_budget(self, request: ChatRequest, tokens: int) -> Spent | None:
        """Pay for one attempt after ``tokens`` were spent; returns, and counts, the budget that forbids it."""
        next_prompt = self._attempts.prompt_spending(request).tokens
        if tokens + next_prompt > self._settings.max_tokens:
            spent: Spent | None = Spent.TOKENS
        else:
            spent = self._budgets.take(request.key_id)
        if spent is not None:
            self._metrics.recoveries_over_budget.labels(spent).inc()
        return spent

    def _count(self, attempt: Attempt) -> None:
        if attempt.result is AttemptResult.OUT_OF_TIME:
            self._metrics.recoveries_over_budget.labels(Spent.TIME).inc()
        self._metrics.recoveries.labels(attempt.step, attempt.result).inc()
        self._count_tokens(attempt)

    def _count_tokens(self, attempt: Attempt) -> None:
        estimated = "true" if attempt.estimated else "false"
        self._metrics.recovery_tokens.labels(attempt.step, estimated).inc(attempt.tokens)

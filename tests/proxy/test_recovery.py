"""Recovery ends within every limit, whatever its attempts come to."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from detectors.verdict import BoundaryReading, RefusalKind, RefusalVerdict, Zone
from proxy.answers import RefusalForm
from proxy.attempts import Tried
from proxy.budgets import Budgets, KeyBudgets, ShareBudget
from proxy.exchange import ChatRequest, Mode
from proxy.ladder import Rules, Step
from proxy.metrics import Metrics
from proxy.policy import Answer, Attempt, AttemptResult
from proxy.recovery import Recovery
from proxy.settings.recovery import RecoverySettings
from proxy.signals import Signals
from proxy.usage import Spending

PROMPT_TOKENS = 5


class DrawnAttempts:
    """Attempts that end as they were drawn, one after the other."""

    def __init__(self, results):
        self._results = results
        self.deadlines = []
        self.made = []

    def prompt_spending(self, request):
        return Spending(PROMPT_TOKENS, estimated=True)

    async def make(self, request, signals, step, *, deadline):
        result, tokens = self._results[len(self.made) % len(self._results)]
        self.deadlines.append(deadline)
        self.made.append(Attempt(step, result, tokens, seconds=0.25))
        body = b"{}" if result is AttemptResult.ANSWERED else None
        return Tried(self.made[-1], body, "text" if body else "")


class EveryStep:
    def ladder(self, request, language, zone):
        return tuple(Step)


class CanCheck:
    can_recover = True


def recovery(attempts, *, max_attempts, max_tokens, burst):
    return Recovery(
        RecoverySettings(max_attempts=max_attempts, max_tokens=max_tokens),
        rules=Rules(fallback_in_band=True),
        steps=EveryStep(),
        attempts=attempts,
        budgets=Budgets(whole=ShareBudget(0.5, burst), keys=KeyBudgets(0.5, burst, 10)),
        observer=CanCheck(),
        metrics=Metrics(),
    )


def request():
    return ChatRequest(
        body=b"",
        payload={},
        headers={},
        messages=(),
        model="m",
        stream=False,
        mode=Mode.RECOVER,
        request_id="r",
    )


def refused(zone):
    refusal = RefusalVerdict(RefusalKind.FULL, 1.0, "")
    return Signals(Mode.RECOVER, RefusalForm.TEXT, refusal, BoundaryReading(zone, None, None, ""), "en")


RESULTS = st.lists(st.tuples(st.sampled_from(AttemptResult), st.integers(0, 20)), min_size=1, max_size=8)


@given(RESULTS, st.sampled_from(Zone), st.integers(1, 8), st.integers(1, 60), st.integers(1, 6), st.integers(0, 3))
def test_recovery_ends_within_its_limits(results, zone, max_attempts, max_tokens, burst, made_before):
    attempts = DrawnAttempts(results)
    climbing = recovery(attempts, max_attempts=max_attempts, max_tokens=max_tokens, burst=burst)
    before = (Attempt(Step.STEER, AttemptResult.STILL_REFUSED, 1, seconds=1.0),) * made_before
    recovered = asyncio.run(climbing.run(request(), refused(zone), before))
    if zone in (Zone.HARMFUL, Zone.UNKNOWN):
        assert attempts.made == []
    sent = sum(attempt.sent for attempt in attempts.made)
    assert sent <= max(0, max_attempts - made_before)
    assert sent <= burst
    if attempts.made:
        started_with = made_before + sum(attempt.tokens for attempt in attempts.made[:-1])
        assert started_with + PROMPT_TOKENS <= max_tokens
        assert len(set(attempts.deadlines)) == 1  # one time limit for all of them
    answered = bool(attempts.made) and attempts.made[-1].result is AttemptResult.ANSWERED
    assert (recovered.decision.answer is Answer.RECOVERED) is answered
    assert (recovered.body is not None) is answered
    assert recovered.attempts.made == (*before, *attempts.made)


def test_what_is_not_possible_costs_nothing():
    attempts = DrawnAttempts([(AttemptResult.NOT_POSSIBLE, 0), (AttemptResult.ANSWERED, 1)])
    climbing = recovery(attempts, max_attempts=1, max_tokens=100, burst=1)
    recovered = asyncio.run(climbing.run(request(), refused(Zone.BENIGN)))
    assert recovered.decision.answer is Answer.RECOVERED
    assert (len(recovered.attempts.made), recovered.attempts.sent) == (2, 1)


def test_what_was_tried_before_takes_its_time_from_the_limit():
    async def deadlines():
        attempts = DrawnAttempts([(AttemptResult.EMPTY, 0)])
        climbing = recovery(attempts, max_attempts=3, max_tokens=100, burst=9)
        before = (Attempt(Step.STEER, AttemptResult.EMPTY, seconds=12.0),)
        await climbing.run(request(), refused(Zone.BENIGN), before)
        await climbing.run(request(), refused(Zone.BENIGN))
        return attempts.deadlines

    with_before, *_, without = asyncio.run(deadlines())
    assert 11 < without - with_before < 13

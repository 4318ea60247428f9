"""The decision table: facts in, one decision out. Pure, total, and the only place where recovery is allowed.

=================  =====================  ====================  ===========  ========
zone of request    refused (text)         typed or filter       partial      answered
=================  =====================  ====================  ===========  ========
benign             recover                deliver (*)           deliver (*)  deliver
band               recover, cautiously    deliver               deliver      deliver
harmful            deliver                deliver               deliver      deliver
unknown            deliver                deliver               deliver      deliver
=================  =====================  ====================  ===========  ========

(*) recovered where `Rules` say so; a partial answer never in a stream. "Cautiously" is without step ``clarify``, and
without ``fallback`` unless `Rules` say that the other model is at least as safe.

Modes ``off`` and ``observe`` deliver everything; in ``shadow`` the same is decided, and the original delivered by
whoever runs the recovery. Mode ``steer`` has one more decision, before the request is sent: `decide_first`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from detectors.verdict import RefusalKind, Zone
from proxy.answers import RefusalForm
from proxy.exchange import Action, Mode
from proxy.ladder import TABLE_ALONE, Rules, Step
from proxy.signals import Signals


class AttemptResult(StrEnum):
    """How one attempt ended; every label value of ``rass_recoveries_total{result}`` is one of these."""

    ANSWERED = "answered"
    STILL_REFUSED = "still_refused"
    EMPTY = "empty"
    HARMFUL = "harmful"
    UNCHECKED = "unchecked"
    NOT_STEERED = "not_steered"
    NOT_POSSIBLE = "not_possible"
    UPSTREAM_FAILED = "upstream_failed"
    OUT_OF_TIME = "out_of_time"


class Answer(StrEnum):
    """Whose answer goes to the client; ``STEERED`` is the first and only one of a request that was steered at once."""

    ORIGINAL = "original"
    RECOVERED = "recovered"
    STEERED = "steered"


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver ``answer``; ``why`` is one short sentence for the audit."""

    answer: Answer
    why: str


@dataclass(frozen=True, slots=True)
class Recover:
    """Make one more attempt."""

    step: Step
    why: str

    def not_tried(self, because: str) -> Deliver:
        """Return what to do instead when a budget forbids the attempt."""
        return Deliver(Answer.ORIGINAL, because)


Decision: TypeAlias = Deliver | Recover


class Unsteered(StrEnum):
    """What kept mode steer from steering at once; label values of ``rass_steered_first_total{result}``."""

    MODE = "mode"
    STREAM = "stream"
    CHOICES = "choices"
    OBSERVE_ONLY = "observe_only"
    NO_VECTOR = "no_vector"
    ZONE = "zone"
    NO_REFUSAL_EXPECTED = "no_refusal_expected"
    OVER_BUDGET = "over_budget"


@dataclass(frozen=True, slots=True)
class Steer:
    """Send the request steered, before anything else."""

    why: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request as it came; what is refused then is recovered as in mode recover."""

    cause: Unsteered
    why: str


FirstDecision: TypeAlias = Steer | Send


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that was made: what it tried, how it ended, what it cost.

    ``tokens`` counts prompt and answer; ``estimated`` is True where the upstream did not report them.
    """

    step: Step
    result: AttemptResult
    tokens: int = 0
    estimated: bool = False
    seconds: float = 0.0

    @property
    def sent(self) -> bool:
        """Whether anything was sent; what was not possible after all counts towards no limit."""
        return self.result is not AttemptResult.NOT_POSSIBLE


@dataclass(frozen=True, slots=True)
class AttemptState:
    """What was tried so far and what is left.

    ``ladder`` are the steps that exist for this request's language and zone, in order of preference; ``limit`` is the
    most attempts a request may take.
    """

    made: tuple[Attempt, ...] = ()
    ladder: tuple[Step, ...] = ()
    limit: int = 0

    @property
    def sent(self) -> int:
        """How many attempts reached an upstream."""
        return sum(attempt.sent for attempt in self.made)

    @property
    def tokens(self) -> int:
        """What the attempts have spent."""
        return sum(attempt.tokens for attempt in self.made)

    @property
    def seconds(self) -> float:
        """How long the attempts took."""
        return sum(attempt.seconds for attempt in self.made)

    def after(self, attempt: Attempt) -> AttemptState:
        """Return the state after one more attempt."""
        return replace(self, made=(*self.made, attempt))


def decide(signals: Signals, attempts: AttemptState, rules: Rules = TABLE_ALONE) -> Decision:
    """Return what to do next. Never returns ``Recover`` unless the request's zone is benign or band."""
    kept = kept_because(signals, rules)
    return _climb(signals, attempts, rules) if kept is None else Deliver(Answer.ORIGINAL, kept)


def kept_because(signals: Signals, rules: Rules) -> str | None:
    """Return why an answer is delivered whatever was tried, or ``None`` where the table has it recovered."""
    if not signals.mode.recovers:
        return f"mode {signals.mode} changes no answer"
    if signals.refusal is None:
        return "nothing could judge the answer"
    kept = rules.kept_because(signals.form, signals.refusal.kind, streamed=signals.streamed)
    if kept is not None:
        return kept
    match signals.zone:
        case Zone.HARMFUL:
            return "the request lies on the harmful side: the refusal is warranted"
        case Zone.UNKNOWN:
            return "nothing could tell on which side the request lies"
        case Zone.BAND if signals.form is not RefusalForm.TEXT or signals.refusal.kind is not RefusalKind.FULL:
            return "near the boundary only full refusals in text are tried again"
        case Zone.BENIGN | Zone.BAND:
            return None
        case _:
            assert_never(signals.zone)


def permitted(step: Step, zone: Zone, rules: Rules) -> bool:
    """Return whether ``step`` may be taken in ``zone``."""
    match step:
        case Step.STEER:
            return zone in (Zone.BENIGN, Zone.BAND)
        case Step.CLARIFY:
            return zone is Zone.BENIGN
        case Step.FALLBACK:
            return zone is Zone.BENIGN or (zone is Zone.BAND and rules.fallback_in_band)
        case _:
            assert_never(step)


def unsteerable(signals: Signals, ladder: Sequence[Step]) -> Send | None:
    """Return why a request is not steered at once whatever its side of the boundary, so that nobody need read it."""
    if signals.mode is not Mode.STEER:
        return Send(Unsteered.MODE, f"mode {signals.mode} steers nothing at once")
    if signals.streamed:
        return Send(Unsteered.STREAM, "a stream cannot be checked before its end, so it is recovered, not steered")
    if signals.choices > 1:
        return Send(Unsteered.CHOICES, "several choices are recovered one by one, once they are there")
    if signals.observe_only is not None:
        return Send(Unsteered.OBSERVE_ONLY, signals.observe_only)
    if Step.STEER not in ladder:
        return Send(Unsteered.NO_VECTOR, "nothing steers this language")
    return None


def decide_first(signals: Signals, ladder: Sequence[Step]) -> FirstDecision:
    """Return how mode steer sends a request; ``signals`` are known before any answer, so they hold no refusal.

    Steers only where the zone is benign, the refusal coordinate is above zero (the model is expected to refuse) and
    the ladder has the step.
    """
    send = unsteerable(signals, ladder)
    if send is not None:
        return send
    if signals.boundary is None or signals.zone is not Zone.BENIGN:
        return Send(Unsteered.ZONE, f"the request's zone is {signals.zone}")
    if signals.boundary.rho is None or signals.boundary.rho <= 0:
        return Send(Unsteered.NO_REFUSAL_EXPECTED, "the model is not expected to refuse")
    return Steer("the request's zone is benign, and the model is expected to refuse it")


def _climb(signals: Signals, attempts: AttemptState, rules: Rules) -> Decision:
    """Choose the next rung for a refused request that is not on the harmful side."""
    if signals.observe_only is not None:
        return Deliver(Answer.ORIGINAL, signals.observe_only)
    if attempts.made:
        last = attempts.made[-1]
        match last.result:
            case AttemptResult.ANSWERED:
                return Deliver(Answer.RECOVERED, f"attempt {attempts.sent} ({last.step}) answered")
            case AttemptResult.HARMFUL | AttemptResult.UNCHECKED:
                # An answer that looks harmful says that the zone was wrong: stop, do not try for a luckier one.
                return Deliver(Answer.ORIGINAL, f"the recovered answer was not safe to deliver ({last.result})")
            case AttemptResult.OUT_OF_TIME:
                return Deliver(Answer.ORIGINAL, "recovery ran out of time")
            case (
                AttemptResult.STILL_REFUSED
                | AttemptResult.EMPTY
                | AttemptResult.NOT_STEERED
                | AttemptResult.NOT_POSSIBLE
                | AttemptResult.UPSTREAM_FAILED
            ):
                pass
            case _:
                assert_never(last.result)
    if attempts.sent >= attempts.limit:
        return Deliver(Answer.ORIGINAL, f"{attempts.sent} attempts were made, the limit")
    step = _next_step(signals.zone, attempts, rules)
    if step is None:
        return Deliver(Answer.ORIGINAL, "no recovery step is left for this language and zone")
    return Recover(step, f"refused, and the request's zone is {signals.zone}")


def _next_step(zone: Zone, attempts: AttemptState, rules: Rules) -> Step | None:
    """Return the first step that was not tried, else the first whose every attempt got no answer at all.

    A failed connection says nothing about the step; but another step may go another way, so it comes first.
    """
    steps = [step for step in attempts.ladder if permitted(step, zone, rules)]
    tried = {attempt.step for attempt in attempts.made}
    heard = {attempt.step for attempt in attempts.made if attempt.result is not AttemptResult.UPSTREAM_FAILED}
    left = [step for step in steps if step not in tried] or [step for step in steps if step not in heard]
    return left[0] if left else None


def action_of(signals: Signals, decision: Deliver, attempts: AttemptState) -> Action:
    """Return the word that names an outcome in headers, metrics and audit rows."""
    if signals.mode is Mode.OFF:
        return Action.OFF
    if signals.mode is Mode.SHADOW and attempts.sent:
        return Action.SHADOW_RECOVERED if decision.answer is Answer.RECOVERED else Action.SHADOW_FAILED
    match decision.answer:
        case Answer.RECOVERED:
            return Action.RECOVERED
        case Answer.STEERED:
            return Action.STEERED
        case Answer.ORIGINAL:
            pass
        case _:
            assert_never(decision.answer)
    if signals.refusal is None:
        return Action.UNJUDGED
    if attempts.sent and signals.refusal.kind in (RefusalKind.FULL, RefusalKind.PARTIAL):
        return Action.RECOVERY_FAILED
    if not signals.refused:
        return Action.DELIVERED
    match signals.zone:
        case Zone.HARMFUL:
            return Action.WARRANTED
        case Zone.UNKNOWN:
            return Action.UNJUDGED
        case Zone.BENIGN | Zone.BAND:
            return Action.REFUSAL_KEPT
        case _:
            assert_never(signals.zone)

"""The decision table: facts in, one decision out. Pure, total, and the only place where recovery is allowed.

=================  =====================  ====================  ===========  ========
zone of request    refused (text)         typed or filter       partial      answered
=================  =====================  ====================  ===========  ========
benign             recover                deliver               deliver      deliver
band               recover, cautiously    deliver               deliver      deliver
harmful            deliver                deliver               deliver      deliver
unknown            deliver                deliver               deliver      deliver
=================  =====================  ====================  ===========  ========

Only mode ``recover`` recovers; ``off`` and ``observe`` deliver everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from detectors.verdict import RefusalKind, Zone
from proxy.answers import RefusalForm
from proxy.exchange import Action, Mode
from proxy.signals import Signals


class Step(StrEnum):
    """One rung of the recovery ladder."""

    STEER = "steer"


class AttemptResult(StrEnum):
    """How one attempt ended; every label value of ``rass_recoveries_total{result}`` is one of these."""

    ANSWERED = "answered"
    STILL_REFUSED = "still_refused"
    EMPTY = "empty"
    HARMFUL = "harmful"
    UNCHECKED = "unchecked"
    NOT_STEERED = "not_steered"
    UPSTREAM_FAILED = "upstream_failed"
    OUT_OF_TIME = "out_of_time"


class Answer(StrEnum):
    """Whose answer goes to the client."""

    ORIGINAL = "original"
    RECOVERED = "recovered"


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


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that was made."""

    step: Step
    result: AttemptResult


@dataclass(frozen=True, slots=True)
class AttemptState:
    """What was tried so far and what is left.

    ``ladder`` are the steps that exist for this request's language and zone, in order of preference; ``limit`` is the
    most attempts a request may take.
    """

    made: tuple[Attempt, ...] = ()
    ladder: tuple[Step, ...] = ()
    limit: int = 0

    def after(self, attempt: Attempt) -> AttemptState:
        """Return the state after one more attempt."""
        return replace(self, made=(*self.made, attempt))


def decide(signals: Signals, attempts: AttemptState) -> Decision:
    """Return what to do next. Never returns ``Recover`` unless the request's zone is benign or band."""
    match signals.mode:
        case Mode.OFF | Mode.OBSERVE:
            return Deliver(Answer.ORIGINAL, f"mode {signals.mode} changes no answer")
        case Mode.RECOVER:
            pass
        case _:
            assert_never(signals.mode)
    match signals.form:
        case RefusalForm.TYPED | RefusalForm.FILTER:
            return Deliver(Answer.ORIGINAL, "the refusal was given by type or by a filter, not by the model's text")
        case RefusalForm.TEXT:
            pass
        case _:
            assert_never(signals.form)
    if signals.refusal is None:
        return Deliver(Answer.ORIGINAL, "nothing could judge the answer")
    match signals.refusal.kind:
        case RefusalKind.ANSWER | RefusalKind.PARTIAL | RefusalKind.EMPTY:
            return Deliver(Answer.ORIGINAL, f"the answer is no refusal ({signals.refusal.kind})")
        case RefusalKind.FULL:
            pass
        case _:
            assert_never(signals.refusal.kind)
    match signals.zone:
        case Zone.HARMFUL:
            return Deliver(Answer.ORIGINAL, "the request lies on the harmful side: the refusal is warranted")
        case Zone.UNKNOWN:
            return Deliver(Answer.ORIGINAL, "nothing could tell on which side the request lies")
        case Zone.BENIGN | Zone.BAND:
            return _climb(signals, attempts)
        case _:
            assert_never(signals.zone)


def _climb(signals: Signals, attempts: AttemptState) -> Decision:
    """Choose the next rung for a refused request that is not on the harmful side."""
    if signals.observe_only is not None:
        return Deliver(Answer.ORIGINAL, signals.observe_only)
    tried = {attempt.step for attempt in attempts.made}
    if attempts.made:
        last = attempts.made[-1]
        match last.result:
            case AttemptResult.ANSWERED:
                return Deliver(Answer.RECOVERED, f"attempt {len(attempts.made)} ({last.step}) answered")
            case AttemptResult.HARMFUL | AttemptResult.UNCHECKED:
                # An answer that looks harmful says that the zone was wrong: stop, do not try for a luckier one.
                return Deliver(Answer.ORIGINAL, f"the recovered answer was not safe to deliver ({last.result})")
            case AttemptResult.OUT_OF_TIME:
                return Deliver(Answer.ORIGINAL, "recovery ran out of time")
            case AttemptResult.UPSTREAM_FAILED:
                tried.discard(last.step)  # a failed connection says nothing about the step
            case AttemptResult.STILL_REFUSED | AttemptResult.EMPTY | AttemptResult.NOT_STEERED:
                pass
            case _:
                assert_never(last.result)
    if len(attempts.made) >= attempts.limit:
        return Deliver(Answer.ORIGINAL, f"{len(attempts.made)} attempts were made, the limit")
    for step in attempts.ladder:
        if step not in tried:
            return Recover(step, f"refused, and the request's zone is {signals.zone}")
    return Deliver(Answer.ORIGINAL, "no recovery step is left for this language and zone")


def action_of(signals: Signals, decision: Deliver, attempts: AttemptState) -> Action:
    """Return the word that names an outcome in headers, metrics and audit rows."""
    if signals.mode is Mode.OFF:
        return Action.OFF
    if decision.answer is Answer.RECOVERED:
        return Action.RECOVERED
    if signals.refusal is None:
        return Action.UNJUDGED
    if not signals.refused:
        return Action.DELIVERED
    if attempts.made:
        return Action.RECOVERY_FAILED
    match signals.zone:
        case Zone.HARMFUL:
            return Action.WARRANTED
        case Zone.UNKNOWN:
            return Action.UNJUDGED
        case Zone.BENIGN | Zone.BAND:
            return Action.REFUSAL_KEPT
        case _:
            assert_never(signals.zone)

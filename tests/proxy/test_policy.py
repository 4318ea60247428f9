"""The decision table, cell by cell and as properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.verdict import BoundaryReading, RefusalKind, RefusalVerdict, Zone
from proxy.answers import RefusalForm
from proxy.exchange import Action, Mode
from proxy.ladder import Rules, Step
from proxy.policy import (
    Answer,
    Attempt,
    AttemptResult,
    AttemptState,
    Deliver,
    Recover,
    Steer,
    action_of,
    decide,
    decide_first,
)
from proxy.signals import Signals

RULES = st.builds(Rules, st.booleans(), st.booleans(), st.booleans(), st.booleans())
LADDERS = st.permutations(list(Step)).flatmap(lambda steps: st.integers(0, 3).map(lambda n: tuple(steps[:n])))
RHO = st.none() | st.floats(allow_nan=False)
SIGNALS = st.builds(
    Signals,
    mode=st.sampled_from(Mode),
    form=st.sampled_from(RefusalForm),
    refusal=st.none() | st.builds(RefusalVerdict, st.sampled_from(RefusalKind), st.floats(0, 1), st.just("")),
    boundary=st.none() | st.builds(BoundaryReading, st.sampled_from(Zone), st.none(), RHO, st.just("")),
    language=st.sampled_from(["en", "other"]),
    observe_only=st.none() | st.just("tools"),
    streamed=st.booleans(),
)
ATTEMPTS = st.builds(
    AttemptState,
    made=st.lists(st.builds(Attempt, st.sampled_from(Step), st.sampled_from(AttemptResult)), max_size=5).map(tuple),
    ladder=LADDERS,
    limit=st.integers(0, 4),
)
READY = AttemptState(ladder=(Step.STEER,), limit=2)
RECOVERING = (Mode.SHADOW, Mode.RECOVER, Mode.STEER)


def signals(
    mode=Mode.RECOVER, form=RefusalForm.TEXT, kind=RefusalKind.FULL, zone=Zone.BENIGN, observe_only=None, **more
):
    boundary = None if zone is None else BoundaryReading(zone, None, None, "")
    return Signals(mode, form, RefusalVerdict(kind, 1.0, ""), boundary, "en", observe_only, **more)


def state(*results, ladder=tuple(Step), limit=9):
    return AttemptState(tuple(Attempt(*each) for each in results), ladder, limit)


def test_the_table():
    for mode in Mode:
        for form in RefusalForm:
            for kind in RefusalKind:
                for zone in Zone:
                    decision = decide(signals(mode, form, kind, zone), READY)
                    recovers = (
                        mode in RECOVERING
                        and form is RefusalForm.TEXT
                        and kind is RefusalKind.FULL
                        and zone in (Zone.BENIGN, Zone.BAND)
                    )
                    assert isinstance(decision, Recover) is recovers, (mode, form, kind, zone)


def test_what_rules_add_they_add_in_the_benign_zone_alone():
    everything = Rules(typed_refusals=True, filters=True, partial=True)
    for form in RefusalForm:
        for kind in (RefusalKind.FULL, RefusalKind.PARTIAL):
            for zone in Zone:
                decision = decide(signals(form=form, kind=kind, zone=zone), READY, everything)
                table = form is RefusalForm.TEXT and kind is RefusalKind.FULL and zone is Zone.BAND
                assert isinstance(decision, Recover) is (zone is Zone.BENIGN or table), (form, kind, zone)


def test_a_partial_answer_is_never_recovered_in_a_stream():
    partial = signals(kind=RefusalKind.PARTIAL, streamed=True)
    assert isinstance(decide(partial, READY, Rules(partial=True)), Deliver)


def test_each_rule_adds_its_own_column_only():
    typed, filtered = signals(form=RefusalForm.TYPED), signals(form=RefusalForm.FILTER)
    partial = signals(kind=RefusalKind.PARTIAL)
    for rules, recovered in (
        (Rules(typed_refusals=True), typed),
        (Rules(filters=True), filtered),
        (Rules(partial=True), partial),
    ):
        for facts in (typed, filtered, partial):
            assert isinstance(decide(facts, READY, rules), Recover) is (facts is recovered)


@given(SIGNALS, ATTEMPTS, RULES)
def test_nothing_is_recovered_outside_of_its_conditions(facts, attempts, rules):
    decision = decide(facts, attempts, rules)
    if isinstance(decision, Recover) or decision.answer is not Answer.ORIGINAL:
        assert facts.mode in RECOVERING
        assert facts.zone in (Zone.BENIGN, Zone.BAND)
        assert facts.refusal.kind in (RefusalKind.FULL, RefusalKind.PARTIAL)
        assert facts.observe_only is None
    if isinstance(decision, Recover):
        assert attempts.sent < attempts.limit
        assert decision.step in attempts.ladder
        if facts.zone is Zone.BAND:
            assert decision.step is not Step.CLARIFY
            assert decision.step is not Step.FALLBACK or rules.fallback_in_band


@given(SIGNALS, st.lists(st.sampled_from(AttemptResult), min_size=10, max_size=10), st.integers(0, 8), LADDERS, RULES)
def test_recovery_terminates(facts, results, limit, ladder, rules):
    attempts = AttemptState(ladder=ladder, limit=limit)
    for result in results:
        decision = decide(facts, attempts, rules)
        if isinstance(decision, Deliver):
            break
        attempts = attempts.after(Attempt(decision.step, result))
    assert isinstance(decide(facts, attempts, rules), Deliver)
    assert attempts.sent <= limit


def test_an_answer_that_looks_harmful_ends_recovery():
    for result in (AttemptResult.HARMFUL, AttemptResult.UNCHECKED, AttemptResult.OUT_OF_TIME):
        decision = decide(signals(), state((Step.STEER, result)))
        assert isinstance(decision, Deliver)
        assert decision.answer is Answer.ORIGINAL


def test_the_ladder_is_climbed_in_its_order():
    refused = AttemptResult.STILL_REFUSED
    made = []
    while isinstance(decision := decide(signals(), state(*made)), Recover):
        made.append((decision.step, refused))
    assert [step for step, _ in made] == [Step.STEER, Step.CLARIFY, Step.FALLBACK]


def test_a_step_that_nobody_answered_comes_again_after_the_others():
    failed = (Step.STEER, AttemptResult.UPSTREAM_FAILED)
    refused = [(step, AttemptResult.STILL_REFUSED) for step in (Step.CLARIFY, Step.FALLBACK)]
    assert decide(signals(), state(failed)).step is Step.CLARIFY
    assert decide(signals(), state(failed, *refused)).step is Step.STEER
    heard = (Step.STEER, AttemptResult.EMPTY)
    assert isinstance(decide(signals(), state(failed, *refused, heard)), Deliver)


@given(SIGNALS, LADDERS)
def test_only_what_is_benign_and_about_to_be_refused_is_steered_at_once(facts, ladder):
    if isinstance(decide_first(facts, ladder), Steer):
        assert facts.mode is Mode.STEER
        assert facts.zone is Zone.BENIGN
        assert facts.boundary.rho > 0
        assert facts.observe_only is None
        assert not facts.streamed
        assert Step.STEER in ladder


def test_what_is_about_to_be_refused_is_steered_at_once():
    facts = Signals(Mode.STEER, RefusalForm.TEXT, None, BoundaryReading(Zone.BENIGN, -3.0, 0.1, ""), "en")
    assert isinstance(decide_first(facts, tuple(Step)), Steer)


@given(SIGNALS, ATTEMPTS, RULES)
def test_only_a_recovered_answer_is_called_recovered(facts, attempts, rules):
    decision = decide(facts, attempts, rules)
    if isinstance(decision, Deliver):
        action = action_of(facts, decision, attempts)
        recovered = decision.answer is Answer.RECOVERED
        assert (action in (Action.RECOVERED, Action.SHADOW_RECOVERED)) is recovered
        assert (action in (Action.SHADOW_RECOVERED, Action.SHADOW_FAILED)) <= (facts.mode is Mode.SHADOW)
        if facts.mode is not Mode.OFF and facts.refused and facts.zone is Zone.HARMFUL and not attempts.made:
            assert action is Action.WARRANTED

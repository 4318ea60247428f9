"""The decision table, cell by cell and as properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.verdict import BoundaryReading, RefusalKind, RefusalVerdict, Zone
from proxy.answers import RefusalForm
from proxy.exchange import Action, Mode
from proxy.policy import Answer, Attempt, AttemptResult, AttemptState, Deliver, Recover, Step, action_of, decide
from proxy.signals import Signals

SIGNALS = st.builds(
    Signals,
    mode=st.sampled_from(Mode),
    form=st.sampled_from(RefusalForm),
    refusal=st.none() | st.builds(RefusalVerdict, st.sampled_from(RefusalKind), st.floats(0, 1), st.just("")),
    boundary=st.none() | st.builds(BoundaryReading, st.sampled_from(Zone), st.none(), st.none(), st.just("")),
    language=st.sampled_from(["en", "other"]),
    observe_only=st.none() | st.just("tools"),
)
ATTEMPTS = st.builds(
    AttemptState,
    made=st.lists(st.builds(Attempt, st.sampled_from(Step), st.sampled_from(AttemptResult)), max_size=5).map(tuple),
    ladder=st.sampled_from([(), (Step.STEER,)]),
    limit=st.integers(0, 4),
)
READY = AttemptState(ladder=(Step.STEER,), limit=2)


def signals(mode=Mode.RECOVER, form=RefusalForm.TEXT, kind=RefusalKind.FULL, zone=Zone.BENIGN, observe_only=None):
    boundary = None if zone is None else BoundaryReading(zone, None, None, "")
    return Signals(mode, form, RefusalVerdict(kind, 1.0, ""), boundary, "en", observe_only)


def test_the_table():
    for mode in Mode:
        for form in RefusalForm:
            for kind in RefusalKind:
                for zone in Zone:
                    decision = decide(signals(mode, form, kind, zone), READY)
                    recovers = (
                        mode is Mode.RECOVER
                        and form is RefusalForm.TEXT
                        and kind is RefusalKind.FULL
                        and zone in (Zone.BENIGN, Zone.BAND)
                    )
                    assert isinstance(decision, Recover) is recovers, (mode, form, kind, zone)


@given(SIGNALS, ATTEMPTS)
def test_nothing_is_recovered_outside_of_its_conditions(facts, attempts):
    decision = decide(facts, attempts)
    if isinstance(decision, Recover) or decision.answer is Answer.RECOVERED:
        assert facts.mode is Mode.RECOVER
        assert facts.zone in (Zone.BENIGN, Zone.BAND)
        assert facts.refused
        assert facts.observe_only is None
    if isinstance(decision, Recover):
        assert len(attempts.made) < attempts.limit
        assert decision.step in attempts.ladder


@given(SIGNALS, st.lists(st.sampled_from(AttemptResult), min_size=10, max_size=10), st.integers(0, 8))
def test_recovery_terminates(facts, results, limit):
    state = AttemptState(ladder=(Step.STEER,), limit=limit)
    for result in results:
        decision = decide(facts, state)
        if isinstance(decision, Deliver):
            break
        state = state.after(Attempt(decision.step, result))
    assert isinstance(decide(facts, state), Deliver)
    assert len(state.made) <= limit


def test_an_answer_that_looks_harmful_ends_recovery():
    for result in (AttemptResult.HARMFUL, AttemptResult.UNCHECKED, AttemptResult.OUT_OF_TIME):
        decision = decide(signals(), AttemptState((Attempt(Step.STEER, result),), (Step.STEER,), 5))
        assert isinstance(decision, Deliver)
        assert decision.answer is Answer.ORIGINAL


@given(SIGNALS, ATTEMPTS)
def test_only_a_recovered_answer_is_called_recovered(facts, attempts):
    decision = decide(facts, attempts)
    if isinstance(decision, Deliver):
        action = action_of(facts, decision, attempts)
        assert (action is Action.RECOVERED) is (decision.answer is Answer.RECOVERED)
        if facts.mode is not Mode.OFF and facts.refused and facts.zone is Zone.HARMFUL and not attempts.made:
            assert action is Action.WARRANTED

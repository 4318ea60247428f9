"""Modes: a client can only ever take something away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Mode

MODES = st.sampled_from(Mode)
ORDER = [Mode.OFF, Mode.OBSERVE, Mode.SHADOW, Mode.RECOVER, Mode.STEER]


@given(MODES, MODES)
def test_a_mode_is_lowered_and_never_raised(configured, wanted):
    lowered = configured.lowered_to(wanted)
    assert ORDER.index(lowered) == min(ORDER.index(configured), ORDER.index(wanted))


@given(MODES, MODES, MODES)
def test_lowering_keeps_the_order(first, second, wanted):
    if ORDER.index(first) <= ORDER.index(second):
        assert ORDER.index(first.lowered_to(wanted)) <= ORDER.index(second.lowered_to(wanted))


@given(MODES, MODES)
def test_a_lower_mode_may_do_nothing_that_a_higher_one_may_not(low, high):
    if ORDER.index(low) <= ORDER.index(high):
        assert low.recovers <= high.recovers
        assert low.replaces <= high.replaces
        assert (low is not Mode.OFF) <= (high is not Mode.OFF)

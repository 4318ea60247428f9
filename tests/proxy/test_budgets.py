"""The budget: attempts stay a bounded share of requests, whatever their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.recovery import ShareBudget


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0]), st.integers(1, 10))
def test_attempts_never_exceed_the_share_and_the_burst(events, share, burst):
    budget = ShareBudget(share, burst)
    requests = attempts = 0
    for is_request in events:
        if is_request:
            budget.earn()
            requests += 1
        elif budget.take():
            attempts += 1
        assert attempts <= burst + share * requests + 1e-6


def test_what_was_used_up_is_earned_again():
    budget = ShareBudget(0.5, 1)
    assert budget.take()
    assert not budget.take()
    budget.earn()
    assert not budget.take()
    budget.earn()
    assert budget.take()

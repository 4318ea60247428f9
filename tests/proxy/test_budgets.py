"""The budgets: attempts stay a bounded share of requests, of all and of each key, whatever their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.budgets import Budgets, KeyBudgets, ShareBudget, Spent


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


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["earn", "take", "undo"])), max_size=300),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(1, 4),
)
def test_each_key_keeps_to_its_own_share(events, share, burst):
    budgets = KeyBudgets(share, burst, tracked=10)
    requests, attempts = dict.fromkeys("abcde", 0), dict.fromkeys("abcde", 0)
    for key, what in events:
        if what == "earn":
            budgets.earn(key)
            requests[key] += 1
        elif what == "undo" and attempts[key]:
            budgets.give_back(key)
            attempts[key] -= 1
        elif what == "take" and budgets.take(key):
            attempts[key] += 1
        assert attempts[key] <= burst + share * requests[key] + 1e-6


@given(st.lists(st.text(max_size=3), max_size=200), st.integers(1, 5))
def test_the_number_of_tracked_keys_is_bounded(keys, tracked):
    budgets = KeyBudgets(0.5, 2, tracked)
    for key in keys:
        budgets.take(key)
        assert len(budgets) <= tracked


def test_a_key_whose_budget_is_full_again_is_forgotten():
    budgets = KeyBudgets(1.0, 2, tracked=5)
    assert budgets.take("a")
    assert len(budgets) == 1
    budgets.earn("a")
    assert len(budgets) == 0


def test_one_key_does_not_spend_what_is_anothers():
    budgets = Budgets(whole=ShareBudget(1.0, 10), keys=KeyBudgets(1.0, 1, tracked=5))
    assert budgets.take("a") is None
    assert budgets.take("a") is Spent.KEY_SHARE
    assert budgets.take("b") is None


def test_an_attempt_that_the_whole_forbids_costs_its_key_nothing():
    budgets = Budgets(whole=ShareBudget(1.0, 1), keys=KeyBudgets(1.0, 1, tracked=5))
    assert budgets.take("a") is None
    assert budgets.take("b") is Spent.UPSTREAM_SHARE
    budgets.earn("a")
    assert budgets.take("b") is None


def test_what_is_given_back_can_be_taken_again():
    budgets = Budgets(whole=ShareBudget(1.0, 1), keys=KeyBudgets(1.0, 1, tracked=5))
    assert budgets.take("a") is None
    budgets.give_back("a")
    assert budgets.take("a") is None

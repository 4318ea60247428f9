"""Token buckets and counts of running requests, on a clock that the test turns."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RateLimited
from proxy.keys import Key, generated
from proxy.rate_limits import RateLimits


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def key(name="a", **limits):
    return Key(name=name, created=datetime(2026, 1, 1, tzinfo=UTC), secrets=(generated()[1],), **limits)


def test_a_minutes_worth_at_once_then_as_the_bucket_fills():
    clock = Clock()
    limits = RateLimits(clock)
    limited = key(requests_per_minute=6)
    for _ in range(6):
        limits.admit(limited)()
    with pytest.raises(RateLimited, match="6 requests per minute") as caught:
        limits.admit(limited)
    assert caught.value.retry_after_s == 10
    clock.now += caught.value.retry_after_s
    limits.admit(limited)()
    with pytest.raises(RateLimited):
        limits.admit(limited)
    limits.admit(key("b", requests_per_minute=6))()


@given(st.integers(1, 120), st.lists(st.floats(0, 30), max_size=200))
def test_never_more_than_the_bucket_and_what_ran_in(per_minute, pauses):
    clock = Clock()
    limits = RateLimits(clock)
    limited = key(requests_per_minute=per_minute)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        try:
            limits.admit(limited)()
        except RateLimited:
            continue
        admitted += 1
        assert admitted <= per_minute + clock.now * per_minute / 60 + 1e-6


def test_requests_at_once():
    limits = RateLimits()
    limited = key(concurrent_requests=2)
    first, _second = limits.admit(limited), limits.admit(limited)
    with pytest.raises(RateLimited) as caught:
        limits.admit(limited)
    assert caught.value.limit == "concurrent_requests"
    first()
    limits.admit(limited)


def test_a_request_turned_away_for_being_one_too_many_costs_no_token():
    limits = RateLimits(Clock())
    limited = key(concurrent_requests=1, requests_per_minute=2)
    leave = limits.admit(limited)
    for _ in range(5):
        with pytest.raises(RateLimited, match="running"):
            limits.admit(limited)
    leave()
    limits.admit(limited)

"""The breaker as a state machine: whatever happens to it, in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from proxy.upstream.breaker import Breaker, BreakerState

FAILURES = 3
OPEN_S = 10.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def opened(clock):
    breaker = Breaker(FAILURES, OPEN_S, clock)
    for _ in range(FAILURES):
        breaker.failed(breaker.enter())
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_failures_in_a_row_open_it():
    breaker = Breaker(FAILURES, OPEN_S, Clock())
    for _ in range(FAILURES - 1):
        breaker.failed(breaker.enter())
    breaker.succeeded(breaker.enter())
    for _ in range(FAILURES - 1):
        breaker.failed(breaker.enter())
    assert breaker.state is BreakerState.CLOSED
    breaker.failed(breaker.enter())
    assert breaker.state is BreakerState.OPEN
    assert breaker.enter() is None
    assert breaker.retry_after_s == OPEN_S


def test_zero_never_opens_it():
    breaker = Breaker(0, OPEN_S, Clock())
    for _ in range(100):
        breaker.failed(breaker.enter())
    assert breaker.state is BreakerState.CLOSED


def test_one_probe_finds_out():
    clock = Clock()
    breaker = opened(clock)
    clock.now = OPEN_S
    probe = breaker.enter()
    assert probe.probe
    assert breaker.enter() is None
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.failed(probe)
    assert breaker.state is BreakerState.OPEN
    assert breaker.enter() is None
    clock.now += OPEN_S
    breaker.succeeded(breaker.enter())
    assert breaker.state is BreakerState.CLOSED


def test_a_slow_probe_is_replaced_and_still_welcome():
    clock = Clock()
    breaker = opened(clock)
    clock.now = OPEN_S
    slow = breaker.enter()
    clock.now += OPEN_S
    second = breaker.enter()
    assert breaker.probe is second
    breaker.failed(slow)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.failed(second)
    assert breaker.state is BreakerState.OPEN
    breaker.succeeded(slow)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_without_an_outcome_makes_room():
    clock = Clock()
    breaker = opened(clock)
    clock.now = OPEN_S
    breaker.abandoned(breaker.enter())
    assert breaker.enter().probe


def test_outcomes_of_an_earlier_time_say_nothing():
    clock = Clock()
    breaker = Breaker(FAILURES, OPEN_S, clock)
    early = [breaker.enter() for _ in range(2 * FAILURES)]
    for ticket in early[:FAILURES]:
        breaker.failed(ticket)
    breaker.succeeded(early[FAILURES])
    assert breaker.state is BreakerState.OPEN
    clock.now = OPEN_S
    breaker.succeeded(breaker.enter())
    for ticket in early[FAILURES:]:
        breaker.failed(ticket)
    assert breaker.state is BreakerState.CLOSED


class Machine(RuleBasedStateMachine):
    """Requests come, end in any order and at any time."""

    tickets = Bundle("tickets")

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(FAILURES, OPEN_S, self.clock)
        self.probes_at = []

    @rule(seconds=st.floats(0, 3 * OPEN_S))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule(target=tickets)
    def a_request_comes(self):
        before = self.breaker.state
        occupied = self.breaker.probe
        wait_s = self.breaker.retry_after_s
        ticket = self.breaker.enter()
        if before is BreakerState.CLOSED:
            assert not ticket.probe
        elif ticket is not None:
            assert ticket.probe
            assert wait_s == 0
            assert self.breaker.probe is ticket
            assert self.breaker.state is BreakerState.HALF_OPEN
            # A probe that is out is only ever followed by another once it took as long as the breaker stays open.
            if occupied is not None:
                assert self.clock.now - self.probes_at[-1] >= OPEN_S * (1 - 1e-9)
            self.probes_at.append(self.clock.now)
        else:
            assert wait_s > 0
        return ticket

    @rule(ticket=consumes(tickets))
    def it_succeeds(self, ticket):
        if ticket is not None:
            self.breaker.succeeded(ticket)

    @rule(ticket=consumes(tickets))
    def it_fails(self, ticket):
        if ticket is not None:
            self.breaker.failed(ticket)

    @rule(ticket=consumes(tickets))
    def its_client_leaves(self, ticket):
        if ticket is not None:
            self.breaker.abandoned(ticket)

    @rule()
    def the_upstream_is_well_again(self):
        """From any state: one wait and one success later, requests pass."""
        self.clock.now += self.breaker.retry_after_s
        ticket = self.breaker.enter()
        assert ticket is not None
        self.breaker.succeeded(ticket)
        assert self.breaker.state is BreakerState.CLOSED
        assert self.breaker.enter() is not None

    @invariant()
    def a_probe_is_out_only_in_the_half_open_state(self):
        if self.breaker.probe is not None:
            assert self.breaker.state is BreakerState.HALF_OPEN

    @invariant()
    def the_wait_is_bounded(self):
        assert 0 <= self.breaker.retry_after_s <= OPEN_S * (1 + 1e-9)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

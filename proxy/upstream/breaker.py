"""A circuit breaker: whether an upstream that keeps failing is asked at all. No waiting, no I/O; the clock is given.

```
            failures in a row            open_s is over: one request goes, the probe
  CLOSED ───────────────────────▶ OPEN ──────────────────────────────────────────▶ HALF_OPEN
    ▲                               ▲                  the probe fails                 │ │
    │                               └──────────────────────────────────────────────────┘ │
    └────────────────────────────────────────────────────────────────────────────────────┘
                                       the probe succeeds
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Breaker", "BreakerState", "Ticket"]


class BreakerState(StrEnum):
    """Whether requests go through: all, none, or one that finds out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """The permission to send one request; its outcome is reported with it.

    ``period`` counts how often the breaker has opened and closed: an outcome says something only about the period in
    which its request was sent.
    """

    period: int
    probe: bool


class Breaker:
    """Counts failures in a row and leaves an upstream alone for ``open_s`` after ``failures`` of them; 0: never.

    In the half-open state one request is the probe. A probe may take long without being at fault (a whole answer shows
    its first byte at its end), so that after another ``open_s`` the next request takes its place; the earlier one's
    success still closes the breaker, its failure no longer counts. One that ends without an outcome frees its place.
    """

    def __init__(self, failures: int, open_s: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._state = BreakerState.CLOSED
        self._period = 0
        self._failures = 0
        self._next_probe_at = 0.0
        self._probe: Ticket | None = None

    @property
    def state(self) -> BreakerState:
        """The state; an open breaker becomes half-open when a request comes, not by itself."""
        return self._state

    @property
    def probe(self) -> Ticket | None:
        """The probe that is out, if one is."""
        return self._probe

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next request may be tried; 0 in the closed state."""
        return 0.0 if self._state is BreakerState.CLOSED else max(0.0, self._next_probe_at - self._clock())

    def enter(self) -> Ticket | None:
        """Ask to send a request; ``None`` where it must not be sent."""
        if self._state is BreakerState.CLOSED:
            return Ticket(self._period, probe=False)
        now = self._clock()
        if now < self._next_probe_at:
            return None
        self._state = BreakerState.HALF_OPEN
        self._next_probe_at = now + self._open_s
        self._probe = Ticket(self._period, probe=True)
        return self._probe

    def succeeded(self, ticket: Ticket) -> None:
        """Report that the upstream answered; may be called again for the same request."""
        if ticket.period != self._period:
            return
        self._failures = 0
        if ticket.probe:
            self._turn(BreakerState.CLOSED)

    def failed(self, ticket: Ticket) -> None:
        """Report that the upstream failed."""
        if ticket.period != self._period:
            return
        if ticket.probe:
            if ticket is self._probe:
                self._state, self._probe = BreakerState.OPEN, None
                self._next_probe_at = self._clock() + self._open_s
            return
        self._failures += 1
        if self._limit and self._failures >= self._limit:
            self._turn(BreakerState.OPEN)

    def abandoned(self, ticket: Ticket) -> None:
        """Report that a request ended and nothing is known: its client left. Nothing to say after an outcome."""
        if ticket is self._probe:
            self._probe = None
            self._next_probe_at = self._clock()

    def _turn(self, state: BreakerState) -> None:
        self._state, self._probe, self._failures = state, None, 0
        self._period += 1
        self._next_probe_at = self._clock() + self._open_s

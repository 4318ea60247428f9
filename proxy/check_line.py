"""One line of ``rass-proxy check``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check ended; only ``FAIL`` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Line:
    """What was checked, how it ended and what was found; where it did not end well, also the mend."""

    name: str
    state: State
    says: str


def ok(name: str, says: str) -> Line:
    """Return a line that is as it should be."""
    return Line(name, State.OK, says)


def warn(name: str, says: str) -> Line:
    """Return a line that somebody should know of."""
    return Line(name, State.WARN, says)


def fail(name: str, says: str) -> Line:
    """Return a line that somebody must mend."""
    return Line(name, State.FAIL, says)

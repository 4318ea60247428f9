"""What can go wrong in a benchmark.

BenchmarkError
├── InputError      a file, an option or an address given by the user is wrong: exit code 2
└── TargetError     a server could not be started, reached or understood: exit code 1
"""

from __future__ import annotations

__all__ = ["BenchmarkError", "InputError", "TargetError"]


class BenchmarkError(Exception):
    """Base of all errors of this package; the message says what was wrong and what to do."""

    exit_code = 1


class InputError(BenchmarkError):
    """A file, an option or an address given by the user cannot be used."""

    exit_code = 2


class TargetError(BenchmarkError):
    """A server could not be started or reached, or answered outside the protocol."""

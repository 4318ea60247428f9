"""Steering dialects: how each engine is told to steer one request, and how it says that it did.

``native`` is the wire of ``rass serve-model``. ``none`` is for engines that cannot steer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol, assert_never

from detectors.bundle import Steering
from proxy.answers import ChatAnswer


class DialectName(StrEnum):
    """The dialects that settings can name."""

    NATIVE = "native"
    NONE = "none"


class Dialect(Protocol):
    """What one engine understands."""

    @property
    def can_steer(self) -> bool:
        """Whether any request can be steered at all."""
        ...

    def steered(self, payload: Mapping[str, object], steering: Steering) -> dict[str, object]:
        """Return a copy of a request's payload that asks for ``steering``."""
        ...

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return whether the engine says that it steered: engines pass over malformed orders in silence."""
        ...


class Native:
    """The ``rass`` request object of ``rass serve-model``; what it leaves out comes from the bundle."""

    can_steer = True

    def steered(self, payload: Mapping[str, object], steering: Steering) -> dict[str, object]:
        """Return the payload with a ``rass.steer`` order in place of any that the client sent."""
        return {**payload, "rass": {"steer": {"vector": steering.vector_id, "strength": steering.strength}}}

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return what the report at the head of the answer says."""
        return answer.steered is True


class NoSteering:
    """An engine that cannot steer."""

    can_steer = False

    def steered(self, payload: Mapping[str, object], steering: Steering) -> dict[str, object]:
        """Return the payload as it is."""
        return dict(payload)

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return False, always."""
        return False


def dialect(name: DialectName) -> Dialect:
    """Return the dialect of that name."""
    match name:
        case DialectName.NATIVE:
            return Native()
        case DialectName.NONE:
            return NoSteering()
        case _:
            assert_never(name)

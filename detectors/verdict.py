"""Types that travel between detectors, proxy and pipeline.

Everything here is frozen and slotted: a verdict is a fact that was observed once. A detector that fails or is late
does not raise into a request; it returns a reading with zone ``UNKNOWN`` and the reason, and policy decides what
then happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as text.

    ``role`` is the OpenAI role (``system``, ``developer``, ``user``, ``assistant`` or ``tool``); ``content`` is the
    turn's text, with the text parts of a multi-part content joined by newlines.
    """

    role: str
    content: str


class RefusalKind(StrEnum):
    """What an answer is, seen as text."""

    FULL = "full"
    PARTIAL = "partial"
    ANSWER = "answer"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class RefusalVerdict:
    """Whether an answer refuses.

    ``score`` is the probability in [0, 1] that a person would call the answer a refusal; ``because`` is the ``reason``,
    or what finds it once somebody asks: hardly any verdict is asked for one.
    """

    kind: RefusalKind
    score: float
    because: str | Callable[[], str] = field(repr=False, compare=False)

    @property
    def reason(self) -> str:
        """The evidence in one short sentence, which never quotes the prompt."""
        return self.because if isinstance(self.because, str) else self.because()

    @property
    def refused(self) -> bool:
        """True for a full refusal; a partial one has its own column in the decision table."""
        return self.kind is RefusalKind.FULL


class Zone(StrEnum):
    """On which side of the safety boundary a request lies."""

    BENIGN = "benign"
    BAND = "band"
    HARMFUL = "harmful"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BoundaryReading:
    """Where a request lies: its zone and, where they were measured, its coordinates.

    ``h`` is the calibrated logit that the request is harmful, ``rho`` the calibrated log-odds that the model refuses
    it. Both are ``None`` for zone ``UNKNOWN``, and neither may leave the proxy (they are an oracle for attackers).
    """

    zone: Zone
    h: float | None
    rho: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class HarmVerdict:
    """Whether an answer gives what a harmful request asked for.

    ``harmful`` is ``None`` when nothing could judge it; a recovery treats that like ``True``.
    """

    harmful: bool | None
    reason: str


class RefusalDetector(Protocol):
    """Recognises refusals in the text of an answer; pure, never raises on any string."""

    def judge(self, text: str) -> RefusalVerdict:
        """Return the verdict on a whole answer."""
        ...


class BoundaryDetector(Protocol):
    """Judges on which side of the boundary a conversation's request lies."""

    async def read(self, messages: Sequence[Message], *, model: str, language: str) -> BoundaryReading:
        """Return the reading; failures and lateness come back as zone ``UNKNOWN`` with the reason."""
        ...


class AnswerHarmDetector(Protocol):
    """Judges whether an answer gives what a harmful request asked for."""

    async def judge(self, messages: Sequence[Message], answer: str, *, model: str, language: str) -> HarmVerdict:
        """Return the verdict; failures and lateness come back as ``harmful=None`` with the reason."""
        ...

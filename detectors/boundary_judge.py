"""On which side of the safety boundary a request lies, by asking a judge."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.boundary_zones import unknown, zone_reading
from detectors.judge import Judge, NotJudged
from detectors.verdict import BoundaryReading, Message

__all__ = ["JudgeBoundary"]


class JudgeBoundary:
    """A ``BoundaryDetector`` that asks one question about the whole conversation; ``rho`` is never known."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def read(self, messages: Sequence[Message], *, model: str, language: str) -> BoundaryReading:
        """Return the reading; zone ``UNKNOWN`` with the reason when the judge is late, fails or says something else."""
        if not messages:
            return unknown("the conversation is empty")
        judged = await self._judge.ask(messages, model=model, language=language)
        if isinstance(judged, NotJudged):
            return unknown(judged.reason)
        zones = self._judge.settings.zones
        return zone_reading(zones, judged.h, language, complete=judged.complete, how=judged.how)

"""Whether an answer gives what a harmful request asked for, by asking a judge window by window."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from detectors.boundary_text import sliding_windows
from detectors.boundary_zones import zone_of
from detectors.judge import Judge, Judged, NotJudged
from detectors.verdict import HarmVerdict, Message, Zone

__all__ = ["JudgeAnswerHarm"]


class JudgeAnswerHarm:
    """An ``AnswerHarmDetector``: the judge reads the whole answer, a long one as overlapping windows, all at once.

    An answer that needs more than ``max_windows`` windows is not judged: a part that nobody read is no harmless part.
    """

    def __init__(
        self, judge: Judge, *, window_characters: int = 6_000, overlap_characters: int = 1_000, max_windows: int = 8
    ) -> None:
        if "{answer}" not in judge.settings.question.text:
            raise ValueError("the question of an answer-harm judge must hold {answer}")
        self._judge = judge
        self._window = window_characters
        self._overlap = overlap_characters
        self._max_windows = max_windows

    async def judge(self, messages: Sequence[Message], answer: str, *, model: str, language: str) -> HarmVerdict:
        """Return ``harmful=False`` only when every window lies in the benign zone.

        ``harmful=None`` with the reason when no window is harmful and one could not be judged.
        """
        windows = sliding_windows(answer, self._window, self._overlap)
        if len(windows) > self._max_windows:
            return HarmVerdict(None, f"the answer is too long to be judged whole ({len(answer)} characters)")
        found = await asyncio.gather(
            *(self._judge.ask(messages, model=model, language=language, answer=window) for window in windows)
        )
        zones = [self._zone(one, language) for one in found]
        outside = [zone for zone in zones if zone not in (Zone.BENIGN, Zone.UNKNOWN)]
        if outside:
            worst = Zone.HARMFUL if Zone.HARMFUL in outside else Zone.BAND
            return HarmVerdict(True, f"judge: the answer lies in the {worst.value} zone")
        for one in found:
            if isinstance(one, NotJudged):
                return HarmVerdict(None, one.reason)
        if Zone.UNKNOWN in zones:
            return HarmVerdict(None, "the conversation is too long to be judged whole")
        return HarmVerdict(False, "judge: the answer lies in the benign zone")

    def _zone(self, found: Judged | NotJudged, language: str) -> Zone:
        if isinstance(found, NotJudged):
            return Zone.UNKNOWN
        zone = zone_of(self._judge.settings.zones, found.h, language)
        return Zone.UNKNOWN if zone is Zone.BENIGN and not found.complete else zone

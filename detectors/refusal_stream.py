"""The incremental form: deciding from the head of a stream whether the answer refuses."""

from __future__ import annotations

from typing import Protocol

from detectors.refusal_text import OPENING, PreparedAnswer, prepare
from detectors.verdict import RefusalVerdict

_FIRST_LOOK = 32  # characters of visible text before the first verdict
_STEP = 16  # new characters before the next one
# Up to so many characters: decided as a refusal from this score on, as an answer up to that one. Up to `OPENING` the
# scores are the opening's. Chosen on the training sources, each judged by weights fitted without it, so that 95 % are
# decided there: early on only what the rest of the answer hardly ever overturns. Who is unsure waits for clear words.
_DECIDES = ((64, 0.99, 0.004), (96, 0.985, 0.01), (152, 0.97, 0.02), (OPENING + 1, 0.6, 0.42), (700, 0.9, 0.08))
LONGEST_WAIT = _DECIDES[-1][0]
"""Characters of visible text after which it always decides."""


class _Judge(Protocol):
    def judge_prepared(self, answer: PreparedAnswer) -> RefusalVerdict: ...

    def judge_opening(self, answer: PreparedAnswer) -> RefusalVerdict: ...


class StreamingRefusal:
    """Judges one answer while it arrives. Not shared: one for each stream.

    ``feed`` returns ``None`` until it is sure; after that the verdict stays. Reasoning blocks are waited out, so their
    length does not count. Cost is bounded: nothing is read again after the decision.
    """

    def __init__(self, judge: _Judge) -> None:
        self._judge = judge
        self._text = ""
        self._next_look = _FIRST_LOOK
        self._verdict: RefusalVerdict | None = None

    @property
    def text(self) -> str:
        """The text that was fed until the decision."""
        return self._text

    def feed(self, chunk: str) -> RefusalVerdict | None:
        """Take in the next piece of text and return the verdict, or ``None`` while undecided."""
        if self._verdict is not None:
            return self._verdict
        self._text += chunk
        while self._verdict is None and self._next_look <= len(self._text):
            self._look(self._text[: self._next_look])
        return self._verdict

    def finish(self) -> RefusalVerdict:
        """Return the verdict at the end of the stream: the decided one, or that on everything that arrived."""
        if self._verdict is None:
            self._verdict = self._judge.judge_prepared(prepare(self._text))
        return self._verdict

    def _look(self, text: str) -> None:
        # Looks fall on fixed characters, so that a verdict does not depend on how the stream was cut into chunks.
        # Growing steps keep the cost of long reasoning, which is read again at each look, near linear.
        self._next_look = len(text) + max(_STEP, len(text) // 16)
        answer = prepare(text)
        if answer.cut_off_reasoning or answer.characters < _FIRST_LOOK:
            return
        opening = answer.characters <= OPENING
        verdict = self._judge.judge_opening(answer) if opening else self._judge.judge_prepared(answer)
        if _decides(verdict.score, answer.characters):
            self._verdict = verdict


def _decides(score: float, characters: int) -> bool:
    for end, refusal, no_refusal in _DECIDES:
        if characters < end:
            return score >= refusal or score <= no_refusal
    return True

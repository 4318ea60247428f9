"""The incremental form: deciding from the head of a stream whether the answer refuses."""

from __future__ import annotations

from typing import Protocol

from detectors.refusal_text import PreparedAnswer, prepare
from detectors.verdict import RefusalVerdict

_FIRST_LOOK = 32  # characters of visible text before the first verdict
_STEP = 16  # new characters before the next one
# Up to so many characters: decided as a refusal from this score on, as an answer up to that one. Chosen on the shared
# sources, each judged by weights fitted without it, so that about 95 % are decided at 160 characters. Early on only
# what the rest of the answer hardly ever overturns is decided. Whoever is unsure at 160 waits for clearer words.
# Answers need more certainty: a refusal taken for an answer costs its recovery, while a refused head is judged again
# on the whole.
_DECIDES = ((64, 0.98, 0.007), (96, 0.97, 0.018), (152, 0.95, 0.03), (176, 0.56, 0.37), (400, 0.67, 0.18))
LONGEST_WAIT = _DECIDES[-1][0]
"""Characters of visible text after which it always decides."""
_DENSE = 1.6  # how many characters of an alphabet one of a dense script counts for


class _Judge(Protocol):
    def judge_prepared(self, answer: PreparedAnswer) -> RefusalVerdict: ...


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
        verdict = self._judge.judge_prepared(answer)
        if _decides(verdict.score, answer.characters * (_DENSE if _is_dense(text) else 1.0)):
            self._verdict = verdict


def _decides(score: float, characters: float) -> bool:
    for end, refusal, no_refusal in _DECIDES:
        if characters < end:
            return score >= refusal or score <= no_refusal
    return True


def _is_dense(text: str) -> bool:
    wide = sum(character >= "\u2e80" for character in text[-64:])
    return wide * 2 > len(text[-64:])

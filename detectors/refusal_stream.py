"""The incremental form: deciding from the head of a stream whether the answer refuses."""

from __future__ import annotations

from typing import Protocol

from detectors.refusal_text import PreparedAnswer, prepare
from detectors.verdict import RefusalVerdict

_FIRST_LOOK = 24  # characters of visible text before the first verdict
_STEP = 16  # new characters before the next one
_SURE = 0.97  # a refusal this clear is decided at once
_SURELY_NOT = 0.03
_ENOUGH = 150  # characters after which the score as it stands decides
_ENOUGH_DENSE = 60  # the same for scripts that say more in a character


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
        enough = _ENOUGH_DENSE if _is_dense(text) else _ENOUGH
        if answer.characters >= enough or verdict.score >= _SURE or verdict.score <= _SURELY_NOT:
            self._verdict = verdict


def _is_dense(text: str) -> bool:
    wide = sum(character >= "\u2e80" for character in text[-64:])
    return wide * 2 > len(text[-64:])

"""Whether an answer refuses, from its text alone.

A logistic model over cue features (which classes of phrase stand where: apology, inability, judgement, help …) and,
for English, over words. Its weights ship as JSON and are made by `rass detector train refusal`. A verdict costs about
0.1 ms, needs no language, no prompt and no network, and says what decided.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from detectors.refusal_cues import Cue, CueFinder, load_finder
from detectors.refusal_features import features_of
from detectors.refusal_stream import StreamingRefusal
from detectors.refusal_text import PreparedAnswer, prepare
from detectors.refusal_words import heard, word_parts
from detectors.verdict import RefusalKind, RefusalVerdict

_NAMED_FEATURES = 2  # how many of the strongest features a reason names


@dataclass(frozen=True, slots=True)
class RefusalWeights:
    """A trained logistic model: score = sigmoid(bias + sum of weight x feature), over cue features and English words.

    A score of at least ``full`` is a full refusal; one between ``partial`` and ``full`` with a denial in its first two
    sentences is a partial one.
    """

    bias: float
    weights: dict[str, float]
    english_bias: float
    words: dict[str, float]
    full: float
    partial: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict with what led to it: the head's sentences, their cues, what each feature and word adds to the logit."""

    verdict: RefusalVerdict
    sentences: tuple[str, ...]
    cues: tuple[Cue, ...]
    parts: tuple[tuple[str, float], ...]
    words: tuple[tuple[str, float], ...]


class TextRefusalDetector:
    """A ``RefusalDetector`` for answers of any chat model; immutable, may be shared between threads.

    Without arguments it loads the lexicons and weights that ship with the package.
    """

    def __init__(self, finder: CueFinder | None = None, weights: RefusalWeights | None = None) -> None:
        self._finder = finder if finder is not None else load_finder()
        self._weights = weights if weights is not None else load_weights()

    def judge(self, text: str) -> RefusalVerdict:
        """Return the verdict on a whole answer; never raises on any string."""
        return self.judge_prepared(prepare(text))

    def judge_prepared(self, answer: PreparedAnswer) -> RefusalVerdict:
        """Return the verdict on an answer that is already prepared."""
        if answer.characters == 0:
            reason = "the reasoning was cut off before any answer" if answer.cut_off_reasoning else "no text"
            return RefusalVerdict(RefusalKind.EMPTY, 0.0, reason)
        cues = self._finder.find(answer.sentences)
        parts = self._parts(answer, cues)
        said = heard(answer, self._weights.words, self._weights.english_bias)
        score = _sigmoid(self._weights.bias + said + sum(part for _, part in parts))
        if score >= self._weights.full:
            return RefusalVerdict(RefusalKind.FULL, score, f"refuses: {_named(parts, 1)}")
        if score >= self._weights.partial and any(cue.name in _DENIALS for cue in cues):
            return RefusalVerdict(RefusalKind.PARTIAL, score, f"refuses in part: {_named(parts, 1)}")
        return RefusalVerdict(RefusalKind.ANSWER, score, f"answers: {_named(parts, -1)}")

    def explain(self, text: str) -> Explanation:
        """Return the verdict on a whole answer with what decided it; never raises on any string."""
        answer = prepare(text)
        cues = tuple(self._finder.find(answer.sentences))
        said = word_parts(answer, self._weights.words, self._weights.english_bias)
        words = tuple(sorted(said, key=lambda part: -abs(part[1])))
        return Explanation(self.judge_prepared(answer), answer.sentences, cues, tuple(self._parts(answer, cues)), words)

    def _parts(self, answer: PreparedAnswer, cues: Sequence[Cue]) -> list[tuple[str, float]]:
        weights = self._weights.weights
        parts = [(name, weights[name] * value) for name, value in features_of(answer, cues).items() if name in weights]
        return sorted(parts, key=lambda part: -abs(part[1]))

    def stream(self) -> StreamingRefusal:
        """Return a new incremental detector for one streamed answer."""
        return StreamingRefusal(self)


_DENIALS = frozenset({"cannot", "refuse"})


def load_weights() -> RefusalWeights:
    """Load the weights that ship with the package."""
    return parse_weights((resources.files("detectors") / "refusal_weights.json").read_text(encoding="utf-8"))


def parse_weights(text: str) -> RefusalWeights:
    """Read weights from the JSON that training writes."""
    fields = json.loads(text)
    return RefusalWeights(**{name: fields[name] for name in RefusalWeights.__slots__})


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, logit))))


def _named(parts: list[tuple[str, float]], sign: int) -> str:
    names = [name for name, part in parts if part * sign > 0][:_NAMED_FEATURES]
    return ", ".join(names) if names else "no cue"

"""Whether an answer refuses, from its text alone.

Two logistic models over cue features (which classes of phrase stand where: apology, inability, judgement, help …): one
reads the opening alone (for English its words too), the other adds to that logit what the rest of the head says. So
a stream and the whole seldom disagree. In other languages than English, character n-grams have a bounded say beside
either. Weights ship as JSON and are made by `rass detector train refusal`. A verdict costs about 0.2 ms, needs no
language, no prompt and no network, and says what decided.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nlargest, nsmallest
from importlib import resources
from operator import itemgetter

import numpy as np

from detectors.refusal_cues import Cue, CueFinder, lexicon_texts, load_finder
from detectors.refusal_features import features_of, opening_of
from detectors.refusal_ngrams import BUCKETS, Ngrams
from detectors.refusal_partial import denies, gives_something
from detectors.refusal_stream import StreamingRefusal
from detectors.refusal_text import PreparedAnswer, prepare
from detectors.refusal_words import Wording
from detectors.verdict import RefusalKind, RefusalVerdict

_NAMED_FEATURES = 2  # how many of the strongest features a reason names


@dataclass(frozen=True, slots=True)
class RefusalWeights:
    """Two trained logistic models; every logit is a bias and a sum of weight x feature.

    The opening's logit: ``opening_bias``, ``opening`` by feature, and for English ``english_bias`` and ``words``. The
    whole's: ``opening_share`` times that, ``bias`` and ``weights`` by feature. To either is added what n-grams say:
    ``ngram_bias``, and ``ngrams`` (whole numbers from -127 to 127, in base64) times ``ngram_scale``. A score (the
    logit's sigmoid) of at least ``full`` is a full refusal, but below ``sure`` a partial one where the text gives
    something after all; one between ``partial`` and ``full`` is partial where the text denies, or hedges at length.
    """

    opening_bias: float
    opening: dict[str, float]
    english_bias: float
    words: dict[str, float]
    opening_share: float
    bias: float
    weights: dict[str, float]
    ngram_bias: float
    ngram_scale: float
    ngrams: str
    sure: float
    full: float
    partial: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict with what led to it: the head's sentences, their cues, what each feature and word adds to the logit.

    Features of the opening have names that begin with `opening: `. ``words`` are n-grams where the answer is not
    English.
    """

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
        self._wording = Wording(self._weights.words, self._weights.english_bias)
        self._ngrams = read_ngrams(self._weights)

    def judge(self, text: str) -> RefusalVerdict:
        """Return the verdict on a whole answer; never raises on any string."""
        return self.judge_prepared(prepare(text))

    def judge_prepared(self, answer: PreparedAnswer) -> RefusalVerdict:
        """Return the verdict on an answer that is already prepared."""
        if answer.characters == 0:
            return _empty(answer)
        cues = self._finder.find(answer.sentences)
        weights = self._weights
        logit = weights.bias + _sum(features_of(answer, cues), weights.weights)
        logit += weights.opening_share * self._opening_logit(*opening_of(answer, cues))
        logit += self._ngrams.heard(answer)
        return self._verdict(logit, answer, cues, partial(self._parts, answer, cues))

    def judge_opening(self, answer: PreparedAnswer) -> RefusalVerdict:
        """Return the verdict on the opening of a prepared answer, whatever may follow: for streams."""
        if answer.characters == 0:
            return _empty(answer)
        cues = self._finder.find(answer.sentences)
        opening, inside = opening_of(answer, cues)
        logit = self._opening_logit(opening, inside) + self._ngrams.heard(opening)
        return self._verdict(logit, opening, inside, partial(self._opening_parts, opening, inside))

    def explain(self, text: str) -> Explanation:
        """Return the verdict on a whole answer with what decided it; never raises on any string."""
        answer = prepare(text)
        cues = tuple(self._finder.find(answer.sentences))
        share = self._weights.opening_share
        opening, inside = opening_of(answer, cues)
        parts = _parts(features_of(answer, cues), self._weights.weights)
        parts += [(f"opening: {name}", share * part) for name, part in self._opening_parts(opening, inside)]
        said = self._wording.parts(opening)
        words = [(word, share * part) for word, part in said] + self._ngrams.parts(answer)
        return Explanation(
            self.judge_prepared(answer),
            answer.sentences,
            cues,
            tuple(sorted(parts, key=_strength)),
            tuple(sorted(words, key=_strength)),
        )

    def _opening_logit(self, opening: PreparedAnswer, cues: Sequence[Cue]) -> float:
        weights = self._weights
        said = weights.opening_bias + self._wording.heard(opening)
        return said + _sum(features_of(opening, cues), weights.opening)

    def _opening_parts(self, opening: PreparedAnswer, cues: Sequence[Cue]) -> list[tuple[str, float]]:
        """Return what each feature of the opening adds to its logit."""
        return _parts(features_of(opening, cues), self._weights.opening)

    def _parts(self, answer: PreparedAnswer, cues: Sequence[Cue]) -> list[tuple[str, float]]:
        """Return what each feature of the whole and of the opening adds to the logit of the whole."""
        share = self._weights.opening_share
        parts = _parts(features_of(answer, cues), self._weights.weights)
        return parts + [(name, share * part) for name, part in self._opening_parts(*opening_of(answer, cues))]

    def _verdict(
        self,
        logit: float,
        answer: PreparedAnswer,
        cues: Sequence[Cue],
        parts: Callable[[], list[tuple[str, float]]],
    ) -> RefusalVerdict:
        score = _sigmoid(logit)
        weights = self._weights
        if weights.partial <= score < weights.sure and (
            gives_something(answer, cues) or (score < weights.full and denies(cues))
        ):
            return RefusalVerdict(RefusalKind.PARTIAL, score, partial(_reason, "refuses in part", parts, 1))
        if score >= weights.full:
            return RefusalVerdict(RefusalKind.FULL, score, partial(_reason, "refuses", parts, 1))
        return RefusalVerdict(RefusalKind.ANSWER, score, partial(_reason, "answers", parts, -1))

    def stream(self) -> StreamingRefusal:
        """Return a new incremental detector for one streamed answer."""
        return StreamingRefusal(self)


def load_weights() -> RefusalWeights:
    """Load the weights that ship with the package."""
    return parse_weights(_weights_text())


def shipped_digest() -> str:
    """Return a sha256 of the weights and lexicons that ship: what was judged under another one is to be judged anew."""
    digest = hashlib.sha256(_weights_text().encode())
    for text in lexicon_texts():
        digest.update(text.encode())
    return digest.hexdigest()


def _weights_text() -> str:
    return (resources.files("detectors") / "refusal_weights.json").read_text(encoding="utf-8")


def parse_weights(text: str) -> RefusalWeights:
    """Read weights from the JSON that training writes."""
    fields = json.loads(text)
    return RefusalWeights(**{name: fields[name] for name in RefusalWeights.__slots__})


def read_ngrams(weights: RefusalWeights) -> Ngrams:
    """Return the n-grams' weights in the form that they are used in; raises ``ValueError`` for too few or too many."""
    numbers = np.frombuffer(base64.b64decode(weights.ngrams), dtype=np.int8)
    if len(numbers) != BUCKETS:
        raise ValueError(f"the weights hold {len(numbers)} n-grams instead of {BUCKETS}; train them again")
    return Ngrams(numbers.astype(np.float32) * np.float32(weights.ngram_scale), weights.ngram_bias)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, logit))))


def _empty(answer: PreparedAnswer) -> RefusalVerdict:
    reason = "the reasoning was cut off before any answer" if answer.cut_off_reasoning else "no text"
    return RefusalVerdict(RefusalKind.EMPTY, 0.0, reason)


def _parts(values: dict[str, float], weights: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, weights[name] * value) for name, value in values.items() if name in weights]


def _sum(values: dict[str, float], weights: dict[str, float]) -> float:
    """Return the sum of what `_parts` returns."""
    return sum([weights[name] * value for name, value in values.items() if name in weights])


def _strength(part: tuple[str, float]) -> float:
    return -abs(part[1])


def _reason(what: str, parts: Callable[[], list[tuple[str, float]]], sign: int) -> str:
    """Return ``what`` with the features that spoke for it most: those whose part has the ``sign``."""
    # The opening and the whole have features of the same name, so twice as many are looked at.
    pick = nlargest if sign > 0 else nsmallest
    strongest = pick(2 * _NAMED_FEATURES, parts(), key=itemgetter(1))
    names = list(dict.fromkeys(name for name, part in strongest if part * sign > 0))
    return f"{what}: {', '.join(names[:_NAMED_FEATURES]) if names else 'no cue'}"

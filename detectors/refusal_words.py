"""The wording of English answers: words and pairs of words of the head, as a second opinion beside the cues.

Word weights need many labelled answers of many kinds, and only English has them: in any other language they would learn
which source an answer is from. So they speak for English answers alone, softly, and the cues carry the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise, repeat

from detectors.refusal_text import PreparedAnswer

_TOKENS = 110
_SMOOTHING = 20  # added to the number of known words, so that a few words cannot decide alone
_GATE_TOKENS = 60
_GATE_SHARE = 0.15
# Frequent words that no other language of the lexicons writes alike.
_ENGLISH_WORDS = """
the and you that it to this with for are your not be as have can my i'm it's don't can't cannot from by would should
there their they which or
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_IN_FIRST = "1:"  # begins the name of a word or pair that stands in the first sentence


def is_english(answer: PreparedAnswer) -> bool:
    """Return whether the head reads as English, by its function words."""
    tokens = " ".join(answer.sentences).split(" ")[:_GATE_TOKENS]
    return sum(map(_ENGLISH.__contains__, tokens)) >= _GATE_SHARE * len(tokens)


def words(answer: PreparedAnswer) -> list[str]:
    """Return the answer's word features without repetition; none where it is not English."""
    if not answer.sentences or not is_english(answer):
        return []
    tokens, pairs, first = _read(answer)
    in_first = chain(tokens[:first], pairs[: first - 1])
    parts = (tokens, pairs, map(_IN_FIRST.__add__, in_first), _beginnings(tokens))
    return list(dict.fromkeys(chain.from_iterable(parts)))


def scale(known: int) -> float:
    """Return the value of each of ``known`` word features of one answer."""
    return 1.0 / math.sqrt(known + _SMOOTHING)


class Wording:
    """The trained weights of words; immutable."""

    def __init__(self, weights: Mapping[str, float], bias: float) -> None:
        """Take the weights by the features that `words` returns, and the bias of English answers."""
        self._weights = weights
        self._bias = bias
        # One look-up for a word of the first sentence, which is a feature there and anywhere.
        self._in_first = {
            text: tuple(weights[name] for name in (text, _IN_FIRST + text) if name in weights)
            for text in {name.removeprefix(_IN_FIRST) for name in weights}
        }

    def parts(self, answer: PreparedAnswer) -> list[tuple[str, float]]:
        """Return what each known word adds to the logit, the bias first; nothing where the answer is not English."""
        found = words(answer)
        if not found:
            return []
        known = [(word, self._weights[word]) for word in found if word in self._weights]
        value = scale(len(known))
        return [("English", self._bias), *((word, weight * value) for word, weight in known)]

    def heard(self, answer: PreparedAnswer) -> float:
        """Return the sum of what `parts` returns, at less than half of its cost."""
        if not answer.sentences or not is_english(answer):
            return 0.0
        tokens, pairs, first = _read(answer)
        in_first = dict.fromkeys(chain(tokens[:first], pairs[: first - 1]))
        later = dict.fromkeys(chain(tokens[first:], pairs[first - 1 :], _beginnings(tokens)))
        known = list(chain.from_iterable(map(self._in_first.get, in_first, repeat(()))))
        for text in later:
            if text not in in_first and (weight := self._weights.get(text)) is not None:
                known.append(weight)
        return self._bias + scale(len(known)) * sum(known)


def _read(answer: PreparedAnswer) -> tuple[list[str], list[str], int]:
    """Return the head's words with a full stop between sentences, their pairs, and how many are the first sentence."""
    tokens = " . ".join(answer.sentences).split(" ")[:_TOKENS]
    first = min(answer.sentences[0].count(" ") + 1, _TOKENS)
    return tokens, list(map(" ".join, pairwise(tokens))), first


def _beginnings(tokens: Sequence[str]) -> Iterable[str]:
    return [f"^{' '.join(tokens[:length])}" for length in (1, 2, 3)]

"""The wording of English answers: words and pairs of words of the head, as a second opinion beside the cues.

Word weights need many labelled answers of many kinds, and only English has them: in any other language they would learn
which source an answer is from. So they speak for English answers alone, softly, and the cues carry the rest.
"""

from __future__ import annotations

import math
from itertools import chain, pairwise

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


def is_english(answer: PreparedAnswer) -> bool:
    """Return whether the head reads as English, by its function words."""
    tokens = " ".join(answer.sentences).split(" ")[:_GATE_TOKENS]
    return sum(map(_ENGLISH.__contains__, tokens)) >= _GATE_SHARE * len(tokens)


def words(answer: PreparedAnswer) -> list[str]:
    """Return the answer's word features without repetition; none where it is not English."""
    if not answer.sentences or not is_english(answer):
        return []
    tokens = " . ".join(answer.sentences).split(" ")[:_TOKENS]
    first = answer.sentences[0].split(" ")[:_TOKENS]
    in_first = "1:".__add__  # mapped, these cost half of what they do in a comprehension
    parts = (
        tokens,
        map(" ".join, pairwise(tokens)),
        map(in_first, first),
        map(in_first, map(" ".join, pairwise(first))),
        (f"^{' '.join(tokens[:length])}" for length in (1, 2, 3)),
    )
    return list(dict.fromkeys(chain.from_iterable(parts)))


def scale(known: int) -> float:
    """Return the value of each of ``known`` word features of one answer."""
    return 1.0 / math.sqrt(known + _SMOOTHING)


def word_parts(answer: PreparedAnswer, weights: dict[str, float], bias: float) -> list[tuple[str, float]]:
    """Return what each known word adds to the logit, ``bias`` first; nothing where the answer is not English."""
    found = words(answer)
    if not found:
        return []
    known = [(word, weights[word]) for word in found if word in weights]
    value = scale(len(known))
    return [("English", bias), *((word, weight * value) for word, weight in known)]


def heard(answer: PreparedAnswer, weights: dict[str, float], bias: float) -> float:
    """Return the sum of what `word_parts` returns, at less than half of its cost."""
    found = words(answer)
    if not found:
        return 0.0
    known = [weight for weight in map(weights.get, found) if weight is not None]
    return sum(map(scale(len(known)).__mul__, known), bias)

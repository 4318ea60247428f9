"""The wording of English answers: words and pairs of words of the head, as a second opinion beside the cues.

Word weights need many labelled answers of many kinds, and only English has them: in any other language they would learn
which source an answer is from. So they speak for English answers alone, softly, and the cues carry the rest.
"""

from __future__ import annotations

import math
from itertools import pairwise

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
    return sum(token in _ENGLISH for token in tokens) >= _GATE_SHARE * len(tokens)


def words(answer: PreparedAnswer) -> list[str]:
    """Return the answer's word features without repetition; none where it is not English."""
    if not answer.sentences or not is_english(answer):
        return []
    tokens = " . ".join(answer.sentences).split(" ")[:_TOKENS]
    first = answer.sentences[0].split(" ")[:_TOKENS]
    found = dict.fromkeys(tokens)
    found.update(dict.fromkeys(f"{one} {two}" for one, two in pairwise(tokens)))
    found.update(dict.fromkeys(f"1:{token}" for token in first))
    found.update(dict.fromkeys(f"1:{one} {two}" for one, two in pairwise(first)))
    found.update(dict.fromkeys(f"^{' '.join(tokens[:length])}" for length in (1, 2, 3)))
    return list(found)


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

"""The wording of answers in other languages than English: character n-grams of the head, beside the cues.

A lexicon knows the phrases that somebody listed; n-grams know inflected and compounded forms near them. They are hashed
into buckets, so no vocabulary ships, and what they say is bounded: it can settle a doubt and overturn no sure verdict.
English has weights of words instead (`refusal_words`), which its labelled answers of many kinds allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.refusal_text import PreparedAnswer
from detectors.refusal_words import is_english

LENGTHS = (3, 4, 5)
BUCKETS = 1 << 16
MOST = 0.5
"""The most that n-grams may add to a logit, or take from it.

On sources left out .5 and .8 were as good; at .8 they overturned a written case, Dutch sympathy with advice.
"""

_HEAD = 400  # characters of the normalised head
_PRIME = np.uint64(1_000_003)
_FOLD = np.uint64(17)

Buckets = npt.NDArray[np.int64]


def hashed(text: str, lengths: Sequence[int], buckets: int) -> list[Buckets]:
    """Return for each of ``lengths`` (rising) the bucket of the n-gram that begins at each character of ``text``."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    found: list[Buckets] = []
    state = codes + np.uint64(1)
    for length in range(2, max(lengths) + 1):
        if len(codes) < length:
            break
        state = (state[:-1] * _PRIME) ^ codes[length - 1 :]
        if length in lengths:
            found.append(((state ^ (state >> _FOLD)) % np.uint64(buckets)).astype(np.int64))
    return found


def ngrams(answer: PreparedAnswer) -> Buckets:
    """Return the distinct buckets of the head's n-grams; none where the answer is English."""
    if not answer.sentences or is_english(answer):
        return np.zeros(0, dtype=np.int64)
    found = hashed(_head(answer), LENGTHS, BUCKETS)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


def scale(count: int) -> float:
    """Return the value of each of ``count`` n-grams of one answer."""
    return float(count) ** -0.5 if count else 0.0


@dataclass(frozen=True, slots=True)
class Ngrams:
    """Trained weights ``[BUCKETS]`` of n-grams, and the bias of answers that have any."""

    weights: npt.NDArray[np.float32]
    bias: float

    def heard(self, answer: PreparedAnswer) -> float:
        """Return what the answer's n-grams add to the logit: at most `MOST` either way, 0 for English."""
        found = ngrams(answer)
        return float(min(MOST, max(-MOST, self._sum(found)))) if len(found) else 0.0

    def parts(self, answer: PreparedAnswer) -> list[tuple[str, float]]:
        """Return what the bias and each n-gram add to the logit, scaled to the bounded sum; nothing for English."""
        found = ngrams(answer)
        if not len(found):
            return []
        total = self._sum(found)
        share = self.heard(answer) / total if total else 0.0
        head = _head(answer)
        texts = {
            int(bucket): head[start : start + length]
            for length, buckets in zip(LENGTHS, hashed(head, LENGTHS, BUCKETS), strict=False)
            for start, bucket in enumerate(buckets)
        }
        value = share * scale(len(found))
        said = [(texts[bucket], value * float(self.weights[bucket])) for bucket in found.tolist()]
        return [("not English", share * self.bias), *said]

    def _sum(self, found: Buckets) -> float:
        return self.bias + scale(len(found)) * float(self.weights[found].sum())


def _head(answer: PreparedAnswer) -> str:
    return f" {' . '.join(answer.sentences)[:_HEAD]} "

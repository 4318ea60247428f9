"""Scores out of fold: every topic of contrast pairs is judged by a model that has learnt none of its pairs.

A topic is the heading of a pair, the same in all files and languages, so a translation is held out with its original.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rass.detector_training.boundary_data import CONTRAST, Example

__all__ = ["FOLDS", "LearnAndScore", "deal_folds", "score_out_of_fold"]

DoubleArray = npt.NDArray[np.float64]
LearnAndScore = Callable[[Sequence[Example], Sequence[str]], DoubleArray]
"""Learns from examples and returns the logit of harm of each text ``[texts]``."""

FOLDS = 3


def deal_folds(examples: Sequence[Example]) -> npt.NDArray[np.int64]:
    """Return each example's fold ``[examples]``; deterministic.

    Topics go, the largest first, to the fold that has the fewest examples so far; the units of other sources by hash.
    """
    sizes: dict[str, int] = {}
    for example in examples:
        if example.source == CONTRAST:
            sizes[example.kind] = sizes.get(example.kind, 0) + 1
    filled = [0] * FOLDS
    of_topic: dict[str, int] = {}
    for topic in sorted(sizes, key=lambda topic: (-sizes[topic], topic)):
        of_topic[topic] = filled.index(min(filled))
        filled[of_topic[topic]] += sizes[topic]
    return np.array(
        [of_topic[one.kind] if one.source == CONTRAST else _hashed(one.unit) for one in examples], dtype=np.int64
    )


def score_out_of_fold(examples: Sequence[Example], learn_and_score: LearnAndScore) -> DoubleArray:
    """Return each example's logit ``[examples]`` from a model that has seen neither it nor its topic."""
    folds = deal_folds(examples)
    scores = np.full(len(examples), np.nan)
    for fold in np.unique(folds).tolist():
        tested = np.flatnonzero(folds == fold).tolist()
        learnt = [examples[row] for row in np.flatnonzero(folds != fold).tolist()]
        scores[tested] = learn_and_score(learnt, [examples[row].text for row in tested])
    return scores


def _hashed(unit: str) -> int:
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:4], "big") % FOLDS

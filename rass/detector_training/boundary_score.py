"""Figures of a boundary classifier: ranking, and what it is worth behind a bounded false-open rate.

On the yardstick the unit is the prompt: intervals of AUC come from a bootstrap over prompts within each label. On
contrast pairs it is the topic, since twins of one topic resemble each other. Bootstraps are percentiles with a fixed
seed; shares among refused prompts have exact intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.statistics import Interval, clopper_pearson
from rass.detector_training.boundary_data import CONTRAST, Example, Refused
from rass.zones import false_open_threshold

__all__ = [
    "CONTRAST_KINDS",
    "AtBound",
    "HeldOut",
    "auc",
    "auc_by_kind",
    "auc_interval",
    "held_out_pairs",
    "recall_at",
    "recall_at_bound",
]

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_RESAMPLES = 2_000

CONTRAST_KINDS: Mapping[str, str] = {
    "homonyms": "contrast_homonyms",
    "figurative_language": "contrast_figurative_language",
    "safe_targets": "contrast_safe_targets",
    "safe_contexts": "contrast_safe_contexts",
    "definitions": "contrast_definitions",
    "nons_group_real_discr": "contrast_discr",
    "real_group_nons_discr": "contrast_discr",
    "historical_events": "contrast_historical_events",
    "privacy_public": "contrast_privacy",
    "privacy_fictional": "contrast_privacy",
}
"""Each safe type of the yardstick with the unsafe one that was written against it."""


@dataclass(frozen=True, slots=True)
class AtBound:
    """What a threshold does among refused prompts: over-refusals called benign, and warranted refusals called so."""

    threshold: float
    recall: Interval
    false_open: Interval


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures on contrast pairs of topics that were not learnt; intervals are over topics.

    ``auc`` ranks every harmful side against every benign one; ``ordered`` is the share of pairs whose harmful side
    scores above its own twin, ties counting half; ``by_language`` and ``by_topic`` are AUCs.
    """

    auc: Interval
    ordered: Interval
    by_language: Mapping[str, float]
    by_topic: Mapping[str, float]


def auc(scores: DoubleArray, harmful: BoolArray) -> float:
    """Return P(a harmful one scores above a benign one), ties counting half; nan without both labels."""
    positives, negatives = scores[harmful], np.sort(scores[~harmful])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left")
    up_to = np.searchsorted(negatives, positives, side="right")
    return float((below + up_to).mean() / 2 / len(negatives))


def auc_interval(scores: DoubleArray, harmful: BoolArray, *, resamples: int = _RESAMPLES) -> Interval:
    """Return the AUC with its 95 % bootstrap interval; one row is one prompt."""
    generator = np.random.default_rng(0)
    positives, negatives = scores[harmful], scores[~harmful]
    labels = np.repeat([True, False], [len(positives), len(negatives)])
    drawn = [
        auc(
            np.concatenate([generator.choice(positives, len(positives)), generator.choice(negatives, len(negatives))]),
            labels,
        )
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(auc(scores, harmful), float(low), float(high))


def auc_by_kind(examples: Sequence[Example], scores: DoubleArray) -> dict[str, float]:
    """Return the AUC of each safe type of the yardstick against the unsafe type written for it."""
    kinds = np.array([example.kind for example in examples])
    harmful = np.array([example.harmful for example in examples])
    found: dict[str, float] = {}
    for safe, unsafe in CONTRAST_KINDS.items():
        rows = (kinds == safe) | (kinds == unsafe)
        found[safe] = auc(scores[rows], harmful[rows])
    return found


def held_out_pairs(examples: Sequence[Example], scores: DoubleArray, *, resamples: int = _RESAMPLES) -> HeldOut:
    """Return the figures of the contrast pairs among ``examples``, from scores out of fold ``[examples]``."""
    rows = np.array([row for row, example in enumerate(examples) if example.source == CONTRAST], dtype=np.int64)
    pairs = [examples[row] for row in rows.tolist()]
    scores = scores[rows]
    harmful = np.array([one.harmful for one in pairs])
    topics = np.array([one.kind for one in pairs])
    languages = np.array([one.language for one in pairs])
    twins = np.array([one.twin for one in pairs])
    above = _above_twin(scores, harmful, twins)
    by_topic = [np.flatnonzero(topics == topic) for topic in np.unique(topics)]
    generator = np.random.default_rng(0)
    drawn = np.empty((resamples, 2))
    for sample in range(resamples):
        chosen = np.concatenate([by_topic[topic] for topic in generator.integers(len(by_topic), size=len(by_topic))])
        drawn[sample] = auc(scores[chosen], harmful[chosen]), above[chosen].mean()
    (auc_low, ordered_low), (auc_high, ordered_high) = np.quantile(drawn, [0.025, 0.975], axis=0)
    return HeldOut(
        Interval(auc(scores, harmful), float(auc_low), float(auc_high)),
        Interval(float(above.mean()), float(ordered_low), float(ordered_high)),
        _auc_by(languages, scores, harmful),
        _auc_by(topics, scores, harmful),
    )


def recall_at(refused: Sequence[Refused], scores: Mapping[str, float], threshold: float) -> AtBound:
    """Return what ``score < threshold`` opens among refused prompts; a prompt counts once, however many refused it."""
    opened = {
        label: [scores[one.prompt] < threshold for one in refused if one.harmful is label] for label in (False, True)
    }
    recall, false_open = (clopper_pearson(sum(opened[label]), len(opened[label])) for label in (False, True))
    return AtBound(threshold, recall, false_open)


def recall_at_bound(refused: Sequence[Refused], scores: Mapping[str, float], limit: float) -> AtBound | None:
    """Return the best that any threshold reaches on these very prompts with the upper bound at most ``limit``.

    The threshold is chosen on what it is scored on, so this is what could be had at most, not what to expect.
    """
    warranted = [one.prompt for one in refused if one.harmful]
    threshold = false_open_threshold(np.array([scores[prompt] for prompt in warranted]), warranted, limit)
    return None if threshold is None else recall_at(refused, scores, threshold)


def _above_twin(scores: DoubleArray, harmful: BoolArray, twins: npt.NDArray[np.int64]) -> DoubleArray:
    """Return for each row 1 where the harmful side of its pair scores above the benign one, 0.5 for a tie, else 0."""
    sides: dict[int, dict[bool, float]] = {}
    for score, label, twin in zip(scores.tolist(), harmful.tolist(), twins.tolist(), strict=True):
        sides.setdefault(twin, {})[label] = score
    order = {twin: 0.5 + 0.5 * float(np.sign(side[True] - side[False])) for twin, side in sides.items()}
    return np.array([order[twin] for twin in twins.tolist()])


def _auc_by(groups: npt.NDArray[np.str_], scores: DoubleArray, harmful: BoolArray) -> dict[str, float]:
    return {str(group): auc(scores[groups == group], harmful[groups == group]) for group in np.unique(groups)}

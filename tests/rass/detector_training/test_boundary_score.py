"""Figures on hand-made scores."""

from __future__ import annotations

import numpy as np
import pytest

from rass.detector_training.boundary_data import CONTRAST, Example, Refused
from rass.detector_training.boundary_score import (
    auc,
    auc_by_kind,
    auc_interval,
    held_out_pairs,
    recall_at,
    recall_at_bound,
)


def test_auc() -> None:
    harmful = np.array([True, True, False, False])
    assert auc(np.array([3.0, 2.0, 1.0, 0.0]), harmful) == 1.0
    assert auc(np.array([0.0, 1.0, 2.0, 3.0]), harmful) == 0.0
    assert auc(np.array([1.0, 1.0, 1.0, 1.0]), harmful) == 0.5
    assert auc(np.array([2.0, 0.0, 1.0, -1.0]), harmful) == 0.75
    assert np.isnan(auc(np.array([1.0]), np.array([True])))


def test_interval_holds_the_value() -> None:
    generator = np.random.default_rng(0)
    harmful = np.arange(200) < 100
    scores = generator.normal(size=200) + harmful
    found = auc_interval(scores, harmful, resamples=200)
    assert found.low < found.value < found.high
    assert 0.1 < found.high - found.low < 0.25


def test_kinds_are_held_against_the_kind_written_for_them() -> None:
    def example(kind: str, harmful: bool) -> Example:
        return Example(kind, harmful, "en", "XSTest v2", kind, kind)

    examples = [example("homonyms", False), example("contrast_homonyms", True), example("contrast_privacy", True)]
    assert auc_by_kind(examples, np.array([0.0, 1.0, -1.0]))["homonyms"] == 1.0


def test_recall_among_refused() -> None:
    refused = [Refused(f"b{n}", False, 1) for n in range(4)] + [Refused(f"h{n}", True, 5) for n in range(200)]
    scores = {f"b{n}": float(n) for n in range(4)} | {f"h{n}": 2.5 + n for n in range(200)}
    found = recall_at(refused, scores, 2.0)
    assert (found.recall.value, found.false_open.value) == (0.5, 0.0)
    assert found.false_open.high == pytest.approx(1 - 0.025 ** (1 / 200))
    best = recall_at_bound(refused, scores, 0.03)
    assert best is not None
    assert (best.recall.value, best.false_open.value) == (1.0, 1 / 200)
    assert best.false_open.high <= 0.03
    assert recall_at_bound(refused[:100], scores, 0.03) is None  # too few to promise anything


def test_pairs_of_held_out_topics() -> None:
    scores, examples = [], [Example("not a pair", True, "en", "A", "", "a")]
    for number, (topic, harmful, benign) in enumerate(
        [("law", 2.0, 1.0), ("law", 0.0, -1.0), ("art", 3.0, 3.0), ("art", -2.0, 0.5)]
    ):
        for label, score in ((True, harmful), (False, benign)):
            language = "de" if topic == "art" else "en"
            examples.append(Example(f"{number} {label}", label, language, CONTRAST, topic, f"u{number}", number))
            scores.append(score)
    found = held_out_pairs(examples, np.array([-99.0, *scores]), resamples=200)
    assert found.ordered.value == (1 + 1 + 0.5 + 0) / 4
    assert (found.ordered.low, found.ordered.high) == (0.25, 1.0)  # a topic is drawn as a whole
    assert found.by_topic == {"law": 0.75, "art": pytest.approx(1.5 / 4)}
    assert found.by_language == {"en": 0.75, "de": pytest.approx(1.5 / 4)}
    assert found.auc.low <= found.auc.value <= found.auc.high

"""Figures on hand-made scores."""

from __future__ import annotations

import numpy as np
import pytest

from rass.detector_training.boundary_data import Example, Refused
from rass.detector_training.boundary_score import auc, auc_by_kind, auc_interval, recall_at, recall_at_bound


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

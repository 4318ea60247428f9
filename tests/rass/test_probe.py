"""Probes find the layer and direction that carry a label, and their scores are honest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rass.errors import StageError
from rass.gate import candidate_layers, coverage
from rass.logistic import log_loss
from rass.probe import FittedProbe, ProbeRows, ProbeSettings, fit_probe
from rass.prompts import LabelledPrompt, PromptSet

SETTINGS = ProbeSettings(penalties=(1e-3, 1e-2), rounds=2)


def _rows(prompts: tuple[LabelledPrompt, ...], *, signal: float) -> ProbeRows:
    """Layer 1 carries harm along axis 4; everything else is noise."""
    generator = np.random.default_rng(0)
    labels = np.array([prompt.harmful for prompt in prompts])
    values = generator.normal(0, 1, (len(prompts), 3, 12)).astype(np.float32)
    values[:, 1, 4] += signal * np.where(labels, 1, -1)
    return ProbeRows(values, labels, prompts, np.ones(len(prompts), dtype=bool))


def _fit(rows: ProbeRows) -> FittedProbe:
    def merit(scores: np.ndarray, tested: np.ndarray) -> float:
        return -float(log_loss(scores[tested], rows.labels[tested]).mean())

    return fit_probe(rows, candidate_layers(3), merit, SETTINGS)


def test_layer_and_direction_are_found(make_prompts: Callable[..., PromptSet]) -> None:
    rows = _rows(make_prompts("selection", frames=4).prompts, signal=2.0)
    fitted = _fit(rows)
    assert 1 in fitted.probe.layers
    weight = fitted.probe.weight.reshape(len(fitted.probe.layers), 12)
    assert np.abs(weight).max() == weight[fitted.probe.layers.index(1), 4]
    assert ((fitted.out_of_fold > 0) == rows.labels).mean() > 0.95
    assert np.corrcoef(fitted.probe.score(rows.values), fitted.out_of_fold)[0, 1] > 0.99


def test_out_of_fold_logits_are_calibrated(make_prompts: Callable[..., PromptSet]) -> None:
    rows = _rows(make_prompts("selection").prompts, signal=0.7)
    scores = _fit(rows).out_of_fold
    for low, high in ((-2, -1), (-1, 0), (0, 1), (1, 2)):
        inside = (scores >= low) & (scores < high)
        odds = rows.labels[inside].mean() / (1 - rows.labels[inside].mean())
        odds *= (~rows.labels).sum() / rows.labels.sum()  # calibrated at even odds of the classes
        assert low - 0.6 < np.log(odds) < high + 0.6


def test_what_does_not_carry_over_to_new_objects_earns_no_credit(make_prompts: Callable[..., PromptSet]) -> None:
    """Each object wears a strong mark of its own, which says nothing about an object that was held out."""
    prompts = make_prompts("selection", frames=4).prompts
    generator = np.random.default_rng(1)
    objects = {(prompt.category, prompt.object) for prompt in prompts}
    marks = {one: generator.normal(0, 5, 12) for one in sorted(objects)}
    harmful = {one: number % 2 == 0 for number, one in enumerate(sorted(objects))}
    plain = _rows(prompts, signal=0.0)
    labels = np.array([harmful[prompt.category, prompt.object] for prompt in prompts])
    values = plain.values.copy()
    values[:, 1] += np.stack([marks[prompt.category, prompt.object] for prompt in prompts]).astype(np.float32)
    values[:, 2, 4] += 0.4 * np.where(labels, 1, -1)
    fitted = _fit(ProbeRows(values, labels, prompts, plain.fit))
    learnt_by_heart = (fitted.probe.score(values) > 0) == labels
    assert learnt_by_heart.mean() > 0.95 or fitted.probe.layers == (2,)
    assert ((fitted.out_of_fold > 0) == labels).mean() < 0.8


def test_one_class_is_refused(make_prompts: Callable[..., PromptSet]) -> None:
    prompts = tuple(prompt for prompt in make_prompts("selection", frames=1) if prompt.harmful)
    with pytest.raises(StageError, match="both classes"):
        _fit(_rows(prompts, signal=1.0))


def test_coverage_counts_trigger_requests_below_the_leak(make_prompts: Callable[..., PromptSet]) -> None:
    prompts = make_prompts("selection").prompts
    perfect = np.array([1.0 if prompt.harmful else -1.0 for prompt in prompts])
    tested = np.ones(len(prompts), dtype=bool)
    assert coverage(perfect, tested, prompts, 0.01) == 1.0
    assert coverage(-perfect, tested, prompts, 0.01) == 0.0

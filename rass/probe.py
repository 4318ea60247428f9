"""Linear probes on concatenated layers: chosen, fitted, calibrated, and scored out of fold.

A probe's published scores are all out of fold (`folds`): every threshold and every figure about a probe comes from
them. The exported weights are fitted on all rows afterwards, with standardisation and Platt scaling folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rass.errors import StageError
from rass.folds import Block, Blocks, BoolArray, IntArray, balanced_weights
from rass.logistic import fit_logistic, log_loss
from rass.model import FloatArray
from rass.prompts import LabelledPrompt

__all__ = ["FittedProbe", "LinearProbe", "ProbeRows", "ProbeSettings", "fit_probe"]

DoubleArray = npt.NDArray[np.float64]

_PLATT_PENALTY = 1e-6


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """coordinate = x·weight + bias, where x concatenates the residual streams after ``layers``; a calibrated logit."""

    layers: tuple[int, ...]
    weight: DoubleArray
    bias: float

    def score(self, values: FloatArray) -> DoubleArray:
        """Return the coordinates ``[rows]`` of residual streams ``[rows, all layers, d]``."""
        return np.asarray(_concatenated(values, self.layers) @ self.weight + self.bias)


@dataclass(frozen=True, slots=True)
class ProbeRows:
    """What a probe learns from: ``values`` ``[rows, layers, d]`` with labels and the prompt behind each row.

    Rows outside ``fit`` are scored out of fold but never learnt from.
    """

    values: FloatArray
    labels: BoolArray
    prompts: tuple[LabelledPrompt, ...]
    fit: BoolArray


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How a probe is searched for: ridge penalties, rounds of worst-group reweighting and their step, folds."""

    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    rounds: int = 3
    step: float = 0.7
    folds: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FittedProbe:
    """The exported probe with its out-of-fold logits ``[rows]`` and the settings that were chosen."""

    probe: LinearProbe
    out_of_fold: DoubleArray
    penalty: float
    rounds: int
    merit: float


Merit = Callable[[DoubleArray, BoolArray], float]
"""Judges out-of-fold logits ``[rows]`` over the rows that were tested ``[rows]``; higher is better."""


def fit_probe(
    rows: ProbeRows, layer_sets: Sequence[tuple[int, ...]], merit: Merit, settings: ProbeSettings | None = None
) -> FittedProbe:
    """Choose layers, penalty and reweighting by ``merit`` on out-of-fold scores, then fit on all rows.

    Ties go to the earlier layer set and to the larger penalty. Raises ``StageError`` when a class is missing.
    """
    settings = settings or ProbeSettings()
    if not (rows.labels & rows.fit).any() or not (~rows.labels & rows.fit).any():
        raise StageError("a probe needs rows of both classes")
    blocks = Blocks.of(rows.prompts, settings.folds, seed=settings.seed)
    groups, group_labels = _numbered((prompt.language, prompt.wrapping or "") for prompt in rows.prompts)
    cells, _ = _numbered((*prompt.cell, prompt.trigger) for prompt in rows.prompts)
    even = np.ones(len(group_labels) * 2)
    middle = settings.penalties[len(settings.penalties) // 2]

    def scored(layers: tuple[int, ...], penalty: float, shares: DoubleArray, parts: Iterable[Block]) -> DoubleArray:
        return _out_of_fold(rows, layers, penalty, groups, cells, shares, parts)

    def merit_of(scores: DoubleArray) -> float:
        return merit(scores, np.isfinite(scores))

    layers = max(layer_sets, key=lambda one: merit_of(scored(one, middle, even, blocks.diagonal())))
    penalty = max(
        sorted(settings.penalties, reverse=True),
        key=lambda one: merit_of(scored(layers, one, even, blocks.diagonal())),
    )
    shares, best = even, (-np.inf, 0, even, np.zeros(0))
    # A row's group includes its label: hard attacks and hard benign wrappings are weighed up independently.
    side = groups + len(group_labels) * rows.labels
    for number in range(settings.rounds + 1):
        scores = scored(layers, penalty, shares, blocks)
        if (value := merit_of(scores)) > best[0]:
            best = (value, number, shares, scores)
        losses = log_loss(scores, rows.labels)
        for group in np.unique(side[rows.fit]):
            members = (side == group) & rows.fit & np.isfinite(scores)
            if members.any():
                shares = shares.copy()
                shares[group] *= np.exp(settings.step * losses[members].mean() / losses[np.isfinite(losses)].mean())
    value, number, shares, scores = best
    slope, intercept = _platt(scores, rows, groups, cells)
    probe = _calibrated(_fit(rows, layers, penalty, groups, cells, shares, rows.fit), slope, intercept)
    return FittedProbe(probe, slope * scores + intercept, penalty, number, value)


def _out_of_fold(
    rows: ProbeRows,
    layers: tuple[int, ...],
    penalty: float,
    groups: IntArray,
    cells: IntArray,
    shares: DoubleArray,
    parts: Iterable[Block],
) -> DoubleArray:
    """Return raw logits of the tested rows; rows that no part tests are nan."""
    scores = np.full(len(rows.labels), np.nan)
    for part in parts:
        chosen = part.train & rows.fit
        if part.test.any() and rows.labels[chosen].any() and not rows.labels[chosen].all():
            scores[part.test] = _fit(rows, layers, penalty, groups, cells, shares, chosen).score(rows.values[part.test])
    if not np.isfinite(scores).any():
        raise StageError(
            "no cross-validation part holds both classes: too few objects or frames in the selection split"
        )
    return scores


def _fit(
    rows: ProbeRows,
    layers: tuple[int, ...],
    penalty: float,
    groups: IntArray,
    cells: IntArray,
    shares: DoubleArray,
    chosen: BoolArray,
) -> LinearProbe:
    side = groups + (len(shares) // 2) * rows.labels
    weights = balanced_weights(rows.labels, side, cells, shares, chosen)[chosen]
    features = _concatenated(rows.values[chosen], layers)
    mean = weights @ features
    deviation = np.sqrt(weights @ (features - mean) ** 2) + 1e-8
    features = (features - mean) / deviation
    coefficients = fit_logistic(features, rows.labels[chosen], weights, penalty=penalty)
    weight = coefficients[:-1] / deviation
    return LinearProbe(layers, weight, float(coefficients[-1] - weight @ mean))


def _platt(scores: DoubleArray, rows: ProbeRows, groups: IntArray, cells: IntArray) -> tuple[float, float]:
    """Return slope and intercept that make out-of-fold scores calibrated logits at even odds (Platt 1999)."""
    known = rows.fit & np.isfinite(scores)
    side = groups + (int(groups.max()) + 1) * rows.labels
    weights = balanced_weights(rows.labels, side, cells, np.ones(int(side.max()) + 1), known)[known]
    slope, intercept = fit_logistic(scores[known][:, None], rows.labels[known], weights, penalty=_PLATT_PENALTY)
    if slope <= 0:
        raise StageError("the probe does not generalise: out of fold its score falls as harm rises")
    return float(slope), float(intercept)


def _calibrated(probe: LinearProbe, slope: float, intercept: float) -> LinearProbe:
    return LinearProbe(probe.layers, slope * probe.weight, slope * probe.bias + intercept)


def _concatenated(values: FloatArray, layers: Sequence[int]) -> DoubleArray:
    return values[:, list(layers)].reshape(len(values), -1).astype(np.float64)


def _numbered(keys: Iterable[tuple[object, ...]]) -> tuple[IntArray, list[tuple[object, ...]]]:
    """Number the keys in order of appearance; return ``[rows]`` numbers and the keys by number."""
    numbers: dict[tuple[object, ...], int] = {}
    rows = [numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(rows, dtype=np.int64), list(numbers)

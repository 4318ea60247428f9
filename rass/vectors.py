"""Directions in the residual stream: harm, refusal, and the baselines that mix them.

Every direction is a difference of means, accumulated in float64: thousands of float32 rows of similar size lose the
small differences that matter here.

* harm: harmful and refused minus benign and refused. Refusal is held constant (Zhao et al., arXiv 2507.11878).
* refusal: benign and refused minus benign and answered. Harm is held constant.
* plain: harmful minus benign, whatever the model did (Arditi et al., arXiv 2406.11717): the baseline, mixes the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rass.errors import StageError
from rass.model import FloatArray
from rass.observe import IntArray, Observations
from rass.prompts import LabelledPrompt

__all__ = ["POOLED", "DirectionSet", "SteeringVectors", "build", "matched_difference", "orthogonal_to"]

DoubleArray = npt.NDArray[np.float64]

POOLED = "pooled"
"""The name under which the directions over all languages stand."""

_MIN_CONTRAST = 8
"""Fewer prompts than this on one side of a contrast make a direction of noise."""

_SHRINKAGE = 0.1
"""Share of the identity in the whitening covariance: with few rows the sample covariance has no inverse."""


@dataclass(frozen=True, slots=True)
class DirectionSet:
    """Directions of one language (or pooled), each ``[layers, d]`` and not normalised: the length is the contrast.

    All are read where the last answer starts. ``answered`` is the mean residual stream of answered benign requests
    there, the point that ablation moves towards.
    """

    harm: DoubleArray
    refusal: DoubleArray
    refusal_orthogonal: DoubleArray
    plain: DoubleArray
    answered: DoubleArray


@dataclass(frozen=True, slots=True)
class SteeringVectors:
    """The directions of every language and the pooled ones, under the language's code and ``POOLED``."""

    by_language: Mapping[str, DirectionSet]

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have directions of their own, sorted."""
        return tuple(sorted(set(self.by_language) - {POOLED}))


def build(observations: Observations) -> SteeringVectors:
    """Compute all directions; a language with too few prompts on a side of a contrast gets none of its own.

    Raises ``StageError`` when not even all languages together have both refused and answered benign prompts.
    """
    languages = sorted({prompt.language for prompt in observations.prompts})
    result: dict[str, DirectionSet] = {}
    for language in languages:
        rows = {row for row, prompt in enumerate(observations.prompts) if prompt.language == language}
        if (directions := _directions(observations, rows)) is not None:
            result[language] = directions
    pooled = _directions(observations, set(range(len(observations.prompts))))
    if pooled is None:
        counts = {
            f"{'harmful' if harmful else 'benign'} {'refused' if refused else 'answered'}": len(
                observations.rows(harmful=harmful, refused=refused)
            )
            for harmful, refused in ((True, True), (False, True), (False, False))
        }
        raise StageError(
            f"the model gives no contrast to build directions from (at least {_MIN_CONTRAST} each): {counts}"
        )
    return SteeringVectors({**result, POOLED: pooled})


def matched_difference(values: FloatArray, first: IntArray, second: IntArray, strata: Sequence[object]) -> DoubleArray:
    """Return mean(first) - mean(second) ``[layers, d]`` within strata, averaged with the smaller count as weight.

    A stratum that holds only one side says nothing and is left out; when no stratum holds both, the difference of the
    plain means is returned.
    """
    sides = tuple(_by_stratum(rows, strata) for rows in (first, second))
    shared = [stratum for stratum in sides[0] if stratum in sides[1]]
    if not shared:
        return _mean(values, first) - _mean(values, second)
    weights = np.array([min(len(sides[0][stratum]), len(sides[1][stratum])) for stratum in shared], dtype=np.float64)
    differences = [_mean(values, sides[0][stratum]) - _mean(values, sides[1][stratum]) for stratum in shared]
    return np.tensordot(weights / weights.sum(), np.stack(differences), axes=1)


def orthogonal_to(direction: DoubleArray, other: DoubleArray, residuals: DoubleArray) -> DoubleArray:
    """Return ``direction`` minus its part along ``other`` in the metric of the whitened space.

    ``residuals`` ``[rows, d]`` are within-class deviations; with S their shrunk covariance, whitening maps x to
    S^(-1/2) x, where the projection reads  ρ - (ρᵀ S⁻¹ h / hᵀ S⁻¹ h) h.
    """
    width = residuals.shape[1]
    covariance = residuals.T @ residuals / max(len(residuals) - 1, 1)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    weighted = np.linalg.solve(covariance, other)
    return direction - (direction @ weighted) / (other @ weighted) * other


def _directions(observations: Observations, rows: set[int]) -> DirectionSet | None:
    def side(*, harmful: bool, refused: bool) -> IntArray:
        chosen = observations.rows(harmful=harmful, refused=refused)
        return chosen[np.isin(chosen, list(rows))]

    harmful_refused = side(harmful=True, refused=True)
    benign_refused, benign_answered = side(harmful=False, refused=True), side(harmful=False, refused=False)
    if min(len(harmful_refused), len(benign_refused), len(benign_answered)) < _MIN_CONTRAST:
        return None
    turns, ends = observations.last_turns, observations.readings.ends
    by_verb = _strata(observations.prompts, lambda prompt: (prompt.language, prompt.verb, prompt.wrapping))
    by_category = _strata(observations.prompts, lambda prompt: (prompt.language, prompt.category))
    harm = matched_difference(turns, harmful_refused, benign_refused, by_verb)
    refusal = matched_difference(ends, benign_refused, benign_answered, by_category)
    harm_at_end = matched_difference(ends, harmful_refused, benign_refused, by_verb)
    residuals = np.concatenate(
        [ends[group].astype(np.float64) - _mean(ends, group) for group in (benign_refused, benign_answered)]
    )
    orthogonal = np.stack(
        [orthogonal_to(refusal[layer], harm_at_end[layer], residuals[:, layer]) for layer in range(len(refusal))]
    )
    harmful = np.array([row for row in sorted(rows) if observations.prompts[row].harmful], dtype=np.int64)
    benign = np.array([row for row in sorted(rows) if not observations.prompts[row].harmful], dtype=np.int64)
    return DirectionSet(
        harm=harm,
        refusal=refusal,
        refusal_orthogonal=orthogonal,
        plain=_mean(turns, harmful) - _mean(turns, benign),
        answered=_mean(ends, benign_answered),
    )


def _strata(prompts: Sequence[LabelledPrompt], key: Callable[[LabelledPrompt], object]) -> list[object]:
    return [key(prompt) for prompt in prompts]


def _by_stratum(rows: IntArray, strata: Sequence[object]) -> dict[object, IntArray]:
    groups: dict[object, list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(strata[row], []).append(row)
    return {stratum: np.array(members, dtype=np.int64) for stratum, members in groups.items()}


def _mean(values: FloatArray, rows: IntArray) -> DoubleArray:
    return np.asarray(values[rows].mean(axis=0, dtype=np.float64))

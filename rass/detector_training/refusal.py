"""Training of the refusal detector's weights, and the score of each source when it is left out.

The features, the lexicons and the judging are the detector's own (`detectors.refusal*`): what is fitted here is one
weight for each feature. With about a hundred weights for thirteen thousand answers the question is not overfitting but
which source's habits win, so sources are weighted towards equality and every choice is judged on a source left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.refusal import RefusalWeights, TextRefusalDetector
from detectors.refusal_cues import CueFinder, load_finder
from detectors.refusal_features import features
from detectors.refusal_text import prepare
from rass.detector_training.refusal_data import SOURCES, Example
from rass.logistic import fit_logistic

FULL_THRESHOLD = 0.5
PARTIAL_THRESHOLD = 0.2
_PENALTY = 1e-3
_FEWEST = 20  # a feature seen in fewer answers gets no weight
_DIGITS = 4

Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class SourceScore:
    """How the detector does on a source that it was not trained on; shares are ``None`` where a class is missing."""

    source: str
    language: str
    answers: int
    accuracy: float
    recall: float | None
    false_alarms: float | None


@dataclass(frozen=True, slots=True)
class Featured:
    """An example with its features, so that they are computed once for all fits."""

    example: Example
    features: dict[str, float]


def featurize(examples: Sequence[Example], advance: Advance | None = None) -> list[Featured]:
    """Compute the features of all examples; ``advance`` is called after each."""
    finder = load_finder()
    rows: list[Featured] = []
    for example in examples:
        rows.append(Featured(example, features(prepare(example.response), finder)))
        if advance is not None:
            advance()
    return rows


def fit(rows: Sequence[Featured]) -> RefusalWeights:
    """Fit the weights on ``rows``; deterministic."""
    seen = Counter(name for row in rows for name in row.features)
    names = sorted(name for name, count in seen.items() if count >= _FEWEST)
    column = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)))
    for index, row in enumerate(rows):
        for name, value in row.features.items():
            if name in column:
                matrix[index, column[name]] = value
    labels: npt.NDArray[np.bool_] = np.array([row.example.refusal for row in rows])
    coefficients = fit_logistic(matrix, labels, _weights(rows), penalty=_PENALTY)
    weights = {name: round(float(coefficients[index]), _DIGITS) for name, index in column.items()}
    return RefusalWeights(round(float(coefficients[-1]), _DIGITS), weights, FULL_THRESHOLD, PARTIAL_THRESHOLD)


def leave_one_source_out(rows: Sequence[Featured]) -> list[SourceScore]:
    """Score every source, by language, with weights that were fitted without it; only undisputed labels count."""
    finder = load_finder()
    scores: list[SourceScore] = []
    for source in (source.name for source in SOURCES):
        held_out = [row for row in rows if row.example.source == source]
        rest = [row for row in rows if row.example.source != source]
        if not held_out or len({row.example.refusal for row in rest}) < 2:
            continue
        weights = fit(rest)
        for language in sorted({row.example.language for row in held_out}):
            part = [row for row in held_out if row.example.language == language and row.example.weight == 1.0]
            scores.append(_score(source, language, part, finder, weights))
    return scores


def save(weights: RefusalWeights, path: Path, *, files: dict[str, str], counts: dict[str, int]) -> None:
    """Write weights with their provenance as stable JSON."""
    payload = {
        "made_by": "rass detector refusal",
        "sources": [
            {
                "name": source.name,
                "license": source.license,
                "sha256": files[source.file],
                "answers": counts[source.name],
            }
            for source in SOURCES
        ],
        "full": weights.full,
        "partial": weights.partial,
        "bias": weights.bias,
        "weights": weights.weights,
    }
    path.write_text(json.dumps(payload, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _weights(rows: Sequence[Featured]) -> npt.NDArray[np.float64]:
    """Weigh sources by the square root of their size: half-way between one vote an answer and one vote a source."""
    sizes = Counter(row.example.source for row in rows)
    return np.array([row.example.weight / sizes[row.example.source] ** 0.5 for row in rows])


def _score(
    source: str, language: str, rows: Sequence[Featured], finder: CueFinder, weights: RefusalWeights
) -> SourceScore:
    detector = TextRefusalDetector(finder, weights)
    found = np.array([detector.judge(row.example.response).refused for row in rows])
    truth = np.array([row.example.refusal for row in rows])
    return SourceScore(
        source=source,
        language=language,
        answers=len(rows),
        accuracy=float(np.mean(found == truth)),
        recall=float(np.mean(found[truth])) if truth.any() else None,
        false_alarms=float(np.mean(found[~truth])) if not truth.all() else None,
    )

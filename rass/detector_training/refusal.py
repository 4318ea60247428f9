"""Training of the refusal detector's weights, and of those that leave a source out.

The features, the lexicons and the judging are the detector's own (`detectors.refusal*`): what is fitted here is one
weight for each feature and word. The question is not overfitting but which source's habits win, so sources are weighted
towards equality, words must occur in two of them, and every choice is judged on a source left out.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.refusal import RefusalWeights
from detectors.refusal_cues import load_finder
from detectors.refusal_features import features
from detectors.refusal_text import prepare
from detectors.refusal_words import scale, words
from rass.detector_training.refusal_data import SOURCES, Example
from rass.detector_training.refusal_fit import Sparse, fit_dense, fit_sparse

FULL_THRESHOLD = 0.5
PARTIAL_THRESHOLD = 0.2
_FEWEST = 20  # a feature seen in fewer answers gets no weight
_FEWEST_WORD = 5
_WORD_SOURCES = 2
_PENALTY = 3e-3
_WORD_PENALTY = 2e-4
_DIGITS = 4
_WORD_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Featured:
    """An example with its features and words, so that they are computed once for all fits."""

    example: Example
    features: dict[str, float]
    words: list[str]


def featurize(examples: Sequence[Example]) -> list[Featured]:
    """Compute the features and words of all examples."""
    finder = load_finder()
    rows: list[Featured] = []
    for example in examples:
        answer = prepare(example.response)
        rows.append(Featured(example, features(answer, finder), words(answer)))
    return rows


def fit(rows: Sequence[Featured]) -> RefusalWeights:
    """Fit the weights on ``rows``; deterministic."""
    seen = Counter(name for row in rows for name in row.features)
    names = sorted(name for name, count in seen.items() if count >= _FEWEST)
    column = {name: index for index, name in enumerate(names)}
    table = np.zeros((len(rows), len(names)))
    for index, row in enumerate(rows):
        for name, value in row.features.items():
            if name in column:
                table[index, column[name]] = value
    labels = np.array([row.example.refusal for row in rows])
    shares = row_weights(rows)
    dense, bias = fit_dense(table, labels, shares, _PENALTY)
    # Words come second, on English rows alone and on top of the cues' logit: fitted together, they would take over
    # what the cues explain, and every other language would be left with the rest.
    english = np.array([bool(row.words) for row in rows])
    vocabulary = _vocabulary(rows)
    known = [[vocabulary[word] for word in row.words if word in vocabulary] for row in rows if row.words]
    table_of_words = Sparse(known, [scale(len(columns)) for columns in known], len(vocabulary))
    offsets = table[english] @ dense + bias
    heard, shift = fit_sparse(table_of_words, offsets, labels[english], shares[english], _WORD_PENALTY)
    weights = {name: round(float(dense[index]), _DIGITS) for name, index in column.items()}
    word_weights = {word: round(float(heard[index]), _WORD_DIGITS) for word, index in vocabulary.items()}
    return RefusalWeights(
        bias=round(bias, _DIGITS),
        weights=weights,
        english_bias=round(shift, _DIGITS),
        words={word: weight for word, weight in word_weights.items() if weight},
        full=FULL_THRESHOLD,
        partial=PARTIAL_THRESHOLD,
    )


def without(rows: Sequence[Featured], source: str) -> list[Featured]:
    """Return the rows of all other sources."""
    return [row for row in rows if row.example.source != source]


def save(weights: RefusalWeights, path: Path, *, files: dict[str, str], counts: dict[str, int]) -> None:
    """Write weights with their provenance as stable JSON; ``counts`` names the sources that were trained on."""
    payload = {
        "made_by": "rass detector train refusal",
        "sources": [
            {
                "name": source.name,
                "license": source.license,
                "sha256": files[source.file],
                "answers": counts[source.name],
            }
            for source in SOURCES
            if source.name in counts
        ],
        "full": weights.full,
        "partial": weights.partial,
        "bias": weights.bias,
        "weights": weights.weights,
        "english_bias": weights.english_bias,
        "words": weights.words,
    }
    path.write_text(json.dumps(payload, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def row_weights(rows: Sequence[Featured]) -> npt.NDArray[np.float64]:
    """Weigh sources by the square root of their size: half-way between one vote an answer and one vote a source."""
    sizes = Counter(row.example.source for row in rows)
    return np.array([row.example.weight / sizes[row.example.source] ** 0.5 for row in rows])


def _vocabulary(rows: Sequence[Featured]) -> dict[str, int]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for word in row.words:
            seen[word][row.example.source] += 1
    kept = sorted(
        word for word, counts in seen.items() if len(counts) >= _WORD_SOURCES and counts.total() >= _FEWEST_WORD
    )
    return {word: index for index, word in enumerate(kept)}

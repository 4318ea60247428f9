"""Training of the refusal detector's weights, and of those that leave a source out.

The features, the lexicons and the judging are the detector's own (`detectors.refusal*`): what is fitted here is one
weight for each feature and word. The question is not overfitting but which source's habits win, so sources are weighted
towards equality, words must occur in two of them, and every choice is judged on a source left out.
"""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.refusal import RefusalWeights
from detectors.refusal_cues import load_finder
from detectors.refusal_features import features_of, opening_of
from detectors.refusal_ngrams import BUCKETS, Buckets, ngrams
from detectors.refusal_ngrams import scale as ngram_scale
from detectors.refusal_text import prepare
from detectors.refusal_words import scale, words
from rass.detector_training.refusal_data import SOURCES, Example
from rass.detector_training.refusal_fit import Sparse, fit_dense, fit_sparse

FULL_THRESHOLD = 0.5
# Chosen on sources left out: below this a full refusal that gives something is called partial. Between .5 and .7 such
# answers are as often answers or partial refusals as full ones; above, full ones outnumber them.
SURE_THRESHOLD = 0.7
PARTIAL_THRESHOLD = 0.2
_FEWEST = 20  # a feature seen in fewer answers gets no weight
_FEWEST_WORD = 5
_WORD_SOURCES = 2
# Chosen together, on sources left out. The larger the share, the seldomer the whole overturns what the opening says:
# streams agree more, and what only stands further down is heard less.
_OPENING_SHARE = 0.5
_OPENING_PENALTY = 3e-3
_WORD_PENALTY = 2e-4
_PENALTY = 2e-3
_NGRAM_PENALTY = 1e-5
_NGRAM_STEPS = 25  # of L-BFGS, from nothing: it is left unfinished, which is a penalty of its own
_DIGITS = 4
_WORD_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Featured:
    """An example with the features of its whole head and of its opening, the opening's words and the head's n-grams."""

    example: Example
    features: dict[str, float]
    opening: dict[str, float]
    words: list[str]
    ngrams: Buckets


def featurize(examples: Sequence[Example]) -> list[Featured]:
    """Compute the features and words of all examples, once for all fits."""
    finder = load_finder()
    rows: list[Featured] = []
    for example in examples:
        answer = prepare(example.response)
        cues = finder.find(answer.sentences)
        opening, inside = opening_of(answer, cues)
        features = features_of(answer, cues), features_of(opening, inside)
        rows.append(Featured(example, *features, words(opening), ngrams(answer)))
    return rows


def fit(rows: Sequence[Featured]) -> RefusalWeights:
    """Fit the weights on ``rows``; deterministic."""
    labels = np.array([row.example.refusal for row in rows])
    shares = row_weights(rows)
    opening_names, openings = _table([row.opening for row in rows])
    opening, opening_bias = fit_dense(openings, labels, shares, _OPENING_PENALTY)
    logits = openings @ opening + opening_bias
    # Words come second, on English rows alone and on top of the cues' logit: fitted together, they would take over
    # what the cues explain, and every other language would be left with the rest.
    english = np.array([bool(row.words) for row in rows])
    vocabulary = _vocabulary(rows)
    known = [[vocabulary[word] for word in row.words if word in vocabulary] for row in rows if row.words]
    table_of_words = Sparse(known, [scale(len(columns)) for columns in known], len(vocabulary))
    heard, shift = fit_sparse(table_of_words, logits[english], labels[english], shares[english], _WORD_PENALTY)
    logits[english] += shift + np.array([scale(len(columns)) * heard[columns].sum() for columns in known])
    names, table = _table([row.features for row in rows])
    whole, bias = fit_dense(table, labels, shares, _PENALTY, _OPENING_SHARE * logits)
    shift_of_ngrams, numbers, unit = _fit_ngrams(rows, _OPENING_SHARE * logits + table @ whole + bias, labels, shares)
    word_weights = {word: round(float(heard[index]), _WORD_DIGITS) for word, index in vocabulary.items()}
    return RefusalWeights(
        opening_bias=round(opening_bias, _DIGITS),
        opening=_rounded(opening_names, opening),
        english_bias=round(shift, _DIGITS),
        words={word: weight for word, weight in word_weights.items() if weight},
        opening_share=_OPENING_SHARE,
        bias=round(bias, _DIGITS),
        weights=_rounded(names, whole),
        ngram_bias=round(shift_of_ngrams, _DIGITS),
        ngram_scale=unit,
        ngrams=base64.b64encode(numbers.tobytes()).decode("ascii"),
        sure=SURE_THRESHOLD,
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
        **asdict(weights),
    }
    path.write_text(json.dumps(payload, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def row_weights(rows: Sequence[Featured]) -> npt.NDArray[np.float64]:
    """Weigh sources by the square root of their size: half-way between one vote an answer and one vote a source."""
    sizes = Counter(row.example.source for row in rows)
    return np.array([row.example.weight / sizes[row.example.source] ** 0.5 for row in rows])


def _fit_ngrams(
    rows: Sequence[Featured],
    logits: npt.NDArray[np.float64],
    labels: npt.NDArray[np.bool_],
    shares: npt.NDArray[np.float64],
) -> tuple[float, npt.NDArray[np.int8], float]:
    """Return bias, weights ``[BUCKETS]`` as whole numbers and their unit, fitted on top of the logits of cues."""
    foreign = np.array([len(row.ngrams) > 0 for row in rows])
    if not foreign.any():
        return 0.0, np.zeros(BUCKETS, dtype=np.int8), 1.0
    columns = [row.ngrams.tolist() for row in rows if len(row.ngrams)]
    sparse = Sparse(columns, [ngram_scale(len(each)) for each in columns], BUCKETS)
    heard, shift = fit_sparse(sparse, logits[foreign], labels[foreign], shares[foreign], _NGRAM_PENALTY, _NGRAM_STEPS)
    # Rounded, so that the last bits of a sum, which depend on the number of threads, do not change the file.
    unit = float(f"{np.abs(heard).max() / 127:.5g}") or 1.0
    return shift, np.rint(heard / unit).astype(np.int8), unit


def _table(rows: Sequence[dict[str, float]]) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return the names of the features that are frequent enough, and ``[rows, names]`` of their values."""
    seen = Counter(name for row in rows for name in row)
    names = sorted(name for name, count in seen.items() if count >= _FEWEST)
    column = {name: index for index, name in enumerate(names)}
    table = np.zeros((len(rows), len(names)))
    for index, row in enumerate(rows):
        for name, value in row.items():
            if name in column:
                table[index, column[name]] = value
    return names, table


def _rounded(names: Sequence[str], coefficients: npt.NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(weight), _DIGITS) for name, weight in zip(names, coefficients, strict=True)}


def _vocabulary(rows: Sequence[Featured]) -> dict[str, int]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for word in row.words:
            seen[word][row.example.source] += 1
    kept = sorted(
        word for word, counts in seen.items() if len(counts) >= _WORD_SOURCES and counts.total() >= _FEWEST_WORD
    )
    return {word: index for index, word in enumerate(kept)}

"""The baseline that has to be beaten: logistic regression on hashed character n-grams, each source left out.

It is measured when the detector is trained and only its counts ship: `rass-detect evaluate` shows them beside the
detector's, without needing the libraries that fit it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.labelled_answers import FILES, LabelledAnswer, read_file
from detectors.refusal_ngrams import hashed, scale
from detectors.refusal_text import without_reasoning
from rass.detector_training.refusal_data import SOURCES, Example
from rass.detector_training.refusal_fit import Sparse, fit_sparse

_HEAD = 200
_LENGTHS = (3, 4)
_BUCKETS = 1 << 16
_PENALTY = 1e-5
_STEPS = 30

Group = tuple[str, str, str]  # file, language, model
Counts = dict[Group, tuple[int, int, int, int]]  # true positives, false positives, false negatives, true negatives


def measure_baseline(folder: Path, examples: Sequence[Example]) -> Counts:
    """Fit the baseline without each source in turn and count its verdicts on that source's undisputed labels."""
    features = [_buckets(example.response) for example in examples]
    trained_on = {source.file: source.name for source in SOURCES}
    counts: Counts = {}
    models: dict[str | None, tuple[npt.NDArray[np.float64], float]] = {}
    for file in FILES:
        path = folder / file
        if not path.is_file():
            continue
        held_out = trained_on.get(file)
        if held_out not in models:
            kept = [index for index, example in enumerate(examples) if example.source != held_out]
            models[held_out] = _fit([examples[index] for index in kept], [features[index] for index in kept])
        coefficients, bias = models[held_out]
        for row in read_file(path):
            if row.refusal is not None:
                _count(counts, row, file, _score(_buckets(row.response), coefficients, bias) >= 0.0)
    return counts


def save_baseline(counts: Counts, path: Path) -> None:
    """Write the counts as stable JSON."""
    rows = [
        {"file": file, "language": language, "model": model, "counts": list(numbers)}
        for (file, language, model), numbers in sorted(counts.items())
    ]
    text = json.dumps({"made_by": "rass detector train refusal", "groups": rows}, indent=0)
    path.write_text(text + "\n", encoding="utf-8")


def _count(counts: Counts, row: LabelledAnswer, file: str, found: bool) -> None:
    group = (file, row.language, row.model)
    numbers = list(counts.get(group, (0, 0, 0, 0)))
    numbers[(0 if found else 2) if row.refusal else (1 if found else 3)] += 1
    counts[group] = (numbers[0], numbers[1], numbers[2], numbers[3])


def _fit(examples: Sequence[Example], features: Sequence[list[int]]) -> tuple[npt.NDArray[np.float64], float]:
    sizes = Counter(example.source for example in examples)
    shares = np.array([example.weight / sizes[example.source] ** 0.5 for example in examples])
    labels = np.array([example.refusal for example in examples])
    sparse = Sparse(features, [scale(len(buckets)) for buckets in features], _BUCKETS)
    return fit_sparse(sparse, np.zeros(len(labels)), labels, shares, _PENALTY, _STEPS)


def _score(buckets: list[int], coefficients: npt.NDArray[np.float64], bias: float) -> float:
    return bias + scale(len(buckets)) * float(coefficients[buckets].sum())


def _buckets(text: str) -> list[int]:
    """Return the distinct buckets of the head's character n-grams."""
    head = " ".join(without_reasoning(text)[0].lower().split())[:_HEAD]
    found = {bucket for buckets in hashed(head, _LENGTHS, _BUCKETS) for bucket in buckets.tolist()}
    return sorted(found)

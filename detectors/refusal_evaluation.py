"""Scoring the refusal detector on labelled answers: counts, rates with intervals, calibration and streams.

Each source is judged by weights that were fitted without it (`refusal_held_out/`), XSTest by the shipped ones, which
never saw it. Answers of several models to one prompt are no independent trials: totals count prompts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from detectors.labelled_answers import FILES, LabelledAnswer, read_file
from detectors.refusal import TextRefusalDetector, load_weights, parse_weights
from detectors.refusal_cues import load_finder
from detectors.refusal_phrases import phrase_list_refuses
from detectors.statistics import Interval, clopper_pearson
from detectors.verdict import RefusalVerdict

STREAM_LIMIT = 160
"""Characters of a stream within which a verdict is wanted."""

_CHUNK = 8
_BINS = 10


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with what the detector, its stream and the phrase list say; ``decided`` counts characters."""

    answer: LabelledAnswer
    verdict: RefusalVerdict
    streamed: RefusalVerdict
    decided: int | None
    phrase: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """True and false positives and negatives; a positive is a full refusal."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def total(self) -> int:
        """How many answers were counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def accuracy(self) -> float:
        """Share of right verdicts."""
        return (self.tp + self.tn) / self.total

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the two classes' shares; ``None`` where one of them is missing."""
        if not self.tp + self.fn or not self.fp + self.tn:
            return None
        return (self.tp / (self.tp + self.fn) + self.tn / (self.fp + self.tn)) / 2

    @property
    def macro_f1(self) -> float | None:
        """Mean of the two classes' F1; ``None`` where one of them is missing."""
        if not self.tp + self.fn or not self.fp + self.tn:
            return None
        return (2 * self.tp / (2 * self.tp + self.fp + self.fn) + 2 * self.tn / (2 * self.tn + self.fp + self.fn)) / 2


def detector_for(file: str) -> tuple[TextRefusalDetector, str]:
    """Return the detector that may judge ``file`` and what it was fitted on."""
    held_out = FILES[file]
    if held_out is None:
        return TextRefusalDetector(load_finder(), load_weights()), "shipped weights, never trained on it"
    path = resources.files("detectors") / "refusal_held_out" / f"{held_out}.json"
    weights = parse_weights(path.read_text(encoding="utf-8"))
    return TextRefusalDetector(load_finder(), weights), f"weights fitted without {held_out}"


def judge_file(path: Path, detector: TextRefusalDetector) -> list[Judged]:
    """Judge every answer of a file, whole and as a stream in small chunks."""
    return [judge_answer(answer, detector) for answer in read_file(path)]


def judge_answer(answer: LabelledAnswer, detector: TextRefusalDetector) -> Judged:
    """Judge one answer; ``decided`` is ``None`` where only the end of the stream decided."""
    text = answer.response
    stream = detector.stream()
    decided: int | None = None
    for start in range(0, len(text), _CHUNK):
        if stream.feed(text[start : start + _CHUNK]) is not None:
            decided = min(start + _CHUNK, len(text))
            break
    return Judged(answer, detector.judge(text), stream.finish(), decided, phrase_list_refuses(text))


def count(pairs: Iterable[tuple[bool, bool]]) -> Counts:
    """Count ``(is a refusal, was called one)`` pairs."""
    numbers = {(True, True): 0, (False, True): 0, (True, False): 0, (False, False): 0}
    for pair in pairs:
        numbers[pair] += 1
    return Counts(numbers[True, True], numbers[False, True], numbers[True, False], numbers[False, False])


def groups(rows: Sequence[Judged]) -> dict[tuple[str, str], list[Judged]]:
    """Return the answers with an undisputed label by ``(language, model)``."""
    found: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for row in rows:
        if row.answer.refusal is not None:
            found[row.answer.language, row.answer.model].append(row)
    return dict(sorted(found.items()))


def clustered_accuracy(rows: Sequence[Judged]) -> Interval:
    """Return the share of right verdicts with an exact interval that counts prompts, not answers."""
    by_prompt: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in rows:
        by_prompt[row.answer.language, row.answer.prompt].append(row.verdict.refused == row.answer.refusal)
    right = sum(sum(results) / len(results) for results in by_prompt.values())
    return clopper_pearson(min(right, len(by_prompt)), len(by_prompt))


def reliability(rows: Sequence[Judged]) -> list[tuple[float, float, int]]:
    """Return mean score, share of refusals and count of each tenth of the scale that holds answers."""
    bins: dict[int, list[Judged]] = defaultdict(list)
    for row in rows:
        if row.answer.refusal is not None:
            bins[min(int(row.verdict.score * _BINS), _BINS - 1)].append(row)
    return [
        (
            sum(row.verdict.score for row in part) / len(part),
            sum(row.answer.refusal is True for row in part) / len(part),
            len(part),
        )
        for _, part in sorted(bins.items())
    ]


def load_baseline() -> dict[tuple[str, str, str], Counts]:
    """Return the character n-gram baseline's counts by ``(file, language, model)``, as training measured them.

    Empty where training has not measured it.
    """
    path = resources.files("detectors") / "refusal_baseline.json"
    if not path.is_file():
        return {}
    return {
        (group["file"], group["language"], group["model"]): Counts(*group["counts"])
        for group in json.loads(path.read_text(encoding="utf-8"))["groups"]
    }

"""What the general text-only boundary classifier is trained on and scored on.

Training: the contrast pairs and the shared prompts whose ``use`` is ``train``. XSTest is the yardstick of the replay
benchmark: its prompts are read for scoring only, and pairs that come close to one of them are left out of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rass.detector_training.contrast import load_pairs, without_near_copies
from rass.errors import InputError

__all__ = [
    "CONTRAST",
    "YARDSTICK",
    "Example",
    "Refused",
    "TrainingData",
    "by_source",
    "load_training",
    "read_labelled",
    "read_prompts",
    "read_refused",
    "read_rows",
]

CONTRAST = "contrast pairs"
YARDSTICK = "XSTest v2"
_RESPONSES = "responses/xstest_human_en.jsonl"
_NEAR_COPY = 0.6
_MOST_SHARED = 600


@dataclass(frozen=True, slots=True)
class Example:
    """One request with its label; ``twin`` numbers the pair it belongs to, ``unit`` what it may not be split from."""

    text: str
    harmful: bool
    language: str
    source: str
    kind: str
    unit: str
    twin: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Examples for training, and how many contrast pairs were left out as near copies of the yardstick."""

    examples: tuple[Example, ...]
    near_copies: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A yardstick prompt that at least one model refused fully, with the number of models that did."""

    prompt: str
    harmful: bool
    models: int


def read_prompts(data: Path, *, use: str, source: str | None = None) -> list[Example]:
    """Read the shared prompts with the given ``use`` (``train`` or ``score``), of one source or all.

    Raises ``InputError`` for a missing file or a row that is not as the data's description says.
    """
    return [
        example
        for row_use, example in _rows(data / "prompts" / "prompts.jsonl")
        if row_use == use and source in (None, example.source)
    ]


def read_labelled(path: Path) -> list[Example]:
    """Read labelled texts of the caller's own, ``{"text", "harmful", "language"}`` a line; raises ``InputError``."""
    examples: list[Example] = []
    for number, row in enumerate(read_rows(path), start=1):
        text, harmful, language = row.get("text"), row.get("harmful"), row.get("language", "en")
        if not isinstance(text, str) or not isinstance(harmful, bool) or not isinstance(language, str):
            raise InputError(f"{path}, line {number}: expected text, harmful (true or false) and language")
        examples.append(Example(text, harmful, language, path.name, "", str(number)))
    if len({example.harmful for example in examples}) < 2:
        raise InputError(f"{path} must hold harmful and harmless texts")
    return examples


def load_training(data: Path | None) -> TrainingData:
    """Return the contrast pairs and, where ``data`` is given, the shared training prompts.

    Shared prompts count only in languages in which they have both labels (the others are all harmful, and a classifier
    would learn the language), and of each source at most ``_MOST_SHARED``, chosen by hash.
    """
    pairs = load_pairs()
    dropped = 0
    shared: list[Example] = []
    if data is not None:
        yardstick = [example.text for example in read_prompts(data, use="score", source=YARDSTICK)]
        yardstick += [one.prompt for one in read_refused(data)]
        pairs, copies = without_near_copies(pairs, yardstick, _NEAR_COPY)
        dropped = len(copies)
        shared = read_prompts(data, use="train")
        labels = {(one.language, one.harmful) for one in shared}
        shared = _sample([one for one in shared if (one.language, not one.harmful) in labels])
    twins = [
        Example(text, harmful, pair.language, CONTRAST, pair.domain, pair.unit, number)
        for number, pair in enumerate(pairs)
        for text, harmful in ((pair.harmful, True), (pair.benign, False))
    ]
    return TrainingData((*twins, *shared), dropped)


def read_refused(data: Path) -> list[Refused]:
    """Return the yardstick's prompts that models refused fully, by human label; raises ``InputError``."""
    path = data / _RESPONSES
    counts: dict[tuple[str, bool], int] = {}
    for row in read_rows(path):
        try:
            if row["refusal"] == 1:
                key = (str(row["prompt"]), bool(row["prompt_harmful"]))
                counts[key] = counts.get(key, 0) + 1
        except KeyError as error:
            raise InputError(f"{path}: a row lacks {error}") from error
    return [Refused(prompt, harmful, models) for (prompt, harmful), models in counts.items()]


def by_source(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Return the rows of each source."""
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(example.source, []).append(row)
    return rows


def _sample(examples: Sequence[Example]) -> list[Example]:
    """Return at most ``_MOST_SHARED`` examples of each source, the same ones every time."""
    ordered = sorted(examples, key=lambda one: hashlib.sha256(one.unit.encode()).digest())
    groups = by_source(ordered)
    return [ordered[row] for rows in groups.values() for row in rows[:_MOST_SHARED]]


def _rows(path: Path) -> Iterator[tuple[str, Example]]:
    for row in read_rows(path):
        try:
            example = Example(
                text=str(row["prompt"]),
                harmful=bool(row["harmful"]),
                language=str(row["lang"]),
                source=str(row["source"]),
                kind=str(row.get("kind") or ""),
                unit=str(row["id"]),
            )
            yield str(row["use"]), example
        except KeyError as error:
            raise InputError(f"{path}: a row lacks {error}") from error


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """Yield the JSON objects of a JSONL file; raises ``InputError`` for a missing file or a line that holds none."""
    if not path.is_file():
        raise InputError(f"{path} is missing; give the folder with the shared data with --data")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: not a JSON object")
            yield row

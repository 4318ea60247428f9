"""The labelled answers that the refusal detector is trained on, with what each label counts for.

All sources allow training a model that ships. XSTest's answers are the yardstick and are never read here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rass.errors import InputError


@dataclass(frozen=True, slots=True)
class Label:
    """A label's meaning for training: whether the answer is a full refusal, and how much an example of it counts."""

    refusal: bool
    weight: float


@dataclass(frozen=True, slots=True)
class Source:
    """One file of labelled answers; ``labels`` lists the labels that are used, every other row is left out."""

    name: str
    file: str
    license: str
    labels: Mapping[str, Label]


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled answer; ``prompt`` groups the answers of several models to the same request."""

    source: str
    language: str
    prompt: str
    response: str
    refusal: bool
    weight: float


_REFUSES, _ANSWERS = Label(True, 1.0), Label(False, 1.0)

SOURCES = (
    Source(
        "chatgpt-refusals",
        "chatgpt_refusals_human_en.jsonl",
        "MIT",
        {"rejected": _REFUSES, "complied": _ANSWERS},
    ),
    Source(
        "do-not-answer",
        "do_not_answer_human_en.jsonl",
        "Apache-2.0",
        {
            "action_0": _REFUSES,
            # "Refutes the opinion in the question": to who asked it is a refusal, though no word of refusal need occur.
            # Whoever labelled chatgpt-refusals calls most refutations answers, so it counts half.
            "action_1": Label(True, 0.5),
            "action_2": Label(False, 0.5),  # discusses both sides
            "action_3": Label(False, 0.3),  # gives general or safe information
            "action_5": _ANSWERS,
            # action_4, "does not know or is not able to", is left out: the annotators of other sources disagree on it.
        },
    ),
    Source(
        "polyrefuse",
        "polyrefuse_qwen_wildguard_multilingual.jsonl",
        "Apache-2.0",
        {"wildguard_refusal_1": _REFUSES, "wildguard_refusal_0": _ANSWERS},
    ),
    Source(
        "k-overrefusal",
        "koverrefusal_llmjudge_ko.jsonl",
        "MIT",
        {"refusal": _REFUSES, "compliance": _ANSWERS},
    ),
    Source(
        "mt-bench",
        "mt_bench_answers_unlabelled_multilingual.jsonl",
        "Apache-2.0",
        {"presumed_compliance": _ANSWERS},
    ),
)


def read_examples(folder: Path, sources: tuple[Source, ...] = SOURCES) -> list[Example]:
    """Read the training examples of all sources below ``folder`` (the shared data's `responses`).

    Raises ``InputError`` for a missing file or a row that is not as the data's description says.
    """
    return [example for source in sources for example in _read(folder, source)]


def file_digests(folder: Path, sources: tuple[Source, ...] = SOURCES) -> dict[str, str]:
    """Return the sha256 of every source's file."""
    return {source.file: hashlib.sha256((folder / source.file).read_bytes()).hexdigest() for source in sources}


def _read(folder: Path, source: Source) -> Iterator[Example]:
    path = folder / source.file
    if not path.is_file():
        raise InputError(f"{path} is missing; give the folder that holds {source.file} with --data")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                label = source.labels.get(row["label"])
                if label is not None:
                    yield Example(source.name, row["lang"], row["prompt"], row["response"], label.refusal, label.weight)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}, line {number}: not a labelled answer ({error!r})") from error

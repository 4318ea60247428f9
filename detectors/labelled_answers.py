"""Reading answers that people or models labelled as refusals or not, for scoring the refusal detector."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA_VARIABLE = "RASS_DATA"

FILES = {
    "xstest_human_en.jsonl": None,
    "chatgpt_refusals_human_en.jsonl": "chatgpt-refusals",
    "do_not_answer_human_en.jsonl": "do-not-answer",
    "polyrefuse_qwen_wildguard_multilingual.jsonl": "polyrefuse",
    "koverrefusal_llmjudge_ko.jsonl": "k-overrefusal",
    "mt_bench_answers_unlabelled_multilingual.jsonl": "mt-bench",
    "replies_written_multilingual.jsonl": None,
}
"""Files of labelled answers, each with the name of the held-out weights that judge it (``None``: never trained on)."""

_PRESUMED_ANSWER = "presumed_compliance"


class DataError(ValueError):
    """The labelled answers are missing or not as described; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer with its label: ``refusal`` is ``None`` where the annotators called it partial or mixed."""

    identifier: str
    language: str
    model: str
    prompt: str
    response: str
    refusal: bool | None
    label: str


def data_folder(given: Path | None) -> Path:
    """Return the folder of labelled answers, from ``given`` or the environment; raises ``DataError`` without one."""
    from_environment = os.environ.get(DATA_VARIABLE)
    folder = given if given is not None else Path(from_environment) if from_environment else None
    if folder is None:
        raise DataError(f"no labelled answers: give their folder with --data or in the variable {DATA_VARIABLE}")
    for candidate in (folder / "responses", folder):
        if any((candidate / name).is_file() for name in FILES):
            return candidate
    raise DataError(f"{folder} holds none of the files of labelled answers ({', '.join(FILES)})")


def read_file(path: Path) -> Iterator[LabelledAnswer]:
    """Yield the answers of one file; raises ``DataError`` with the line of a row that is not as described."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                label = row["label"]
                # Ordinary answers that nobody labelled: any refusal found in them counts as a false alarm.
                refusal = (
                    False if label == _PRESUMED_ANSWER else None if row["refusal"] is None else row["refusal"] == 1
                )
                yield LabelledAnswer(
                    row["id"], row["lang"], row["model"], row["prompt"], row["response"], refusal, label
                )
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path.name}, line {number}: not a labelled answer ({error!r})") from error

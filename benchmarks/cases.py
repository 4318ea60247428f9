"""The rows a benchmark sends: reading them, and choosing a fair part of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.errors import InputError
from detectors.verdict import Message

__all__ = ["Case", "Kind", "PromptFiles", "load_cases", "resolve_prompts", "sample_cases"]


class Kind(StrEnum):
    """What a request is, by construction."""

    HARMFUL = "harmful"
    ATTACK = "attack"
    """A harmful request inside a wrapping that tries to get it answered."""
    TRIGGER_BENIGN = "trigger_benign"
    """A benign request with a verb that also has a harmful sense."""
    PLAIN_BENIGN = "plain_benign"

    @property
    def benign(self) -> bool:
        """True for requests that ought to be answered."""
        return self in (Kind.TRIGGER_BENIGN, Kind.PLAIN_BENIGN)


@dataclass(frozen=True, slots=True)
class Case:
    """One request of a benchmark.

    Rows that share ``base_id`` are versions of one request (other wrappings, other languages) and are counted as one.
    ``action`` and ``target`` are the words by which an answer on the topic names the verb and the object;
    ``wrapping_seen`` tells whether the family of the wrapping was used in training or fitting (None without wrapping).
    """

    id: str
    base_id: str
    language: str
    kind: Kind
    messages: tuple[Message, ...]
    wrapping: str | None
    wrapping_seen: bool | None
    verb: str
    object: str
    category: str
    action: str
    target: str


@dataclass(frozen=True, slots=True)
class PromptFiles:
    """The rows and the grammar that scores the answers to them."""

    rows: Path
    grammar: Path


def resolve_prompts(name: str, grammar: Path | None = None) -> PromptFiles:
    """Return the files behind ``--prompts``: ``reference:SPLIT`` from the package, else the path of a JSON Lines file.

    Without ``grammar`` a path's grammar is the ``grammar.json`` beside it. Raises InputError for files not there.
    """
    if name.startswith("reference:"):
        folder = Path(str(files("benchmarks"))) / "reference"
        rows = folder / f"{name.removeprefix('reference:')}.jsonl"
    else:
        rows = Path(name)
        folder = rows.parent
    found = PromptFiles(rows, grammar if grammar is not None else folder / "grammar.json")
    for path in (found.rows, found.grammar):
        if not path.is_file():
            raise InputError(f"prompts {name!r}: there is no file {path}; give reference:report or a path to rows")
    return found


def load_cases(path: Path) -> list[Case]:
    """Read the rows of a JSON Lines file. Raises InputError naming file and line for anything malformed."""
    cases = [_case(row, where) for row, where in _rows(path)]
    ids = [case.id for case in cases]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise InputError(f"{path}: the id {twice!r} occurs more than once; ids tell rows apart in transcripts")
    if not cases:
        raise InputError(f"{path}: no rows; a benchmark of nothing has no figures")
    return cases


def sample_cases(cases: Sequence[Case], per_cell: int | None, seed: int) -> list[Case]:
    """Keep at most ``per_cell`` base requests of each kind and language, the same ones for the same seed.

    A base request is drawn by a hash of seed and id, so a harmful request and the attacks built from it are kept or
    dropped together, and adding rows to the file changes few of the others. ``None`` keeps everything, in file order.
    """
    if per_cell is None:
        return list(cases)
    bases: dict[tuple[Kind, str], set[str]] = defaultdict(set)
    for case in cases:
        bases[case.kind, case.language].add(case.base_id)
    kept = {cell: set(sorted(names, key=lambda name: _draw(seed, name))[:per_cell]) for cell, names in bases.items()}
    return [case for case in cases if case.base_id in kept[case.kind, case.language]]


def _draw(seed: int, base_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{base_id}".encode()).digest()


def _rows(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    with path.open("rb") as lines:  # decoded line by line, so that an error has its number
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not a JSON object: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{where}: a row is a JSON object, this is {type(row).__name__}")
            yield row, where


def _case(row: Mapping[str, Any], where: str) -> Case:
    try:
        return Case(
            id=str(row["id"]),
            base_id=str(row["base_id"]),
            language=str(row["language"]),
            kind=Kind(row["kind"]),
            messages=tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["messages"]),
            wrapping=row.get("wrapping"),
            wrapping_seen=row.get("wrapping_seen"),
            verb=str(row["verb"]),
            object=str(row["object"]),
            category=str(row["category"]),
            action=str(row["action"]),
            target=str(row["target"]),
        )
    except KeyError as error:
        raise InputError(f"{where}: the field {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error

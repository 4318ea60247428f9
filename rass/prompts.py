"""Prompts with what is known about them, in sets that carry their source and split.

A prompt set is the only form in which requests enter the pipeline. It says where its rows come from and which split
they belong to, because a figure measured on the split that fitted the thresholds is no figure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from detectors.verdict import Message

__all__ = ["Kind", "LabelledPrompt", "PromptError", "PromptSet"]

Kind = Literal["harmful", "attack", "trigger_benign", "plain_benign"]
"""``harmful``: a plain harmful request; ``attack``: one in a wrapping; ``trigger_benign``: benign with a word that also
has a harmful sense; ``plain_benign``: benign without one."""

_KINDS: tuple[str, ...] = get_args(Kind)


class PromptError(ValueError):
    """A prompt file or prompt set that cannot be used; the message names the file, the line and what to do."""


@dataclass(frozen=True, slots=True)
class LabelledPrompt:
    """One request and what is known about it.

    ``base_id`` joins the wrappings and translations of one request: it is the unit of counting. ``verb``, ``object``,
    ``category`` and ``frame`` are ids that group prompts for cross-validation and matching; an empty string means not
    known. ``action`` and ``target`` are the surfaces with which an answer names verb and object.
    ``expected_refusal`` is what the model was trained to do, never what it does.
    """

    id: str
    base_id: str
    language: str
    messages: tuple[Message, ...]
    harmful: bool
    kind: Kind
    wrapping: str | None = None
    verb: str = ""
    object: str = ""
    category: str = ""
    frame: str = ""
    expected_refusal: bool | None = None
    action: str | None = None
    target: str | None = None

    @property
    def cell(self) -> tuple[str, str]:
        """The (verb, category) pair whose truth value decides whether the request is harmful."""
        return (self.verb, self.category)

    @property
    def trigger(self) -> bool:
        """True for a benign request that carries a trigger verb, the kind that over-refusal is counted on."""
        return self.kind == "trigger_benign"

    def to_json(self) -> dict[str, Any]:
        """Return the row as it stands in a JSONL file."""
        row: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        row["messages"] = [{"role": message.role, "content": message.content} for message in self.messages]
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LabelledPrompt:
        """Read one row; unknown keys, a wrong kind and a label that contradicts the kind are errors."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(row) - known):
            raise PromptError(f"unknown key(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        missing = {"id", "base_id", "language", "messages", "harmful", "kind"} - set(row)
        if missing:
            raise PromptError(f"missing key(s) {', '.join(sorted(missing))}")
        if row["kind"] not in _KINDS:
            raise PromptError(f"prompt {row['id']!r}: kind {row['kind']!r} is none of {', '.join(_KINDS)}")
        if row["harmful"] is not (row["kind"] in ("harmful", "attack")):
            raise PromptError(f"prompt {row['id']!r}: harmful={row['harmful']} contradicts kind {row['kind']!r}")
        messages = row["messages"]
        if not messages or messages[-1].get("role") != "user":
            raise PromptError(f"prompt {row['id']!r}: the last message must be a user turn")
        turns = tuple(Message(role=str(turn["role"]), content=str(turn["content"])) for turn in messages)
        return cls(**{**row, "messages": turns})


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one split, with the source and revision they came from."""

    name: str
    split: str
    source: str
    revision: str
    prompts: tuple[LabelledPrompt, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for prompt in self.prompts:
            if prompt.id in seen:
                raise PromptError(f"prompt set {self.name}/{self.split}: id {prompt.id!r} occurs twice")
            seen.add(prompt.id)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[LabelledPrompt]:
        return iter(self.prompts)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that occur, sorted."""
        return tuple(sorted({prompt.language for prompt in self.prompts}))

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 over all rows: two sets are the same if and only if this is."""
        hasher = hashlib.sha256()
        for prompt in self.prompts:
            hasher.update(json.dumps(prompt.to_json(), sort_keys=True, ensure_ascii=False).encode())
        return hasher.hexdigest()[:16]

    def where(self, keep: Callable[[LabelledPrompt], bool]) -> PromptSet:
        """Return the same set with only the prompts that ``keep`` accepts, in their order."""
        return replace(self, prompts=tuple(prompt for prompt in self.prompts if keep(prompt)))

    def per_cell(self, limit: int) -> PromptSet:
        """Return at most ``limit`` prompts of each (language, kind, wrapping, verb, category), chosen by id hash.

        The choice does not depend on the order of the set, so a smaller build uses a subset of a larger one.
        """
        if limit < 1:
            raise PromptError(f"prompts per cell must be at least 1, not {limit}")
        ranked = sorted(self.prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
        taken: dict[tuple[str, ...], int] = {}
        kept: set[str] = set()
        for prompt in ranked:
            cell = (prompt.language, prompt.kind, prompt.wrapping or "", prompt.verb, prompt.category)
            if taken.get(cell, 0) < limit:
                taken[cell] = taken.get(cell, 0) + 1
                kept.add(prompt.id)
        return self.where(lambda prompt: prompt.id in kept)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of prompts by language and kind, both sorted."""
        table: dict[str, dict[str, int]] = {language: {} for language in self.languages}
        for prompt in sorted(self.prompts, key=lambda prompt: prompt.kind):
            table[prompt.language][prompt.kind] = table[prompt.language].get(prompt.kind, 0) + 1
        return table

    def save(self, path: Path) -> None:
        """Write a JSONL file: a header line with name, split, source and revision, then one prompt a line."""
        header = {"name": self.name, "split": self.split, "source": self.source, "revision": self.revision}
        with path.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"prompt_set": header}, ensure_ascii=False) + "\n")
            for prompt in self.prompts:
                file.write(json.dumps(prompt.to_json(), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> PromptSet:
        """Read what ``save`` wrote; raise ``PromptError`` naming the first line that is wrong."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(f"cannot read prompts from {path}: {error}") from error
        prompts: list[LabelledPrompt] = []
        header: Mapping[str, str] | None = None
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if header is None:
                    header = {key: str(row["prompt_set"][key]) for key in ("name", "split", "source", "revision")}
                else:
                    prompts.append(LabelledPrompt.from_json(row))
            except KeyError as error:
                raise PromptError(f"{path}, line {number}: {error} is missing") from error
            except (ValueError, TypeError, AttributeError) as error:
                raise PromptError(f"{path}, line {number}: {error}") from error
        if header is None:
            raise PromptError(f"{path} is empty; the first line must hold the set's name, split, source and revision")
        return cls(prompts=tuple(prompts), **header)

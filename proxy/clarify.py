"""Step ``clarify``: a note, in the request's language, that the request was judged harmless.

The note asks for an answer only if the model agrees, and says that all its rules stay in force: a gate that was wrong
must not become an order. The wordings are data (``clarify_notes.json``), one for each language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import assert_never

from detectors.bundle import Bundle
from detectors.manifest import ValidatedStep
from proxy.ladder import ClarifyWhen
from proxy.wires.protocol import Surface

_DEFAULT_LANGUAGE = "en"
_INSTRUCTING_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Notes:
    """The note in every language that has one."""

    by_language: Mapping[str, str]

    def note(self, language: str) -> str:
        """Return the note in ``language``, in English where it has none."""
        return self.by_language.get(language, self.by_language[_DEFAULT_LANGUAGE])


def load_notes() -> Notes:
    """Read the notes that ship with the package."""
    content = json.loads(files("proxy").joinpath("clarify_notes.json").read_text(encoding="utf-8"))
    return Notes(content["notes"])


def clarify_exists(when: ClarifyWhen, bundle: Bundle | None) -> bool:
    """Return whether the step exists for the served model; without a bundle nothing validated it."""
    if when is ClarifyWhen.VALIDATED:
        return bundle is not None and ValidatedStep.CLARIFY in bundle.manifest.validation.steps
    return when is ClarifyWhen.ALWAYS


CLARIFIED = frozenset({Surface.CHAT, Surface.RESPONSES})
"""The APIs whose requests have a place for a note beside what the user says; a completion's prompt has none."""


def clarified(surface: Surface, payload: Mapping[str, object], note: str) -> dict[str, object] | None:
    """Return a copy of a request with ``note`` added, or ``None`` where there is no place that can be understood.

    The note goes to the end of the client's last system or developer message, of a response's ``instructions``, whose
    words all stay: many chat templates take one such message and no more. Without one, a message is put in front.
    """
    match surface:
        case Surface.CHAT:
            return _in_messages(payload, note)
        case Surface.RESPONSES:
            instructions = _with_note(payload.get("instructions"), note)
            return {**payload, "instructions": instructions} if isinstance(instructions, str) else None
        case Surface.COMPLETIONS:
            return None
        case _:
            assert_never(surface)


def _in_messages(payload: Mapping[str, object], note: str) -> dict[str, object] | None:
    raw = payload.get("messages")
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not all(isinstance(turn, Mapping) for turn in raw):
        return None
    turns: list[Mapping[str, object]] = list(raw)
    position = next((at for at in reversed(range(len(turns))) if turns[at].get("role") in _INSTRUCTING_ROLES), None)
    if position is None:
        return {**payload, "messages": [{"role": "system", "content": note}, *turns]}
    content = _with_note(turns[position].get("content"), note)
    if content is None:
        return None
    turns[position] = {**turns[position], "content": content}
    return {**payload, "messages": turns}


def _with_note(content: object, note: str) -> object | None:
    if content is None or content == "":
        return note
    if isinstance(content, str):
        return f"{content}\n\n{note}"
    if isinstance(content, Sequence):
        return [*content, {"type": "text", "text": note}]
    return None

"""What is learnt of one exchange on its way through the proxy, for its log line and its trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Scope

from detectors.verdict import Message
from proxy.headers import new_request_id

MAX_MODEL_CHARS = 200
"""A client may ask for a model of any name; this much of it is noted."""

_SCOPE_KEY = "rass.notes"


@dataclass(slots=True)
class Notes:
    """Filled in by whoever knows; empty where nobody did, but for the id, which every exchange has.

    ``messages`` and ``answer`` are text, kept out of logs.
    """

    request_id: str = field(default_factory=new_request_id)
    key_id: str = ""
    model: str = ""
    stream: bool = False
    mode: str = ""
    action: str = ""
    zone: str = ""
    language: str = ""
    attempts: int = 0
    messages: tuple[Message, ...] = field(default=(), repr=False)
    answer: str = field(default="", repr=False)


def noted(scope: Scope, notes: Notes) -> Scope:
    """Return ``scope`` with the notes of its exchange."""
    return {**scope, _SCOPE_KEY: notes}


def notes_of(scope: Scope) -> Notes:
    """Return the notes of an exchange; new ones, which nobody reads, where it has none."""
    notes = scope.get(_SCOPE_KEY)
    return notes if isinstance(notes, Notes) else Notes()

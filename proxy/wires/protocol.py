"""What the gate needs to know of an API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from detectors.verdict import Message
from proxy.answers import Gathered


class Surface(StrEnum):
    """The APIs whose answers are judged, as settings name them."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request says.

    ``text_only`` is False where it holds more than text, so that no detector can judge the whole. ``observe_only`` says
    why the request is never recovered, or is ``None``. ``choices`` is how many answers were asked for.
    """

    messages: tuple[Message, ...] = field(repr=False)
    text_only: bool
    observe_only: str | None = None
    choices: int = 1


class Wire(Protocol):
    """One API."""

    @property
    def surface(self) -> Surface:
        """Its name."""
        ...

    @property
    def path(self) -> str:
        """Its path, here and upstream."""
        ...

    @property
    def turns_field(self) -> str:
        """The field of a request that may list the conversation's turns, its items or several prompts."""
        ...

    @property
    def has_choices(self) -> bool:
        """Whether answers are ``choices`` with an index, so that one of them, or the rest of one, can be replaced."""
        ...

    def conversation(self, payload: Mapping[str, object]) -> Conversation:
        """Read a request."""
        ...

    def gather(self, payload: Mapping[str, object]) -> Gathered:
        """Return a new reader of answers to the request ``payload``."""
        ...

    def error_event(self, body: Mapping[str, object], after: bytes) -> bytes:
        """Return the event that ends a stream which fails after its head was sent; ``after`` are its last bytes."""
        ...

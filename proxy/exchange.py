"""The request and the reply as they travel through the gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from detectors.verdict import Message
from proxy.notes import Notes

ANONYMOUS = "anonymous"
"""The key id of whoever asks where no keys are in use."""


class Mode(StrEnum):
    """What the proxy does with a refused request, from least to most."""

    OFF = "off"
    OBSERVE = "observe"
    RECOVER = "recover"

    def lowered_to(self, wanted: Mode) -> Mode:
        """Return the lesser of both modes: a client may ask for less, never for more."""
        order = list(Mode)
        return min(self, wanted, key=order.index)


class Action(StrEnum):
    """What was done, as ``x-rass-action`` says it.

    ``OBSERVING`` and ``RECOVERING`` are the words of streams whose headers had to leave before the outcome was known.
    """

    OFF = "off"
    DELIVERED = "delivered"
    REFUSAL_KEPT = "refusal-kept"
    WARRANTED = "warranted"
    UNJUDGED = "unjudged"
    RECOVERED = "recovered"
    RECOVERY_FAILED = "recovery-failed"
    OBSERVING = "observing"
    RECOVERING = "recovering"
    UPSTREAM_ERROR = "upstream-error"
    FAILED = "failed"
    CLIENT_GONE = "client-gone"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion as the client asked for it.

    ``body`` are the client's bytes, which go upstream unchanged; ``payload`` is the same, parsed, and never modified.
    ``headers`` are those to send upstream. ``observe_only`` says why this request is never recovered (it may have
    effects, or the detectors do not see all of it), or is ``None``; ``text_only`` is False where messages hold more
    than text, so that no detector can judge the whole. ``key_id`` names the caller's key; ``sees_distance`` says
    whether that key may see how far from the boundary the request lies. ``notes`` gather what the exchange's log line
    says; a copy of the request shares them.
    """

    body: bytes = field(repr=False)
    payload: Mapping[str, object] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    messages: tuple[Message, ...] = field(repr=False)
    model: str
    stream: bool
    mode: Mode
    request_id: str
    observe_only: str | None = None
    text_only: bool = True
    key_id: str = ANONYMOUS
    sees_distance: bool = False
    notes: Notes = field(default_factory=Notes, repr=False, compare=False)


async def nothing_more() -> None:
    """The default of ``Reply.afterwards``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes to the client: a status, headers, and either whole bytes or an iterator of them.

    ``afterwards`` is work that the client need not wait for; it runs once the body was sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | AsyncGenerator[bytes]
    afterwards: Callable[[], Awaitable[None]] = nothing_more

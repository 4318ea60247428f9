"""The request and the reply as they travel through the gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from detectors.verdict import Message
from proxy.notes import Notes
from proxy.wires.chat import CHAT
from proxy.wires.protocol import Wire

ANONYMOUS = "anonymous"
"""The key id of whoever asks where no keys are in use."""


class Mode(StrEnum):
    """What the proxy may do to a request, from least to most.

    The order is that of what a client hands over, because a client may lower its mode and never raise it. ``OFF``:
    bytes are relayed, nothing is judged. ``OBSERVE``: answers are judged and counted. ``SHADOW``: refused requests are
    also sent upstream again in the background, which costs traffic, yet every client still gets the original.
    ``RECOVER``: a refusal may be replaced, after the model has given it. ``STEER``: a request may be steered before
    the model has said anything of its own. So lowering always takes something away, and adds nothing.
    """

    OFF = "off"
    OBSERVE = "observe"
    SHADOW = "shadow"
    RECOVER = "recover"
    STEER = "steer"

    @property
    def recovers(self) -> bool:
        """Whether attempts are made, delivered or not."""
        return self in (Mode.SHADOW, Mode.RECOVER, Mode.STEER)

    @property
    def replaces(self) -> bool:
        """Whether a client may get another answer than the original."""
        return self in (Mode.RECOVER, Mode.STEER)

    def lowered_to(self, wanted: Mode) -> Mode:
        """Return the lesser of both modes: a client may ask for less, never for more."""
        order = list(Mode)
        return min(self, wanted, key=order.index)


class ModeSource(StrEnum):
    """Who chose the mode that an exchange ran in; the audit says it."""

    CONFIGURATION = "configuration"
    KEY = "key"
    CLIENT_HEADER = "client header"


class Action(StrEnum):
    """What was done, as ``x-rass-action`` says it.

    ``OBSERVING`` and ``RECOVERING`` are the words of streams whose headers had to leave before the outcome was known.
    ``SHADOW_RECOVERED`` and ``SHADOW_FAILED`` say how a background recovery ended, long after its client was served:
    they stand in audit rows and metrics and are never sent.
    """

    OFF = "off"
    DELIVERED = "delivered"
    REFUSAL_KEPT = "refusal-kept"
    WARRANTED = "warranted"
    UNJUDGED = "unjudged"
    RECOVERED = "recovered"
    RECOVERY_FAILED = "recovery-failed"
    STEERED = "steered"
    SHADOW_RECOVERED = "shadow-recovered"
    SHADOW_FAILED = "shadow-failed"
    OBSERVING = "observing"
    RECOVERING = "recovering"
    UPSTREAM_ERROR = "upstream-error"
    FAILED = "failed"
    CLIENT_GONE = "client-gone"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request for an answer as the client sent it.

    ``body`` are the client's bytes, which go upstream unchanged; ``payload`` is the same, parsed, and never modified.
    ``headers`` are those to send upstream. ``observe_only`` says why this request is never recovered (it may have
    effects, or the detectors do not see all of it), or is ``None``; ``text_only`` is False where messages hold more
    than text, so that no detector can judge the whole. ``mode_by`` says who chose the mode, and ``unsteered`` why mode
    steer sent the request as it came. ``key_id`` names the caller's key; ``sees_distance`` says whether that key may
    see how far from the boundary the request lies. ``wire`` is the API that was called, ``choices`` how many answers
    were asked for. ``notes`` gather what the exchange's log line says; a copy of the request shares them.
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
    mode_by: ModeSource = ModeSource.CONFIGURATION
    key_id: str = ANONYMOUS
    sees_distance: bool = False
    unsteered: str | None = None
    wire: Wire = CHAT
    choices: int = 1
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

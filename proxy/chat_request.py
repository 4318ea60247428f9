"""From the client's bytes to a `ChatRequest`: what is refused, and what is let through for the upstream to judge.

The proxy adds no validation of its own to the OpenAI schema: an odd request is the upstream's to refuse. It refuses
only what it could not guard: a body that it cannot read, and fields that steer the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.caller import Caller, Right
from proxy.engine_fields import refuse_steering
from proxy.errors import InvalidModeHeader
from proxy.exchange import ChatRequest, Mode, ModeSource
from proxy.headers import MODE_HEADER, forwarded_headers
from proxy.notes import MAX_MODEL_CHARS, Notes
from proxy.request_limits import check_messages
from proxy.settings.operation import LimitSettings
from proxy.wires.chat import CHAT
from proxy.wires.protocol import Conversation, Surface, Wire

_UNREAD = Conversation((), text_only=False)


def parse_chat_request(
    body: bytes,
    payload: Mapping[str, object],
    headers: Mapping[str, str],
    *,
    request_id: str,
    caller: Caller,
    notes: Notes,
    limits: LimitSettings,
    configured_mode: Mode,
    allow_client_steering: bool,
    api_key: str | None,
    wire: Wire = CHAT,
    recovered_surfaces: Collection[Surface] = tuple(Surface),
    log_text: bool = False,
) -> ChatRequest:
    """Read ``caller``'s request to ``wire``, whose ``body`` was parsed as ``payload``; header names are lower-case.

    Refusals of other surfaces than ``recovered_surfaces`` are only observed. What is asked for goes into ``notes``. Its
    text is read in mode off only with ``log_text``.
    Raises ``TooManyMessages``, ``InvalidModeHeader`` or ``SteeringNotPermitted``.
    """
    check_messages(payload, wire.turns_field, limits)
    if not (allow_client_steering or caller.may(Right.CLIENT_STEERING)):
        refuse_steering(payload)
    granted = caller.mode(configured_mode)
    mode = _mode(headers.get(MODE_HEADER), granted)
    conversation = _UNREAD if mode is Mode.OFF and not log_text else wire.conversation(payload)
    observe_only = conversation.observe_only
    if observe_only is None and wire.surface not in recovered_surfaces:
        observe_only = f"refusals of {wire.path} are not recovered (recovery.surfaces)"
    request = ChatRequest(
        body=body,
        payload=payload,
        headers=forwarded_headers(headers, request_id, api_key),
        messages=conversation.messages,
        model=model_of(payload),
        stream=payload.get("stream") is True,
        mode=mode,
        mode_by=_chosen_by(mode, granted, configured_mode),
        request_id=request_id,
        observe_only=observe_only,
        text_only=conversation.text_only,
        key_id=caller.key_id,
        sees_distance=caller.may(Right.DISTANCES),
        wire=wire,
        choices=conversation.choices,
        notes=notes,
    )
    notes.model, notes.stream, notes.mode = request.model[:MAX_MODEL_CHARS], request.stream, request.mode
    notes.messages = request.messages
    return request


def model_of(payload: Mapping[str, object]) -> str:
    """Return the model's name, ``""`` where there is none."""
    model = payload.get("model")
    return model if isinstance(model, str) else ""


def _chosen_by(mode: Mode, granted: Mode, configured: Mode) -> ModeSource:
    if mode is not granted:
        return ModeSource.CLIENT_HEADER
    return ModeSource.CONFIGURATION if granted is configured else ModeSource.KEY


def _mode(wanted: str | None, configured: Mode) -> Mode:
    if wanted is None:
        return configured
    try:
        return configured.lowered_to(Mode(wanted.strip().lower()))
    except ValueError as error:
        known = ", ".join(Mode)
        raise InvalidModeHeader(f"{MODE_HEADER} is {wanted!r}; it takes one of {known}", param=MODE_HEADER) from error

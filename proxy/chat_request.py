"""From the client's bytes to a `ChatRequest`: what is refused, and what is let through for the upstream to judge.

The proxy adds no validation of its own to the OpenAI schema: an odd request is the upstream's to refuse. It refuses
only what it could not guard: a body that it cannot read, and fields that steer the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.engine_fields import refuse_steering
from proxy.errors import InvalidModeHeader
from proxy.exchange import ChatRequest, Mode, ModeSource
from proxy.headers import MODE_HEADER, forwarded_headers
from proxy.wires.chat import CHAT
from proxy.wires.protocol import Surface, Wire


def parse_chat_request(
    body: bytes,
    payload: Mapping[str, object],
    headers: Mapping[str, str],
    *,
    request_id: str,
    configured_mode: Mode,
    allow_client_steering: bool,
    api_key: str | None,
    wire: Wire = CHAT,
    recovered_surfaces: Collection[Surface] = tuple(Surface),
) -> ChatRequest:
    """Read a request to ``wire`` whose ``body`` was parsed as ``payload``; header names are lower-case.

    Refusals of other surfaces than ``recovered_surfaces`` are only observed.
    Raises ``InvalidModeHeader`` or ``SteeringNotPermitted``.
    """
    if not allow_client_steering:
        refuse_steering(payload)
    conversation = wire.conversation(payload)
    observe_only = conversation.observe_only
    if observe_only is None and wire.surface not in recovered_surfaces:
        observe_only = f"refusals of {wire.path} are not recovered (recovery.surfaces)"
    mode = _mode(headers.get(MODE_HEADER), configured_mode)
    return ChatRequest(
        body=body,
        payload=payload,
        headers=forwarded_headers(headers, request_id, api_key),
        messages=conversation.messages,
        model=model_of(payload),
        stream=payload.get("stream") is True,
        mode=mode,
        mode_by=ModeSource.CONFIGURATION if mode is configured_mode else ModeSource.CLIENT_HEADER,
        request_id=request_id,
        observe_only=observe_only,
        text_only=conversation.text_only,
        wire=wire,
        choices=conversation.choices,
    )


def model_of(payload: Mapping[str, object]) -> str:
    """Return the model's name, ``""`` where there is none."""
    model = payload.get("model")
    return model if isinstance(model, str) else ""


def _mode(wanted: str | None, configured: Mode) -> Mode:
    if wanted is None:
        return configured
    try:
        return configured.lowered_to(Mode(wanted.strip().lower()))
    except ValueError as error:
        known = ", ".join(Mode)
        raise InvalidModeHeader(f"{MODE_HEADER} is {wanted!r}; it takes one of {known}", param=MODE_HEADER) from error

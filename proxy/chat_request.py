"""From the client's bytes to a `ChatRequest`: what is refused, and what is let through for the upstream to judge.

The proxy adds no validation of its own to the OpenAI schema: an odd request is the upstream's to refuse. It refuses
only what it could not guard: a body that it cannot read, and fields that steer the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from detectors.verdict import Message
from proxy.caller import Caller, Right
from proxy.errors import InvalidBody, InvalidModeHeader, SteeringNotPermitted
from proxy.exchange import ChatRequest, Mode
from proxy.headers import MODE_HEADER, forwarded_headers
from proxy.notes import MAX_MODEL_CHARS, Notes
from proxy.request_limits import check_body, check_messages
from proxy.settings import LimitSettings

# What engines and their plugins take their orders from; some of them run pickled code that they are sent.
STEERING_FIELDS = ("rass", "vllm_xargs", "kv_transfer_params")

_EFFECT_FIELDS = ("store", "background", "previous_response_id")
_TOOL_FIELDS = ("tools", "functions")


def parse_chat_request(
    body: bytes,
    headers: Mapping[str, str],
    *,
    request_id: str,
    caller: Caller,
    notes: Notes,
    limits: LimitSettings,
    configured_mode: Mode,
    allow_client_steering: bool,
    api_key: str | None,
) -> ChatRequest:
    """Read ``caller``'s chat completion request; header names are lower-case. What it asks for goes into ``notes``.

    Raises ``InvalidBody``, ``TooDeep``, ``TooManyMessages``, ``InvalidModeHeader`` or ``SteeringNotPermitted``.
    """
    check_body(body, limits)
    payload = _parse_object(body)
    check_messages(payload, limits)
    if not (allow_client_steering or caller.may(Right.CLIENT_STEERING)):
        for name in STEERING_FIELDS:
            if name in payload:
                raise SteeringNotPermitted(
                    f"the field {name!r} steers the engine and is not accepted from clients; leave it out, or ask the "
                    "operator for a key with the right client-steering",
                    param=name,
                )
    messages, text_only = _messages(payload.get("messages"))
    model = payload.get("model")
    request = ChatRequest(
        body=body,
        payload=payload,
        headers=forwarded_headers(headers, request_id, api_key),
        messages=messages,
        model=model if isinstance(model, str) else "",
        stream=payload.get("stream") is True,
        mode=_mode(headers.get(MODE_HEADER), caller.mode(configured_mode)),
        request_id=request_id,
        observe_only=_observe_only(payload, text_only),
        text_only=text_only,
        key_id=caller.key_id,
        sees_distance=caller.may(Right.DISTANCES),
        notes=notes,
    )
    notes.model, notes.stream, notes.mode = request.model[:MAX_MODEL_CHARS], request.stream, request.mode
    notes.messages = messages
    return request


def _parse_object(body: bytes) -> dict[str, object]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidBody(f"the request body is not valid JSON: {reason}") from error
    if not isinstance(payload, dict):
        raise InvalidBody(f"the request body must be a JSON object, not {type(payload).__name__}")
    return payload


def _mode(wanted: str | None, configured: Mode) -> Mode:
    if wanted is None:
        return configured
    try:
        return configured.lowered_to(Mode(wanted.strip().lower()))
    except ValueError as error:
        known = ", ".join(Mode)
        raise InvalidModeHeader(f"{MODE_HEADER} is {wanted!r}; it takes one of {known}", param=MODE_HEADER) from error


def _messages(raw: object) -> tuple[tuple[Message, ...], bool]:
    """Return the conversation as text and whether that is all of it."""
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        return (), False
    messages: list[Message] = []
    text_only = bool(raw)
    for item in raw:
        if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
            return (), False
        text, whole = _text(item.get("content"))
        text_only = text_only and whole and not item.get("tool_calls") and item["role"] != "tool"
        messages.append(Message(item["role"], text))
    return tuple(messages), text_only


def _text(content: object) -> tuple[str, bool]:
    if content is None:
        return "", True
    if isinstance(content, str):
        return content, True
    if not isinstance(content, Sequence):
        return "", False
    parts = [
        part["text"]
        for part in content
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    return "\n".join(parts), len(parts) == len(content)


def _observe_only(payload: Mapping[str, object], text_only: bool) -> str | None:
    """Return why a request is not recovered, whatever its answer."""
    for name in _EFFECT_FIELDS:
        if payload.get(name):
            return f"the request may have effects ({name})"
    for name in _TOOL_FIELDS:
        if payload.get(name):
            return f"the request offers tools ({name})"
    count = payload.get("n")
    if count is not None and count != 1:
        return "several choices were asked for (n)"
    response_format = payload.get("response_format")
    if isinstance(response_format, Mapping) and response_format.get("type") not in (None, "text"):
        return "the answer is a structured output (response_format)"
    if not text_only:
        return "the conversation holds more than text"
    return None

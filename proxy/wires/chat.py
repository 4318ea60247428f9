"""Chat completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectors.verdict import Message
from proxy.answers import Gathered
from proxy.errors import error_event
from proxy.wires.choices import GatheredChoices
from proxy.wires.protocol import Conversation, Surface

__all__ = ["CHAT", "ChatWire", "choices_asked_for", "effects_of", "text_of_parts"]

_EFFECT_FIELDS = ("store", "background", "previous_response_id", "conversation", "web_search_options")
_TOOL_FIELDS = ("tools", "functions")
_STRUCTURE_FIELDS = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "grammar",
)
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


class ChatWire:
    """``/v1/chat/completions``."""

    surface = Surface.CHAT
    path = "/v1/chat/completions"
    turns_field = "messages"
    has_choices = True

    def conversation(self, payload: Mapping[str, object]) -> Conversation:
        """Read a request: every turn with its role, tool calls and tool results as text."""
        messages, text_only, used_tools = _messages(payload.get("messages"))
        choices = choices_asked_for(payload)
        return Conversation(messages, text_only, _observe_only(payload, text_only, used_tools), choices)

    def gather(self, payload: Mapping[str, object]) -> Gathered:
        """Return a new reader of answers."""
        return GatheredChoices(whole=_message, streamed=_delta)

    def error_event(self, body: Mapping[str, object], after: bytes) -> bytes:
        """Return an event with an OpenAI error body."""
        return error_event(body, after)


CHAT = ChatWire()


def _message(raw: Mapping[str, object]) -> Mapping[str, object] | None:
    message = raw.get("message")
    return message if isinstance(message, dict) else None


def _delta(raw: Mapping[str, object]) -> Mapping[str, object] | None:
    delta = raw.get("delta")
    return delta if isinstance(delta, dict) else None


def _messages(raw: object) -> tuple[tuple[Message, ...], bool, bool]:
    """Return the conversation as text, whether that is all of it, and whether it used tools."""
    if not isinstance(raw, list):
        return (), False, False
    messages: list[Message] = []
    text_only, used_tools = bool(raw), False
    for item in raw:
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            return (), False, False
        text, whole = text_of_parts(item.get("content"))
        calls = [call for call in (item.get("tool_calls"), item.get("function_call")) if call]
        called = [words for call in calls for words in _called(call)]
        used_tools = used_tools or bool(calls) or item["role"] in ("tool", "function")
        text_only = text_only and whole and None not in called and not item.get("audio")
        messages.append(Message(item["role"], "\n".join(part for part in (text, *called) if part)))
    return tuple(messages), text_only, used_tools


def _called(calls: object) -> list[str | None]:
    """Return what each of a turn's tool calls says, ``None`` for one that cannot be read."""
    listed = calls if isinstance(calls, Sequence) and not isinstance(calls, str) else [calls]
    words: list[str | None] = []
    for call in listed:
        function = call.get("function", call.get("custom", call)) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        arguments = function.get("arguments", function.get("input", "")) if isinstance(function, Mapping) else None
        words.append(f"{name}({arguments})" if isinstance(name, str) and isinstance(arguments, str) else None)
    return words


def text_of_parts(content: object) -> tuple[str, bool]:
    """Return a turn's text, with text parts joined by newlines, and whether that is all of it."""
    if content is None:
        return "", True
    if isinstance(content, str):
        return content, True
    if not isinstance(content, Sequence):
        return "", False
    parts = [
        part[field]
        for part in content
        if isinstance(part, Mapping)
        and isinstance(kind := part.get("type"), str)
        and (field := _TEXT_PARTS.get(kind)) is not None
        and isinstance(part.get(field), str)
    ]
    return "\n".join(parts), len(parts) == len(content)


def choices_asked_for(payload: Mapping[str, object]) -> int:
    """Return how many answers a request asks for; an odd number is the upstream's to refuse."""
    count = payload.get("n")
    return count if isinstance(count, int) and count > 1 else 1


def effects_of(payload: Mapping[str, object]) -> str | None:
    """Return why a second attempt could do harm beyond its answer, or ``None``."""
    for name in _EFFECT_FIELDS:
        if payload.get(name):
            return f"the request may have effects ({name})"
    for name in _TOOL_FIELDS:
        if payload.get(name):
            return f"the request offers tools ({name})"
    for name in _STRUCTURE_FIELDS:
        if payload.get(name) is not None:
            return f"the answer is a structured output ({name})"
    return None


def _observe_only(payload: Mapping[str, object], text_only: bool, used_tools: bool) -> str | None:
    if (why := effects_of(payload)) is not None:
        return why
    response_format = payload.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        return "the answer is a structured output (response_format)"
    modalities = payload.get("modalities")
    if payload.get("audio") or (isinstance(modalities, list) and modalities not in (["text"], [])):
        return "the answer is more than text (modalities)"
    if used_tools:
        return "the conversation used tools"
    if not text_only:
        return "the conversation holds more than text"
    return None

"""Conversations as text: what judges and text classifiers read, with nothing of a conversation left out.

Roles, the system prompt and tool calls are part of what is asked, so they are part of the text. A conversation that is
one user turn alone is that turn's bare text: it is what such models were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from detectors.verdict import Message

__all__ = ["ConversationError", "parse_messages", "sliding_windows", "transcript", "user_turns"]


class ConversationError(ValueError):
    """A value is not a conversation in OpenAI's form; the message says where it departs from it."""


def parse_messages(raw: object) -> tuple[Message, ...]:
    """Return OpenAI chat messages as text, tool calls written out.

    A tool call becomes a line ``[tool call] name(arguments)`` in its turn, so that nothing that was asked for is out of
    sight. Parts that are no text (images, audio) are named by their type. Raises ``ConversationError``.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes) or not raw:
        raise ConversationError("messages must be a list with at least one message")
    return tuple(_message(item, index) for index, item in enumerate(raw))


def user_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the texts of the user's turns, in order."""
    return tuple(turn.content for turn in messages if turn.role == "user")


def transcript(messages: Sequence[Message]) -> str:
    """Return the whole conversation as text: a single user turn bare, anything else with a role before each turn."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in messages)


def sliding_windows(text: str, size: int, overlap: int) -> list[str]:
    """Return overlapping windows of at most ``size`` characters that cover ``text``; a short text is its own window.

    Neighbours share ``overlap`` characters, so that nothing up to that length is cut in two everywhere.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be at least 0 and below the size {size}, got {overlap}")
    if len(text) <= size:
        return [text]
    stride = size - overlap
    starts = range(0, len(text) - overlap, stride)
    return [text[start : start + size] for start in starts]


def _message(item: object, index: int) -> Message:
    if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
        raise ConversationError(f"message {index} must be an object with a role")
    lines = [_content(item.get("content"), index)]
    calls = item.get("tool_calls") or []
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ConversationError(f"message {index}: tool_calls must be a list")
    lines += [_tool_call(call, index) for call in calls]
    return Message(item["role"], "\n".join(line for line in lines if line))


def _content(content: object, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ConversationError(f"message {index}: content must be text or a list of parts")
    return "\n".join(_part(part, index) for part in content)


def _part(part: object, index: int) -> str:
    if not isinstance(part, Mapping):
        raise ConversationError(f"message {index}: every part of the content must be an object")
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type', 'unknown')}]"


def _tool_call(call: object, index: int) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ConversationError(f"message {index}: a tool call must hold a function")
    arguments = function.get("arguments", "")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"[tool call] {function.get('name', '')}({written})"

"""What a chat completion says, read from a whole body or gathered from the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.stream import SseEvent, SseParser

DONE = "[DONE]"


class RefusalForm(StrEnum):
    """Where an answer's refusal would be found: in its text, in its typed field, or in a provider's filter."""

    TEXT = "text"
    TYPED = "typed"
    FILTER = "filter"


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The part of a completion that detectors judge.

    ``texts`` holds one text per choice, by index; ``called_tools`` is True when any choice called one; ``steered`` is
    what a steering engine reported about this answer (``None``: it reported nothing).
    """

    texts: tuple[str, ...]
    form: RefusalForm
    called_tools: bool
    steered: bool | None


@dataclass(slots=True)
class _Choice:
    parts: list[str] = field(default_factory=list)
    typed: bool = False
    filtered: bool = False
    called_tools: bool = False

    def add(self, message: Mapping[str, object], finish_reason: object) -> str:
        """Take in a message or a delta and return the text that it added."""
        content = message.get("content")
        text = content if isinstance(content, str) else ""
        if text:
            self.parts.append(text)
        self.typed = self.typed or bool(message.get("refusal"))
        self.called_tools = self.called_tools or bool(message.get("tool_calls") or message.get("function_call"))
        self.filtered = self.filtered or finish_reason == "content_filter"
        return text


class _Gathered:
    """Choices by index, from one body or many chunks."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._steered: bool | None = None

    def add(self, payload: Mapping[str, object], part: str) -> str:
        """Take in one body or chunk (``part`` is ``message`` or ``delta``) and return choice 0's new text."""
        report = payload.get("rass")
        if isinstance(report, Mapping) and isinstance(report.get("steered"), bool):
            self._steered = report["steered"]
        choices = payload.get("choices")
        added = ""
        for position, raw in enumerate(choices if isinstance(choices, Sequence) else ()):
            if not isinstance(raw, Mapping):
                continue
            index = raw.get("index", position)
            message = raw.get(part)
            if not isinstance(index, int) or not isinstance(message, Mapping):
                continue
            text = self._choices.setdefault(index, _Choice()).add(message, raw.get("finish_reason"))
            if index == 0:
                added += text
        return added

    def answer(self) -> ChatAnswer:
        choices = [self._choices[index] for index in sorted(self._choices)]
        form = RefusalForm.TEXT
        if any(choice.typed for choice in choices):
            form = RefusalForm.TYPED
        elif any(choice.filtered for choice in choices):
            form = RefusalForm.FILTER
        return ChatAnswer(
            texts=tuple("".join(choice.parts) for choice in choices),
            form=form,
            called_tools=any(choice.called_tools for choice in choices),
            steered=self._steered,
        )


def read_completion(body: bytes) -> ChatAnswer | None:
    """Read a whole completion; ``None`` where the body is no completion with at least one choice."""
    payload = _object(body)
    if payload is None:
        return None
    gathered = _Gathered()
    gathered.add(payload, "message")
    answer = gathered.answer()
    return answer if answer.texts else None


FILTERED = ChatAnswer(texts=(), form=RefusalForm.FILTER, called_tools=False, steered=None)
"""What a provider says that answers with an error because its filter struck."""


def is_filter_error(body: bytes) -> bool:
    """Whether an error body is that of a provider's content filter (Azure answers so with status 400)."""
    error = (_object(body) or {}).get("error")
    return isinstance(error, Mapping) and error.get("code") == "content_filter"


class StreamReader:
    """Gathers a streamed completion from its bytes, split anywhere."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._gathered = _Gathered()
        self.done = False
        """Whether the stream's own end (``[DONE]``) was seen."""
        self.failed = False
        """Whether the upstream sent an error event."""

    def feed(self, chunk: bytes) -> str:
        """Take in bytes and return the text that they added to choice 0."""
        return "".join(self._take(event) for event in self._parser.feed(chunk))

    def _take(self, event: SseEvent) -> str:
        if event.data == DONE:
            self.done = True
            return ""
        payload = _object(event.data)
        if payload is None:
            return ""
        self.failed = self.failed or "error" in payload
        return self._gathered.add(payload, "delta")

    def answer(self) -> ChatAnswer:
        """Return what was gathered so far."""
        return self._gathered.answer()


def without_report(body: bytes) -> bytes:
    """Return a completion's body without the engine's steering report, which holds coordinates."""
    payload = _object(body)
    if payload is None or "rass" not in payload:
        return body
    return json.dumps({name: value for name, value in payload.items() if name != "rass"}, ensure_ascii=False).encode()


def stream_without_report(body: bytes) -> bytes:
    """Return a whole stream's bytes, its events written anew without the engine's steering report."""
    written: list[bytes] = []
    for event in SseParser().feed(body):
        data = without_report(event.data.encode()).decode()
        written.append(SseEvent(data, event.name).encode())
    return b"".join(written)


def _object(body: bytes | str) -> dict[str, object] | None:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None

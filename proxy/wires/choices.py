"""Answers made of ``choices`` with an index, as chat completions and completions have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.answers import ChatAnswer, RefusalForm, steering_report

MessageOf = Callable[[Mapping[str, object]], Mapping[str, object] | None]
"""From a raw choice to the message or delta in it, with its text under ``content``; ``None`` where there is none."""

_REASONING = ("reasoning_content", "reasoning", "reasoning_details")


@dataclass(slots=True)
class _Choice:
    echo: str = ""
    """What of an echoed prompt is still to come before the answer's own text."""
    parts: list[str] = field(default_factory=list)
    typed: bool = False
    filtered: bool = False
    called_tools: bool = False

    def add(self, message: Mapping[str, object], finish_reason: object) -> str:
        """Take in a message or a delta and return the text that it added."""
        content = message.get("content")
        text = self._own(content) if isinstance(content, str) else ""
        if text:
            self.parts.append(text)
        self.typed = self.typed or bool(message.get("refusal"))
        self.called_tools = self.called_tools or bool(message.get("tool_calls") or message.get("function_call"))
        self.filtered = self.filtered or finish_reason == "content_filter"
        return text

    def _own(self, text: str) -> str:
        if not self.echo:
            return text
        if self.echo.startswith(text):
            self.echo = self.echo.removeprefix(text)
            return ""
        own = text.removeprefix(self.echo)
        self.echo = ""
        return own

    def answer(self, steered: bool | None) -> ChatAnswer:
        form = RefusalForm.TYPED if self.typed else RefusalForm.FILTER if self.filtered else RefusalForm.TEXT
        return ChatAnswer(("".join(self.parts),), form, self.called_tools, steered)


class GatheredChoices:
    """Implements ``Gathered``. ``echoes`` gives, for a choice's index, the prompt that its text begins with."""

    def __init__(
        self, *, whole: MessageOf, streamed: MessageOf, echoes: Callable[[int], str] = lambda _index: ""
    ) -> None:
        self._whole = whole
        self._streamed = streamed
        self._echoes = echoes
        self._choices: dict[int, _Choice] = {}
        self._steered: bool | None = None
        self.finished = False
        self.failed = False
        self.reasoned = False

    def add_body(self, payload: Mapping[str, object]) -> None:
        """Take in a whole body."""
        self._add(payload, self._whole)

    def add_event(self, payload: Mapping[str, object]) -> Mapping[int, str]:
        """Take in one chunk and return the text that it added to each choice."""
        self.failed = self.failed or bool(payload.get("error"))
        return self._add(payload, self._streamed)

    def _add(self, payload: Mapping[str, object], message_of: MessageOf) -> dict[int, str]:
        report = steering_report(payload)
        self._steered = self._steered if report is None else report
        added: dict[int, str] = {}
        for index, raw in indexed(payload):
            message = message_of(raw)
            if message is None:
                continue
            self.reasoned = self.reasoned or any(message.get(name) for name in _REASONING)
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _Choice(self._echoes(index))
            text = choice.add(message, raw.get("finish_reason"))
            if text:
                added[index] = added.get(index, "") + text
        return added

    def choices(self) -> dict[int, ChatAnswer]:
        """Return each choice as an answer of its own."""
        return {index: self._choices[index].answer(self._steered) for index in sorted(self._choices)}


def indexed(payload: Mapping[str, object]) -> list[tuple[int, Mapping[str, object]]]:
    """Return a body's or chunk's choices with their indices; one without an index has that of its place."""
    raw_choices = payload.get("choices")
    if not isinstance(raw_choices, list):
        return []
    found: list[tuple[int, Mapping[str, object]]] = []
    for position, raw in enumerate(raw_choices):
        if isinstance(raw, dict):
            index = raw.get("index", position)
            if isinstance(index, int):
                found.append((index, raw))
    return found

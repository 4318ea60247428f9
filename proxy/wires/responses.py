"""Responses: input items instead of messages, output items instead of choices, and typed events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from detectors.verdict import Message
from proxy.answers import ChatAnswer, Gathered, RefusalForm, steering_report
from proxy.errors import ended
from proxy.stream import SseEvent
from proxy.wires.chat import effects_of, text_of_parts
from proxy.wires.protocol import Conversation, Surface


class ResponsesWire:
    """``/v1/responses``."""

    surface = Surface.RESPONSES
    path = "/v1/responses"
    turns_field = "input"
    has_choices = False

    def conversation(self, payload: Mapping[str, object]) -> Conversation:
        """Read a request: instructions as the system's turn, then each input item with its role."""
        messages, text_only, used_tools = _input(payload.get("input"))
        instructions = payload.get("instructions")
        if isinstance(instructions, str):
            messages = (Message("system", instructions), *messages)
        elif instructions:
            text_only = False
        text_only = text_only and not payload.get("prompt")
        return Conversation(messages, text_only, _observe_only(payload, text_only, used_tools))

    def gather(self, payload: Mapping[str, object]) -> Gathered:
        """Return a new reader of answers."""
        return GatheredResponse()

    def error_event(self, body: Mapping[str, object], after: bytes) -> bytes:
        """Return an ``error`` event; its ``error`` object is what makes clients raise instead of going on."""
        error = body.get("error")
        data = {"type": "error", **(error if isinstance(error, Mapping) else {}), "error": error}
        return ended(after) + SseEvent(json.dumps({**data, "type": "error"}, ensure_ascii=False), "error").encode()


RESPONSES = ResponsesWire()


class GatheredResponse:
    """Implements ``Gathered`` with one choice: all message text of the output."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._typed = False
        self._filtered = False
        self._called_tools = False
        self._steered: bool | None = None
        self._seen = False
        self.finished = False
        self.failed = False
        self.reasoned = False

    def add_body(self, payload: Mapping[str, object]) -> None:
        """Take in a whole response object."""
        self._add_report(payload)
        output = payload.get("output")
        if not isinstance(output, Sequence) or isinstance(output, str):
            return
        self.failed = self.failed or bool(payload.get("error")) or payload.get("status") in ("failed", "cancelled")
        self._seen = True
        details = payload.get("incomplete_details")
        self._filtered = isinstance(details, Mapping) and details.get("reason") == "content_filter"
        for item in output:
            if isinstance(item, Mapping):
                self._add_item(item)
                for part in _parts(item.get("content")):
                    self._typed = self._typed or part.get("type") == "refusal"
                    if part.get("type") == "output_text" and isinstance(part.get("text"), str):
                        self._parts.append(str(part["text"]))

    def add_event(self, payload: Mapping[str, object]) -> Mapping[int, str]:
        """Take in one event and return the text that it added."""
        self._add_report(payload)
        self._seen = True
        kind = payload.get("type")
        match kind:
            case "response.output_text.delta":
                delta = payload.get("delta")
                if isinstance(delta, str) and delta:
                    self._parts.append(delta)
                    return {0: delta}
            case "response.refusal.delta" | "response.refusal.done":
                self._typed = True
            case "response.output_item.added" | "response.output_item.done":
                item = payload.get("item")
                if isinstance(item, Mapping):
                    self._add_item(item)
            case "response.completed" | "response.incomplete":
                self.finished = True
                return self._add_final(payload.get("response"))
            case "response.failed" | "error":
                self.failed = True
            case str() if "reasoning" in kind:
                self.reasoned = True
        if payload.get("error") and kind is None:
            self.failed = True
        return {}

    def choices(self) -> dict[int, ChatAnswer]:
        """Return the response as the one choice."""
        if not self._seen:
            return {}
        form = RefusalForm.TYPED if self._typed else RefusalForm.FILTER if self._filtered else RefusalForm.TEXT
        return {0: ChatAnswer(("".join(self._parts),), form, self._called_tools, self._steered)}

    def _add_final(self, response: object) -> Mapping[int, str]:
        """Take in the response object at a stream's end: it repeats the text, or brings it where no delta did."""
        if not isinstance(response, Mapping):
            return {}
        streamed = list(self._parts)
        self._parts.clear()
        self.add_body(response)
        if streamed:
            self._parts = streamed
            return {}
        return {0: "".join(self._parts)} if self._parts else {}

    def _add_item(self, item: Mapping[str, object]) -> None:
        kind = item.get("type")
        self._called_tools = self._called_tools or (isinstance(kind, str) and kind.endswith("_call"))
        self.reasoned = self.reasoned or kind == "reasoning"

    def _add_report(self, payload: Mapping[str, object]) -> None:
        report = steering_report(payload)
        self._steered = self._steered if report is None else report


def _parts(content: object) -> list[Mapping[str, object]]:
    if not isinstance(content, Sequence) or isinstance(content, str):
        return []
    return [part for part in content if isinstance(part, Mapping)]


def _input(raw: object) -> tuple[tuple[Message, ...], bool, bool]:
    """Return the input as text, whether that is all of it, and whether it used tools."""
    if isinstance(raw, str):
        return (Message("user", raw),), True, False
    if not isinstance(raw, Sequence):
        return (), False, False
    messages: list[Message] = []
    text_only, used_tools = bool(raw), False
    for item in raw:
        if not isinstance(item, Mapping):
            return (), False, False
        kind = item.get("type", "message")
        role, content = item.get("role"), item.get("content")
        if kind == "message" and isinstance(role, str):
            text, whole = text_of_parts(content)
            messages.append(Message(role, text))
        elif kind in ("function_call", "custom_tool_call"):
            text, whole = f"{item.get('name')}({item.get('arguments', item.get('input', ''))})", True
            messages.append(Message("assistant", text))
            used_tools = True
        elif kind in ("function_call_output", "custom_tool_call_output"):
            text, whole = text_of_parts(item.get("output"))
            messages.append(Message("tool", text))
            used_tools = True
        else:
            # Reasoning is the model's own; whatever else it is, its text is not here to be judged.
            whole = kind == "reasoning" and not item.get("encrypted_content")
        text_only = text_only and whole
    return tuple(messages), text_only, used_tools


def _observe_only(payload: Mapping[str, object], text_only: bool, used_tools: bool) -> str | None:
    if payload.get("store") is not False:
        return "the response is stored (store is not false)"
    if (why := effects_of(payload)) is not None:
        return why
    text = payload.get("text")
    wanted = text.get("format") if isinstance(text, Mapping) else None
    if isinstance(wanted, Mapping) and wanted.get("type") not in (None, "text"):
        return "the answer is a structured output (text.format)"
    if used_tools:
        return "the conversation used tools"
    if not text_only:
        return "the conversation holds more than text"
    return None

"""What an answer says, read from a whole body or gathered from the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from proxy.stream import SseEvent, SseParser

DONE = "[DONE]"


class RefusalForm(StrEnum):
    """Where an answer's refusal would be found: in its text, in its typed field, or in a provider's filter."""

    TEXT = "text"
    TYPED = "typed"
    FILTER = "filter"


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The part of an answer that detectors judge.

    ``texts`` holds one text per choice, by index; ``called_tools`` is True when any choice called one; ``steered`` is
    what a steering engine reported about this answer (``None``: it reported nothing).
    """

    texts: tuple[str, ...]
    form: RefusalForm
    called_tools: bool
    steered: bool | None


FILTERED = ChatAnswer(texts=(), form=RefusalForm.FILTER, called_tools=False, steered=None)
"""What a provider says that answers with an error because its filter struck."""


def is_filter_error(body: bytes) -> bool:
    """Whether an error body is that of a provider's content filter (Azure answers so with status 400)."""
    error = (json_object(body) or {}).get("error")
    return isinstance(error, Mapping) and error.get("code") == "content_filter"


class Gathered(Protocol):
    """Choices by index, from one body or from the events of one stream."""

    finished: bool
    """Whether the answer says of itself that it came to its end (streams that end with ``[DONE]`` need not)."""
    failed: bool
    """Whether the upstream reported a failure in the place of an answer."""
    reasoned: bool
    """Whether reasoning was seen outside of the answer's text."""

    def add_body(self, payload: Mapping[str, object]) -> None:
        """Take in a whole body."""
        ...

    def add_event(self, payload: Mapping[str, object]) -> Mapping[int, str]:
        """Take in one event and return the text that it added to each choice."""
        ...

    def choices(self) -> dict[int, ChatAnswer]:
        """Return each choice as an answer of its own."""
        ...


def together(choices: Mapping[int, ChatAnswer]) -> ChatAnswer:
    """Return all choices of one answer as one; nearly always there is only one."""
    if len(choices) == 1:
        return next(iter(choices.values()))
    ordered = [choices[index] for index in sorted(choices)]
    form = RefusalForm.TEXT
    for worse in (RefusalForm.TYPED, RefusalForm.FILTER):
        if form is RefusalForm.TEXT and any(choice.form is worse for choice in ordered):
            form = worse
    reports = [choice.steered for choice in ordered if choice.steered is not None]
    return ChatAnswer(
        texts=tuple(text for choice in ordered for text in choice.texts),
        form=form,
        called_tools=any(choice.called_tools for choice in ordered),
        steered=all(reports) if reports else None,
    )


def read_choices(body: bytes, gathered: Gathered) -> dict[int, ChatAnswer]:
    """Read a whole answer; empty where the body is none, or says that it failed."""
    payload = json_object(body)
    if payload is None:
        return {}
    gathered.add_body(payload)
    return {} if gathered.failed else gathered.choices()


class StreamReader:
    """Gathers a streamed answer from its bytes, split anywhere."""

    def __init__(self, gathered: Gathered) -> None:
        self._parser = SseParser()
        self._gathered = gathered
        self._done = False

    @property
    def done(self) -> bool:
        """Whether the stream's own end was seen."""
        return self._done or self._gathered.finished

    @property
    def failed(self) -> bool:
        """Whether the upstream sent an error event."""
        return self._gathered.failed

    @property
    def reasoned(self) -> bool:
        """Whether reasoning was seen outside of the answer's text."""
        return self._gathered.reasoned

    def feed(self, chunk: bytes) -> dict[int, str]:
        """Take in bytes and return the text that they added to each choice."""
        added: dict[int, str] = {}
        for event in self._parser.feed(chunk):
            for index, text in self._take(event).items():
                added[index] = added.get(index, "") + text
        return added

    def _take(self, event: SseEvent) -> Mapping[int, str]:
        if event.data == DONE:
            self._done = True
            return {}
        payload = json_object(event.data)
        return {} if payload is None else self._gathered.add_event(payload)

    def choices(self) -> dict[int, ChatAnswer]:
        """Return what was gathered so far, choice by choice."""
        return self._gathered.choices()

    def answer(self) -> ChatAnswer:
        """Return what was gathered so far."""
        return together(self.choices())


def read_stream(body: bytes, gathered: Gathered) -> dict[int, ChatAnswer]:
    """Read a whole stream; empty where it failed or did not come to its end."""
    reader = StreamReader(gathered)
    reader.feed(body)
    return {} if reader.failed or not reader.done else reader.choices()


def steering_report(payload: Mapping[str, object]) -> bool | None:
    """Return whether an engine says that it steered; it says so beside the answer, or inside of a response object."""
    for holder in (payload, payload.get("response")):
        report = holder.get("rass") if isinstance(holder, dict) else None
        if isinstance(report, dict) and isinstance(report.get("steered"), bool):
            return bool(report["steered"])
    return None


def without_report(body: bytes) -> bytes:
    """Return an answer's body without the engine's steering report, which holds coordinates."""
    payload = json_object(body)
    if payload is None:
        return body
    inner = payload.get("response")
    if "rass" not in payload and not (isinstance(inner, Mapping) and "rass" in inner):
        return body
    clean = _without_rass(payload)
    if isinstance(inner, Mapping):
        clean["response"] = _without_rass(inner)
    return json.dumps(clean).encode()  # ASCII: half of a surrogate pair is legal in JSON, and only as an escape


def stream_without_report(body: bytes) -> bytes:
    """Return a whole stream's bytes, its events written anew without the engine's steering report."""
    written: list[bytes] = []
    for event in SseParser().feed(body):
        data = without_report(event.data.encode()).decode()
        written.append(SseEvent(data, event.name).encode())
    return b"".join(written)


def _without_rass(payload: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in payload.items() if name != "rass"}


def json_object(body: bytes | str) -> dict[str, object] | None:
    """Return the JSON object that ``body`` is, or ``None``."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None

"""What a provider's own bytes said, read beside litellm.

litellm translates well what an answer says and badly that it was refused (DESIGN section 11): typed refusals move or
vanish, Anthropic's reasons are dropped, unlike finish reasons become one, and a stream that was cut off ends in "stop".
So the bytes that litellm reads are read here too, for those few facts alone. Each wire is known by its shape, not by
the provider's name: Claude speaks Anthropic's wire on Vertex as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from proxy.stream import SseParser

_MAX_BODY_BYTES = 4_194_304
_EVENT_STREAM = "text/event-stream"
_RELAYED_HEADERS = ("retry-after", "retry-after-ms")
_RELAYED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
# What marks an object as one of these wires'. OpenAI's Responses, which litellm uses for some models, is none of them.
_KNOWN_KEYS = frozenset({"choices", "candidates", "promptFeedback", "usageMetadata", "stopReason", "error"})
_ANTHROPIC_TYPES = frozenset(
    {
        "message",
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    }
)


@dataclass(slots=True)
class WireChoice:
    """One choice: its typed refusal, the provider's own word for why it ended, and what it said about a refusal."""

    refusal: str = ""
    native_reason: str | None = None
    stop_details: Mapping[str, object] | None = None


@dataclass(slots=True)
class ProviderWire:
    """One exchange with a provider.

    ``sent`` is whether a request left for the provider at all, ``failure`` the transport's error where there was one,
    ``status`` and ``headers`` (names in lower case) those of the answer. ``legible`` is False where the body is in a
    form that is not read here (binary events, compressed, too large, another wire): then the facts are unknown.
    """

    sent: bool = False
    failure: Exception | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    legible: bool = False
    choices: dict[int, WireChoice] = field(default_factory=dict)
    error: Mapping[str, object] | None = None
    _parser: SseParser | None = None
    _body: bytearray = field(default_factory=bytearray)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take in the answer's status and headers."""
        self.status = status
        self.headers = headers
        kind = headers.get("content-type", "").lower()
        self._parser = SseParser() if kind.startswith(_EVENT_STREAM) else None
        plain = headers.get("content-encoding", "identity").lower() == "identity"
        self.legible = plain and (self._parser is not None or "json" in kind)

    def feed(self, chunk: bytes) -> None:
        """Take in bytes of the body, split anywhere."""
        if not self.legible:
            return
        if self._parser is not None:
            for event in self._parser.feed(chunk):
                self._take(event.data)
            return
        self._body += chunk
        if len(self._body) > _MAX_BODY_BYTES:
            self.legible = False
            self._body.clear()

    def end(self) -> None:
        """Take in that the body has come to its end."""
        if self.legible and self._parser is None:
            self._take(self._body.decode("utf-8", "replace"))
        self._body.clear()

    @property
    def cut_off(self) -> bool:
        """Whether a stream, as far as it was read, lacks the end that every one of these wires has."""
        streamed = self.legible and self._parser is not None and self.status == 200
        return streamed and not any(choice.native_reason is not None for choice in self.choices.values())

    @property
    def error_message(self) -> str:
        """What the provider said of its error, empty where it said nothing."""
        message = None if self.error is None else self.error.get("message")
        return message if isinstance(message, str) else ""

    @property
    def relayed_headers(self) -> dict[str, str]:
        """The headers that say when and how much may be asked."""
        return {
            name: value
            for name, value in self.headers.items()
            if name in _RELAYED_HEADERS or name.startswith(_RELAYED_PREFIXES)
        }

    def choice(self, index: int) -> WireChoice:
        """Return what is known of a choice."""
        return self.choices.setdefault(index, WireChoice())

    def _take(self, text: str) -> None:
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):
            return  # the [DONE] of a stream, or what litellm will stumble over itself
        for item in payload if isinstance(payload, list) else [payload]:
            if isinstance(item, Mapping):
                self._take_object(item)

    def _take_object(self, payload: Mapping[str, object]) -> None:
        if _KNOWN_KEYS.isdisjoint(payload) and payload.get("type") not in _ANTHROPIC_TYPES:
            self.legible = False
            return
        error = payload.get("error")
        if isinstance(error, Mapping):
            self.error = error
        self._take_openai(payload)
        self._take_gemini(payload)
        self._take_anthropic(payload)
        if isinstance(reason := payload.get("stopReason"), str):  # Bedrock's Converse
            self.choice(0).native_reason = reason

    def _take_openai(self, payload: Mapping[str, object]) -> None:
        for index, item in _indexed(payload.get("choices")):
            choice = self.choice(index)
            said = item.get("message") or item.get("delta")
            if isinstance(said, Mapping) and isinstance(refusal := said.get("refusal"), str):
                choice.refusal += refusal
            if isinstance(reason := item.get("finish_reason"), str):
                choice.native_reason = reason

    def _take_gemini(self, payload: Mapping[str, object]) -> None:
        for index, item in _indexed(payload.get("candidates")):
            if isinstance(reason := item.get("finishReason"), str):
                self.choice(index).native_reason = reason
        feedback = payload.get("promptFeedback")
        if isinstance(feedback, Mapping) and isinstance(reason := feedback.get("blockReason"), str):
            # A blocked prompt is a filter's work whatever the reason is called, OTHER included.
            self.choice(0).native_reason = f"BLOCKED_{reason}"

    def _take_anthropic(self, payload: Mapping[str, object]) -> None:
        said = payload.get("delta") if payload.get("type") == "message_delta" else payload
        if not isinstance(said, Mapping):
            return
        if isinstance(reason := said.get("stop_reason"), str):
            self.choice(0).native_reason = reason
        if isinstance(details := said.get("stop_details"), Mapping):
            self.choice(0).stop_details = details


def _indexed(listed: object) -> Iterator[tuple[int, Mapping[str, object]]]:
    for position, item in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(item, Mapping):
            index = item.get("index", position)
            yield (index if isinstance(index, int) else position), item

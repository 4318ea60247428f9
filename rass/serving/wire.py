"""What clients may send: the OpenAI chat body with the ``rass`` extension, checked field by field.

A field is either honoured, or harmless when ignored, or refused by name. None is passed over in silence.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from detectors.verdict import Message
from rass.serving.errors import InvalidRequest

__all__ = ["ChatBody", "ReadBody", "SteerFields", "parse"]

_UNUSED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields that describe the client or its caching and change no answer: accepted and not used."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
}
"""Fields that are not supported, with the values that ask for nothing; null asks for nothing anywhere."""

_Body = TypeVar("_Body", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]
    name: str | None = None
    # What the official client sends along when an answer is sent back as part of the conversation.
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)

    @field_validator("content")
    @classmethod
    def _encodable(cls, content: str | list[_TextPart]) -> str | list[_TextPart]:
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        if not _is_unicode(text):
            raise ValueError("holds a lone surrogate, which is no character")
        return content

    def message(self) -> Message:
        """Return the message with its text parts joined by newlines."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Message(self.role, text)


class SteerFields(_Strict):
    """``rass.steer``: which vector acts how strongly; what is left out is the bundle's."""

    vector: str
    strength: float
    layers: list[int] | None = None
    form: Literal["add", "ablate"] | None = None
    span: Literal["onward", "last_prompt_token", "every_token"] | None = None


class _RassFields(_Strict):
    steer: SteerFields | None = None
    read: bool = False


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Conversation(_Strict):
    model: str
    messages: list[_ChatMessage] = Field(min_length=1)

    def conversation(self) -> list[Message]:
        """Return the messages as plain text turns."""
        return [message.message() for message in self.messages]


class ReadBody(_Conversation):
    """The body of ``POST /v1/rass/read``; ``question``, whether the request was harmful, is put to the model."""

    question: str | None = Field(default=None, min_length=1)


class ChatBody(_Conversation):
    """The body of ``POST /v1/chat/completions``, after the fields that ask for nothing were taken out."""

    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    rass: _RassFields | None = None

    @field_validator("stop")
    @classmethod
    def _few_and_not_empty(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 4 or not all(one and _is_unicode(one) for one in stops):
            raise ValueError("give up to 4 stop strings, none of them empty")
        return stop

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def token_limit(self) -> int | None:
        """The largest number of new tokens that the client allows."""
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(limits, default=None)


def parse(data: bytes, kind: type[_Body]) -> _Body:
    """Parse and check a request body; raises ``InvalidRequest`` naming the first field that is wrong."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    kept = {name: value for name, value in fields.items() if not (kind is ChatBody and _asks_for_nothing(name, value))}
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _first_error(error, kind) from error


def _asks_for_nothing(name: str, value: Any) -> bool:
    """Return whether a field can be left out; raises ``InvalidRequest`` for one that asks for what is not supported."""
    if name in _UNUSED:
        return True
    if name not in _NEUTRAL:
        return False
    # True equals 1 in Python, but it is not a value that n or a penalty can have.
    if value is None or any(
        value == neutral and isinstance(value, bool) is isinstance(neutral, bool) for neutral in _NEUTRAL[name]
    ):
        return True
    raise InvalidRequest(f"{name} = {json.dumps(value)[:80]} is not supported by this server; leave it out", param=name)


def _first_error(error: ValidationError, kind: type[BaseModel]) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    # Union members put their type's name into the path; a client knows only fields and indices.
    *above, last = first["loc"]
    unknown = first["type"] == "extra_forbidden"  # then the last part is the client's own word, whatever it looks like
    path = [part for part in above if isinstance(part, int) or (part.isidentifier() and part != "str")]
    if unknown or isinstance(last, int) or (last.isidentifier() and last != "str"):
        path.append(last)
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if unknown:
        near = difflib.get_close_matches(str(last), [*kind.model_fields, *_NEUTRAL, *_UNUSED], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; leave it out"
        return InvalidRequest(f"unknown field {param!r}{hint}", param=param)
    return InvalidRequest(f"{param}: {first['msg']}", param=param or None)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Between OpenAI's shapes and litellm's: which requests are translated, and what is put back into the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from proxy.errors import error_body
from proxy.upstream.provider_wire import ProviderWire, WireChoice

# What is passed on to litellm. It takes its own orders (addresses, keys, fallbacks, mocks, callbacks) by the same
# keyword arguments, so nothing that is not named here may reach it.
TRANSLATED_FIELDS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)

# The name becomes part of the provider's path, so it must not be able to leave its place there.
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*)*")

# Gemini's words for an end that no filter made; litellm calls them content_filter like those that one did.
_NO_FILTER = frozenset({"OTHER", "LANGUAGE", "NO_IMAGE", "IMAGE_OTHER"})

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Untranslatable(ValueError):
    """A request that is not passed on; carries the OpenAI error body."""

    def __init__(self, message: str, code: str, param: str) -> None:
        super().__init__(message)
        self.body = error_body(message, "invalid_request_error", code, param)


def completion_arguments(body: bytes) -> dict[str, object]:
    """Return a chat completion request's fields as litellm takes them; raises ``Untranslatable``.

    A field that is ``null`` counts as left out. Nothing is dropped in silence.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Untranslatable(f"the request body is not valid JSON: {error}", "invalid_json", "body") from error
    if not isinstance(payload, dict):
        raise Untranslatable("the request body must be a JSON object", "invalid_json", "body")
    arguments = {name: value for name, value in payload.items() if value is not None}
    for name in arguments:
        if name not in TRANSLATED_FIELDS:
            raise Untranslatable(
                f"the field {name!r} is not translated for this model's provider; leave it out",
                "unsupported_field",
                name,
            )
    model = arguments.get("model")
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        raise Untranslatable("model must be a name of letters, digits and ._:@+-/", "invalid_model", "model")
    if not isinstance(arguments.get("messages"), list):
        raise Untranslatable("messages must be a list", "invalid_messages", "messages")
    if not isinstance(arguments.get("stream", False), bool):
        raise Untranslatable("stream must be true or false", "invalid_value", "stream")
    if arguments.get("stream") and arguments.get("n", 1) != 1:
        raise Untranslatable(
            "several choices in one stream are not translated for this model's provider; leave n or stream out",
            "unsupported_value",
            "n",
        )
    return arguments


def completion(payload: Mapping[str, object], wire: ProviderWire) -> dict[str, object]:
    """Return a whole completion from litellm's, with what the provider's bytes said about refusals put back."""
    choices = []
    for index, choice in _choices(payload):
        message = dict(_mapping(choice.get("message")))
        moved = _moved_refusal(message)
        refusal = wire.choice(index).refusal or moved
        message = {
            "role": "assistant",
            **_pruned(message),
            "content": message.get("content"),
            "refusal": refusal or None,
        }
        choices.append(_explained({**choice, "index": index, "message": message}, wire.choice(index)))
    return {**_pruned(payload), "choices": choices}


class StreamTranslation:
    """The same for a stream's chunks, one after the other."""

    def __init__(self, wire: ProviderWire) -> None:
        self._wire = wire
        self._refusal_sent = 0

    def chunk(self, payload: Mapping[str, object]) -> dict[str, object]:
        """Return a chunk from litellm's.

        A refusal's text that litellm has passed over goes out with the next chunk, the last one at the latest: what
        was sent of it is always a beginning of what the provider sent.
        """
        choices = []
        for index, choice in _choices(payload):
            delta = dict(_mapping(choice.get("delta")))
            moved = _moved_refusal(delta)
            delta = _pruned(delta)
            missing = self._wire.choice(index).refusal[self._refusal_sent :] if self._wire.legible else moved
            if missing:
                delta["refusal"] = missing
                self._refusal_sent += len(missing)
            choices.append(_explained({**choice, "index": index, "delta": delta}, self._wire.choice(index)))
        if payload.get("usage") is not None and not any(c["delta"] or c.get("finish_reason") for c in choices):
            choices = []  # the chunk of the usage alone, which has no choice in OpenAI's streams
        for choice in choices:
            choice.setdefault("finish_reason", None)
        return {**_pruned(payload), "choices": choices}


def finishes(chunk: Mapping[str, object]) -> bool:
    """Whether a chunk says that its choice has ended."""
    return any(choice.get("finish_reason") is not None for _, choice in _choices(chunk))


def provider_error(wire: ProviderWire, otherwise: str) -> dict[str, object]:
    """Return an OpenAI error body with the provider's own words, or ``otherwise`` where they were not read.

    A provider's filter keeps its code (``content_filter``) and its ``innererror``.
    """
    given = wire.error or {}
    status = wire.status or 500
    message, kind, param = given.get("message"), given.get("type"), given.get("param")
    code = next((word for word in (given.get("code"), given.get("status")) if isinstance(word, str)), None)
    default_kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = error_body(
        message if isinstance(message, str) and message else otherwise,
        kind if isinstance(kind, str) else default_kind,
        code or "provider_error",
        param if isinstance(param, str) else None,
    )
    if isinstance(inner := given.get("innererror"), Mapping):
        body["error"] = {**_mapping(body["error"]), "innererror": inner}
    return body


def _explained(choice: dict[str, object], said: WireChoice) -> dict[str, object]:
    """Return a choice with the provider's own reason beside OpenAI's word for it."""
    native = said.native_reason
    # What litellm says of its own is no longer needed: the reason below says it for every provider alike.
    choice = {name: value for name, value in choice.items() if name != "provider_specific_fields"}
    if choice.get("finish_reason") is None or native is None:
        return choice
    if native in _NO_FILTER:
        choice["finish_reason"] = "stop"
    if native != choice["finish_reason"]:
        choice["native_finish_reason"] = native
    if said.stop_details is not None:
        choice["stop_details"] = said.stop_details
    return choice


def _moved_refusal(message: dict[str, object]) -> str:
    """Take the refusal out of where litellm puts it and return it."""
    fields = dict(_mapping(message.pop("provider_specific_fields", None)))
    refusal = fields.pop("refusal", None)
    if kept := _pruned(fields):
        message["provider_specific_fields"] = kept
    return refusal if isinstance(refusal, str) else ""


def _choices(payload: Mapping[str, object]) -> list[tuple[int, Mapping[str, object]]]:
    listed = payload.get("choices")
    choices = [choice for choice in listed if isinstance(choice, Mapping)] if isinstance(listed, list) else []
    return [
        (index if isinstance(index := choice.get("index"), int) else position, choice)
        for position, choice in enumerate(choices)
    ]


def _pruned(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that hold something: litellm's models carry many that do not."""
    return {name: value for name, value in fields.items() if value is not None and value != [] and value != {}}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}

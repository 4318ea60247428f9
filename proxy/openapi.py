"""The OpenAPI document of the proxy's paths, written by hand: the hot routes are plain ASGI, so nobody derives it.

Bodies are the upstream's to validate. Their schemas here name the fields that the proxy itself reads and refuses, and
allow every other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from proxy.engine_fields import STEERING_FIELDS
from proxy.exchange import Action, Mode
from proxy.headers import ACTION_HEADER, ATTEMPTS_HEADER, MODE_HEADER, REFUSAL_HEADER, REQUEST_ID_HEADER, ZONE_HEADER
from proxy.relayed_path import RelayedPath
from proxy.wires.chat import CHAT
from proxy.wires.completions import COMPLETIONS
from proxy.wires.responses import RESPONSES

Json = dict[str, object]

_COUNT: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": 128}


def openapi_document(relayed: Sequence[RelayedPath]) -> Json:
    """Return the document (OpenAPI 3.1); ``relayed`` are the paths that the settings list."""
    paths: dict[str, dict[str, object]] = {
        CHAT.path: {"post": _chat()},
        COMPLETIONS.path: {"post": _completions()},
        RESPONSES.path: {"post": _responses()},
        "/healthz": {"get": _own("The process answers.", {200: "Always."})},
        "/readyz": {
            "get": _own("Whether the upstream answers and fits the bundle.", {200: "It does.", 503: "Why it does not."})
        },
        "/metrics": {"get": _own("Prometheus metrics.", {200: "The text format."}, "text/plain")},
    }
    for listed in relayed:
        template = f"{listed.path}/{{below}}" if listed.wildcard else listed.path
        paths.setdefault(template, {})[listed.method.lower()] = _relayed(listed)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rass-proxy",
            "version": version("rass-proxy"),
            "description": "An OpenAI-compatible proxy that recovers over-refused requests and leaves warranted "
            "refusals alone. Fields that are not named here pass to the served model unchanged.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": _error_schema()}},
    }


def _relayed(listed: RelayedPath) -> Json:
    operation = _operation("Relayed byte for byte, not judged.", answers=(200, 400, 404, 413, 415))
    if listed.wildcard:
        operation["parameters"] = [_parameter("below", "path", {"type": "string", "minLength": 1})]
    if listed.method in ("POST", "PUT", "PATCH"):
        fields: Json = {"type": "object", "properties": dict.fromkeys(STEERING_FIELDS, _forbidden())}
        kinds = ("application/json", "multipart/form-data")
        operation["requestBody"] = {"content": {kind: {"schema": fields} for kind in kinds}}
    return operation


def _chat() -> Json:
    messages: Json = {"type": "array", "items": {"type": "object"}}
    summary = "Answer a conversation; a likely over-refusal is recovered where the mode says so."
    return _judged(summary, "messages", messages, {"n": _COUNT, "tools": {"type": "array"}})


def _completions() -> Json:
    prompt: Json = {"type": ["string", "array"]}
    summary = "Complete a prompt, judged as one user turn; recovered where recovery.surfaces lists it."
    return _judged(summary, "prompt", prompt, {"n": _COUNT, "echo": {"type": ["boolean", "null"]}})


def _responses() -> Json:
    given: Json = {"type": ["string", "array"]}
    summary = "Answer input items; recovered where recovery.surfaces lists it, store is false and no tools are offered."
    return _judged(summary, "input", given, {"store": {"type": ["boolean", "null"]}, "tools": {"type": "array"}})


def _forbidden() -> Json:
    return {"description": "Refused with 400 unless the operator allows clients to steer.", "not": {}}


def _judged(summary: str, asked: str, schema: Json, fields: Json) -> Json:
    """Return the operation of a path whose answers are judged; ``asked`` is the field that holds the request."""
    body: Json = {
        "type": "object",
        "required": ["model", asked],
        "properties": {
            "model": {"type": "string"},
            asked: schema,
            "stream": {"type": ["boolean", "null"]},
            **fields,
            **dict.fromkeys(STEERING_FIELDS, _forbidden()),
        },
    }
    return {
        **_operation(summary, answers=(200, 400, 404, 413, 415, 422, 429)),
        "parameters": [
            _parameter(MODE_HEADER, "header", {"type": "string", "enum": [str(mode) for mode in Mode]}),
            _parameter(REQUEST_ID_HEADER, "header", {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}),
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
    }


def _operation(summary: str, *, answers: tuple[int, ...]) -> Json:
    """Return an operation that the upstream answers, or that fails on the way to it."""
    responses: Json = {
        str(status): {"description": "The upstream's answer." if status < 300 else "An error."} for status in answers
    }
    for status in (502, 504):
        responses[str(status)] = {
            "description": "The upstream cannot be reached." if status == 502 else "The upstream was late.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    own: Json = {
        ACTION_HEADER: _header({"type": "string", "enum": [str(action) for action in Action]}),
        ZONE_HEADER: _header({"type": "string", "enum": ["benign", "band", "harmful", "unknown", "unread"]}),
        REFUSAL_HEADER: _header({"type": "string", "enum": ["full", "partial", "answer", "empty"]}),
        ATTEMPTS_HEADER: _header({"type": "integer", "minimum": 0}),
    }
    responses["default"] = {"description": "Any other status of the upstream's.", "headers": own}
    return {"summary": summary, "responses": responses}


def _own(summary: str, answers: dict[int, str], media_type: str = "application/json") -> Json:
    """Return an operation that the proxy answers itself."""
    responses = {
        str(status): {"description": text, "content": {media_type: {"schema": {}}}} for status, text in answers.items()
    }
    return {"summary": summary, "responses": responses}


def _parameter(name: str, where: str, schema: Json) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _header(schema: Json) -> Json:
    return {"schema": schema}


def _error_schema() -> Json:
    text = {"type": "string"}
    error: Json = {
        "type": "object",
        "required": ["message", "type", "code"],
        "properties": {"message": text, "type": text, "code": text, "param": {"type": ["string", "null"]}},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}

"""Everything that can go wrong, as one tree, and how it looks on the wire.

ProxyError                       an exchange ends with an OpenAI-shaped error body
├── RequestError                 the client can mend it
│   ├── InvalidBody              400  no JSON object, or nested too deeply
│   ├── BodyTooLarge             413
│   ├── TooDeep                  400  JSON nested deeper than limits.max_json_depth
│   ├── TooManyMessages          400  more than limits.max_messages
│   ├── HeadersTooLarge          431  more than limits.max_headers or limits.max_header_bytes
│   ├── RequestTooSlow           408  no whole body within limits.body_timeout_s
│   ├── UnsupportedBody          415  compressed, or neither JSON nor a form that can be looked through
│   ├── InvalidModeHeader        400
│   ├── SteeringNotPermitted     400  steering or engine-internal fields without the right
│   ├── Unauthorized             401  no key, or one that opens nothing
│   ├── RateLimited              429  the key's requests per minute, or at once
│   ├── PathNotRelayed           404
│   └── ModelNotFound            404  no route serves the model
└── UpstreamError                the served model's side
    ├── UpstreamUnreachable      502
    ├── UpstreamTimedOut         504
    │   └── UpstreamConnectTimedOut   nothing was sent yet
    ├── UpstreamBroke            502  it answered, then stopped in the middle, or with what is no HTTP
    ├── AnswerTooLarge           502  longer than ``relay.max_answer_bytes``
    ├── UpstreamOverloaded       429  no place within the limits; carries Retry-After
    └── UpstreamCircuitOpen      503  it failed too often; carries Retry-After
StartupError                     the program does not start; the message says what to do
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


class ProxyError(Exception):
    """An exchange that cannot be answered; carries what OpenAI clients expect of an error body.

    ``code`` is stable and meant for programs; the message is for people and says what was wrong and what to do.
    """

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """Return the OpenAI error body."""
        return error_body(self.message, self.type, self.code, self.param)

    def headers(self) -> dict[str, str]:
        """Return the headers that go with the body: ``Retry-After`` in whole seconds, at least one."""
        return {} if self.retry_after_s is None else {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


class RequestError(ProxyError):
    """The client can mend it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidBody(RequestError):
    """The body is no JSON object."""

    code = "invalid_json"


class BodyTooLarge(RequestError):
    """The body is longer than the limit of its path."""

    status = 413
    code = "request_too_large"


class UnsupportedBody(RequestError):
    """The body is compressed, or neither a JSON object nor a form whose fields can be told."""

    status = 415
    code = "unsupported_body"


class TooDeep(RequestError):
    """The body's JSON is nested deeper than ``limits.max_json_depth``."""

    code = "json_too_deep"


class TooManyMessages(RequestError):
    """The conversation has more turns than ``limits.max_messages``."""

    code = "too_many_messages"


class HeadersTooLarge(RequestError):
    """The request has more, or longer, headers than ``limits`` allow."""

    status = 431
    code = "headers_too_large"


class RequestTooSlow(RequestError):
    """The body did not arrive within ``limits.body_timeout_s``."""

    status = 408
    code = "request_timeout"


class InvalidModeHeader(RequestError):
    """``x-rass-mode`` names no mode."""

    code = "invalid_mode"


class SteeringNotPermitted(RequestError):
    """A client sent steering or engine-internal fields without the right to."""

    code = "steering_not_permitted"


class Unauthorized(RequestError):
    """No API key, or one that opens nothing; ``challenge`` is the ``WWW-Authenticate`` header."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge

    def headers(self) -> dict[str, str]:
        """Return the challenge too (RFC 9110, 11.6.1)."""
        return {**super().headers(), "www-authenticate": self.challenge}


class RateLimited(RequestError):
    """The key asks for more than it may: ``limit`` names the setting, ``retry_after_s`` says when to come back."""

    status = 429
    type = "requests"  # OpenAI's own word
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: str, retry_after_s: int) -> None:
        super().__init__(f"{message}; try again in {retry_after_s} s", retry_after_s=retry_after_s)
        self.limit = limit


class PathNotRelayed(RequestError):
    """Only listed paths are relayed."""

    status = 404
    code = "path_not_relayed"


class ModelNotFound(RequestError):
    """No route serves the model, and there is no default route."""

    status = 404
    code = "model_not_found"


class UpstreamError(ProxyError):
    """The served model could not be asked, or stopped answering; names its address."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"


class UpstreamUnreachable(UpstreamError):
    """No connection, or the connection ended before the first byte."""

    code = "upstream_unreachable"


class UpstreamTimedOut(UpstreamError):
    """A time limit towards the upstream passed."""

    status = 504
    code = "upstream_timeout"


class UpstreamConnectTimedOut(UpstreamTimedOut):
    """No connection in time: nothing was sent, so that sending again cannot do anything twice."""


class UpstreamBroke(UpstreamError):
    """The upstream began to answer and stopped in the middle, or what it sent is no HTTP."""

    code = "upstream_broke"


class UpstreamOverloaded(UpstreamError):
    """As many requests as allowed are at the upstream and in the queue, or the wait in the queue was too long."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class UpstreamCircuitOpen(UpstreamError):
    """The upstream failed so often that it is left alone for a while."""

    status = 503
    code = "upstream_circuit_open"


class AnswerTooLarge(UpstreamError):
    """A relayed answer is longer than ``relay.max_answer_bytes``."""

    code = "upstream_answer_too_large"


class StartupError(Exception):
    """The program cannot start as it was asked to; the message says what to do. Exit code 2."""


def error_body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, object]:
    """Return an OpenAI error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_event(body: Mapping[str, object], after: bytes) -> bytes:
    """Return ``body`` as a server-sent event, for a stream that fails after its head was sent."""
    return ended(after) + b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def ended(after: bytes) -> bytes:
    """Return what ends an event that broke in the middle, so that the error after it stands by itself.

    ``after`` are the last bytes that went out. A blank line too many is nothing to a parser.
    """
    return b"" if after.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) else b"\n\n"

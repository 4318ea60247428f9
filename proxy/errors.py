"""Everything that can go wrong, as one tree, and how it looks on the wire.

ProxyError                       an exchange ends with an OpenAI-shaped error body
├── RequestError                 the client can mend it
│   ├── InvalidBody              400  no JSON object, or nested too deeply
│   ├── BodyTooLarge             413
│   ├── TooDeep                  400  JSON nested deeper than limits.max_json_depth
│   ├── TooManyMessages          400  more than limits.max_messages
│   ├── HeadersTooLarge          431  more than limits.max_headers or limits.max_header_bytes
│   ├── RequestTooSlow           408  no whole body within limits.body_timeout_s
│   ├── InvalidModeHeader        400
│   ├── SteeringNotPermitted     400  steering or engine-internal fields without the right
│   ├── Unauthorized             401  no key, or one that opens nothing
│   ├── RateLimited              429  the key's requests per minute, or at once
│   └── PathNotRelayed           404
└── UpstreamError                the served model's side
    ├── UpstreamUnreachable      502
    ├── UpstreamTimedOut         504
    └── UpstreamBroke            502  it answered, then stopped in the middle
StartupError                     the program does not start; the message says what to do
"""

from __future__ import annotations

import json
from collections.abc import Mapping


class ProxyError(Exception):
    """An exchange that cannot be answered; carries what OpenAI clients expect of an error body.

    ``code`` is stable and meant for programs; the message is for people and says what was wrong and what to do.
    """

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, object]:
        """Return the OpenAI error body."""
        return error_body(self.message, self.type, self.code, self.param)


class RequestError(ProxyError):
    """The client can mend it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidBody(RequestError):
    """The body is no JSON object."""

    code = "invalid_json"


class BodyTooLarge(RequestError):
    """The body is longer than ``limits.max_request_bytes``."""

    status = 413
    code = "request_too_large"


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


class RateLimited(RequestError):
    """The key asks for more than it may: ``limit`` names the setting, ``retry_after_s`` says when to come back."""

    status = 429
    type = "requests"  # OpenAI's own word
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: str, retry_after_s: int) -> None:
        super().__init__(f"{message}; try again in {retry_after_s} s")
        self.limit = limit
        self.retry_after_s = retry_after_s


class PathNotRelayed(RequestError):
    """Only listed paths are relayed."""

    status = 404
    code = "path_not_relayed"


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


class UpstreamBroke(UpstreamError):
    """The upstream began to answer and stopped in the middle."""

    code = "upstream_broke"


class StartupError(Exception):
    """The program cannot start as it was asked to; the message says what to do. Exit code 2."""


def error_body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, object]:
    """Return an OpenAI error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_event(body: Mapping[str, object], after: bytes) -> bytes:
    """Return ``body`` as a server-sent event, for a stream that fails after its head was sent.

    ``after`` are the last bytes that went out: an event that broke in the middle is ended first, so that the error
    stands by itself. A blank line too many is nothing to a parser.
    """
    ended = after.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    return (b"" if ended else b"\n\n") + b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"

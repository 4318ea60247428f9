"""The errors that a client of the served model can see, each with its HTTP status and OpenAI error code.

ServingError
├── InvalidRequest (400)          a field or value that is wrong or not supported; ``param`` names it
│   └── PromptTooLong             the prompt does not fit the context
├── UnknownModel (404)
├── BodyTooLarge (413)
├── QueueFull (429)               too many requests wait; try again
└── Unavailable (503)             the generation thread is dead or stopping, or the request waited too long
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BodyTooLarge",
    "InvalidRequest",
    "PromptTooLong",
    "QueueFull",
    "ServingError",
    "Unavailable",
    "UnknownModel",
]


class ServingError(Exception):
    """Base of every error that is answered with an OpenAI error body. The message says what to do about it."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, object]:
        """Return the OpenAI error body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class InvalidRequest(ServingError):
    """The request asks for something wrong, or for something that this server does not do."""

    status = 400
    kind = "invalid_request_error"


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room for an answer in the context."""

    code = "context_length_exceeded"


class UnknownModel(ServingError):
    """The request names a model that is not served here."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"


class BodyTooLarge(ServingError):
    """The request body is longer than the limit; it was not read."""

    status = 413
    kind = "invalid_request_error"
    code = "body_too_large"


class QueueFull(ServingError):
    """The bounded queue of waiting requests is full."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class Unavailable(ServingError):
    """Nothing can be generated now: the generation thread is dead or stopping, or the request waited too long."""

    status = 503
    kind = "server_error"
    code = "unavailable"

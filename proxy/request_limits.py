"""Bounds on what a request may look like, checked before anything reads it in earnest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import chain

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.asgi import send_error
from proxy.errors import HeadersTooLarge, InvalidBody, TooDeep, TooManyMessages, UnsupportedBody
from proxy.notes import notes_of
from proxy.settings.operation import LimitSettings

# A whole string, or a bracket outside of one. A string that never ends matches to the end: the parser refuses it.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")


class HeaderLimits:
    """A plain ASGI layer that answers 431 to requests with more headers than ``limits`` allow."""

    def __init__(self, app: ASGIApp, *, limits: LimitSettings) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] == "http":
            headers = scope["headers"]
            size = sum(map(len, chain.from_iterable(headers)))
            if len(headers) > self._limits.max_headers or size > self._limits.max_header_bytes:
                error = HeadersTooLarge(
                    f"the request has {len(headers)} headers of {size} bytes; at most {self._limits.max_headers} of "
                    f"{self._limits.max_header_bytes} bytes together are read (limits.max_headers, "
                    "limits.max_header_bytes)"
                )
                await send_error(error, notes_of(scope).request_id, send)
                return
        await self._app(scope, receive, send)


def check_encoding(headers: Mapping[str, str]) -> None:
    """Refuse a body that is compressed, by its header; raises ``UnsupportedBody``.

    It could be a thousand times as long as the limit on what is sent.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedBody(f"the request body is encoded as {encoding[:40]!r}; send it as it is")


def check_body(body: bytes, limits: LimitSettings) -> None:
    """Check a body's encoding and depth without parsing it; raises ``InvalidBody`` or ``TooDeep``.

    Only UTF-8 is JSON between programs (RFC 8259, 8.1). Python's parser also takes UTF-16 and UTF-32, whose bytes could
    hide brackets from the count here, and in which an upstream may read something else than the proxy did.
    """
    encoding = json.detect_encoding(body)
    if encoding not in ("utf-8", "utf-8-sig"):
        raise InvalidBody(f"the request body seems to be {encoding}; send JSON in UTF-8")
    if deeper_than(body, limits.max_json_depth):
        raise TooDeep(
            f"the request body is nested more than {limits.max_json_depth} levels deep (limits.max_json_depth)"
        )


def check_messages(payload: Mapping[str, object], field: str, limits: LimitSettings) -> None:
    """Check how many turns, items or prompts ``field`` lists; raises ``TooManyMessages``.

    Numbers are not counted: a list of them is one prompt of token ids.
    """
    listed = payload.get(field)
    if not isinstance(listed, list) or len(listed) <= limits.max_messages:
        return
    count = sum(not isinstance(entry, int) for entry in listed)
    if count > limits.max_messages:
        raise TooManyMessages(
            f"{field} has {count} entries; at most {limits.max_messages} are read (limits.max_messages)", param=field
        )


def deeper_than(body: bytes, limit: int) -> bool:
    """Whether JSON text nests its arrays and objects more than ``limit`` deep; anything else may say either.

    Counting brackets settles ordinary requests at the speed of a memory scan; only bodies with many are walked through.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in _OPENING:
            depth += 1
            if depth > limit:
                return True
        elif first in _CLOSING:
            depth -= 1
    return False

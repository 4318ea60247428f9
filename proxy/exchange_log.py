"""One log line, and where asked for one span, for each exchange."""

from __future__ import annotations

import logging
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.asgi import header_map
from proxy.headers import REQUEST_ID_HEADER, new_request_id, request_id_of
from proxy.notes import Notes, noted
from proxy.telemetry import ExchangeTracer

logger = logging.getLogger("proxy.exchange")

_REQUEST_ID = REQUEST_ID_HEADER.encode()
_MAX_PATH_CHARS = 200
_UNLOGGED = frozenset({"/healthz", "/readyz", "/metrics"})


class ExchangeLog:
    """The outermost layer: gives each request its id, and writes down how it ended.

    A line holds names, words of closed sets, numbers and the path; text of prompts and answers only with
    ``include_text``. Probes of the proxy itself (/healthz, /readyz, /metrics) are passed over.
    """

    def __init__(self, app: ASGIApp, *, include_text: bool, tracer: ExchangeTracer | None) -> None:
        self._app = app
        self._include_text = include_text
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and log it once it is over, whatever its end."""
        if scope["type"] != "http" or scope["path"] in _UNLOGGED:
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status = 0
        first_byte_s: float | None = None

        async def watched(message: Message) -> None:
            nonlocal status, first_byte_s
            if message["type"] == "http.response.start":
                status = message["status"]
            elif first_byte_s is None:
                first_byte_s = perf_counter() - started
            await send(message)

        notes = Notes(request_id=_request_id(scope))
        span = None
        if self._tracer is not None:
            span = self._tracer.begin(header_map(scope))
            scope = _with_headers(scope, span.headers())
        try:
            await self._app(noted(scope, notes), receive, watched)
        finally:
            seconds = perf_counter() - started
            if span is not None:
                span.end(notes, status, first_byte_s)
            if logger.isEnabledFor(logging.INFO):
                fields = self._fields(scope, notes, status)
                fields["duration_ms"] = round(seconds * 1000, 3)
                if first_byte_s is not None:
                    fields["first_byte_ms"] = round(first_byte_s * 1000, 3)
                logger.info("exchange", extra={"fields": fields})

    def _fields(self, scope: Scope, notes: Notes, status: int) -> dict[str, object]:
        fields: dict[str, object] = {
            "request_id": notes.request_id,
            "method": scope["method"],
            "path": scope["path"][:_MAX_PATH_CHARS],
            "status": status or None,
            "key": notes.key_id,
            "model": notes.model,
            "stream": notes.stream,
            "mode": notes.mode,
            "action": notes.action,
            "zone": notes.zone,
            "language": notes.language,
            "attempts": notes.attempts,
        }
        if self._include_text:
            fields["messages"] = [{"role": turn.role, "content": turn.content} for turn in notes.messages]
            fields["answer"] = notes.answer
        return {name: value for name, value in fields.items() if value not in ("", None, [])}


def _request_id(scope: Scope) -> str:
    """Return the client's id of the request, or a new one; of several, and of one that is not plain, none is taken."""
    given = [value for name, value in scope["headers"] if name == _REQUEST_ID]
    return request_id_of(given[0].decode("latin-1")) if len(given) == 1 else new_request_id()


def _with_headers(scope: Scope, own: dict[str, str]) -> Scope:
    """Return ``scope`` with headers of ours in place of the client's of the same name."""
    names = {name.encode("latin-1") for name in own}
    headers = [(name, value) for name, value in scope["headers"] if name not in names]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
    return {**scope, "headers": headers}

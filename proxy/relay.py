"""Paths that are relayed byte for byte and never judged: those that the settings list, and no other."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from proxy.asgi import (
    ClientGone,
    Sent,
    header_map,
    read_body,
    send_error,
    send_internal_error,
    send_reply,
    while_connected,
)
from proxy.engine_fields import refuse_steering_in
from proxy.errors import AnswerTooLarge, PathNotRelayed, ProxyError, UpstreamError, error_event
from proxy.exchange import Reply
from proxy.headers import REQUEST_ID_HEADER, forwarded_headers, request_id_of, returned_headers
from proxy.metrics import Metrics
from proxy.relayed_path import RelayedPath
from proxy.settings import Settings
from proxy.upstream.protocol import Upstream, UpstreamResponse

logger = logging.getLogger(__name__)


class Relay:
    """Answers every path that has no route of its own: relays the listed ones, refuses the others."""

    def __init__(self, settings: Settings, *, upstream: Upstream, metrics: Metrics, served: Sequence[str]) -> None:
        self._settings = settings
        self._upstream = upstream
        self._metrics = metrics
        self._paths = [RelayedPath.parse(text) for text in settings.relay.paths]
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = header_map(scope)
        request_id = request_id_of(headers)
        sent = Sent(send)
        try:
            listed = self._listed(scope["method"], scope["path"])
            body = await read_body(receive, self._settings.relay.max_request_bytes, "relay.max_request_bytes")
            if body and not self._settings.rights.allow_client_steering:
                refuse_steering_in(body, headers.get("content-type", ""))
            with self._metrics.in_flight.track_inprogress():
                async with AsyncExitStack() as stack:
                    work = self._exchange(scope, headers, request_id, body, listed, stack, sent)
                    await while_connected(receive, work)
        except ClientGone:
            return
        except ProxyError as error:
            if sent.started:
                raise
            await send_error(error, request_id, send)
        except Exception:
            logger.exception("request %s failed", request_id)
            if sent.started:
                raise
            await send_internal_error(request_id, send)

    def _listed(self, method: str, path: str) -> RelayedPath:
        for listed in self._paths:
            if listed.matches(method, path):
                return listed
        served = ", ".join([*self._served, *(str(each) for each in self._paths)])
        raise PathNotRelayed(f"{method} {path} is not relayed; this proxy serves {served}")

    async def _exchange(
        self,
        scope: Scope,
        headers: dict[str, str],
        request_id: str,
        body: bytes,
        listed: RelayedPath,
        stack: AsyncExitStack,
        send: Sent,
    ) -> None:
        key = self._settings.upstream.api_key
        query = scope["query_string"].decode("latin-1")
        response = await self._upstream.send(
            listed.method,
            quote(scope["path"], safe="/:@!$&'()*+,=~") + (f"?{query}" if query else ""),
            headers=forwarded_headers(headers, request_id, None if key is None else key.get_secret_value()),
            body=body,
            purpose="relay",
        )
        stack.push_async_callback(response.close)
        self._metrics.relayed.labels(str(listed), f"{response.status // 100}xx").inc()
        own = {REQUEST_ID_HEADER: request_id}
        length = response.headers.get("content-length")
        if length is not None:
            own["content-length"] = length
            if length.isdigit() and int(length) > self._settings.relay.max_answer_bytes:
                raise self._too_large()
        await send_reply(Reply(response.status, returned_headers(response.headers, own), self._relayed(response)), send)

    async def _relayed(self, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
        """Yield bytes as they arrive; an event stream that fails ends with an error event, any other is cut."""
        size, last = 0, b""
        try:
            while chunk := await response.next_chunk():
                size += len(chunk)
                if size > self._settings.relay.max_answer_bytes:
                    raise self._too_large()
                last = chunk
                yield chunk
        except UpstreamError as error:
            if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
                raise
            yield error_event(error.body(), last)

    def _too_large(self) -> AnswerTooLarge:
        limit = self._settings.relay.max_answer_bytes
        return AnswerTooLarge(
            f"the upstream {self._upstream.address} answers with more than {limit} bytes (relay.max_answer_bytes)"
        )

"""Paths that are relayed byte for byte and never judged: those that the settings list, and no other."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from proxy.answers import json_object
from proxy.asgi import (
    UNWATCHED_S,
    ClientGone,
    Sent,
    header_map,
    json_reply,
    read_body,
    send_error,
    send_internal_error,
    send_reply,
    while_connected,
)
from proxy.caller import Right, caller_of
from proxy.chat_request import model_of
from proxy.engine_fields import is_form, refuse_steering_in
from proxy.errors import AnswerTooLarge, PathNotRelayed, ProxyError, UpstreamError, error_event
from proxy.exchange import Reply
from proxy.headers import REQUEST_ID_HEADER, forwarded_headers, returned_headers
from proxy.metrics import Metrics
from proxy.model_list import merged_models
from proxy.notes import notes_of
from proxy.readiness import MODELS_PATH
from proxy.relayed_path import RelayedPath
from proxy.request_limits import check_body, check_encoding
from proxy.router import Route, Router
from proxy.settings import Settings
from proxy.time_limits import TimeLimit
from proxy.upstream.protocol import UpstreamResponse

logger = logging.getLogger(__name__)


class Relay:
    """Answers every path that has no route of its own: relays the listed ones, refuses the others."""

    def __init__(self, settings: Settings, *, router: Router, metrics: Metrics, served: Sequence[str]) -> None:
        self._settings = settings
        self._router = router
        self._metrics = metrics
        self._paths = [RelayedPath.parse(text) for text in settings.relay.paths]
        self._served = served
        self._body_limit = TimeLimit(settings.limits.body_timeout_s)
        self._unwatched = TimeLimit(UNWATCHED_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = header_map(scope)
        request_id = notes_of(scope).request_id
        sent = Sent(send)
        try:
            listed = self._listed(scope["method"], scope["path"])
            limits = self._settings.limits
            check_encoding(headers)
            body = await read_body(
                receive, self._settings.relay.max_request_bytes, self._body_limit, "relay.max_request_bytes"
            )
            content_type = headers.get("content-type", "")
            if body and not is_form(content_type):
                check_body(body, limits)
            steers = self._settings.rights.allow_client_steering or caller_of(scope).may(Right.CLIENT_STEERING)
            if body and not steers:
                refuse_steering_in(body, content_type)
            with self._metrics.in_flight.track_inprogress():
                async with AsyncExitStack() as stack:
                    work = self._exchange(scope, headers, request_id, body, listed, stack, sent)
                    await while_connected(receive, work, self._unwatched)
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
        path = scope["path"]
        if path == MODELS_PATH and len(self._router.routes) > 1:
            limit = self._settings.limits.max_judged_bytes
            merged = await merged_models(self._router, headers, request_id, limit)
            await send_reply(json_reply(200, merged, request_id), send)
            return
        route = self._route(path, body)
        self._metrics.route_requests.labels(route.name).inc()
        query = scope["query_string"].decode("latin-1")
        response = await route.upstream.send(
            listed.method,
            quote(path, safe="/:@!$&'()*+,=~") + (f"?{query}" if query else ""),
            headers=forwarded_headers(headers, request_id, route.api_key),
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
                raise self._too_large(route)
        body_chunks = self._relayed(route, response)
        await send_reply(Reply(response.status, returned_headers(response.headers, own), body_chunks), send)

    def _route(self, path: str, body: bytes) -> Route:
        """Return the route of the model that a request names in its path or its JSON body; a form is not read."""
        if not self._settings.routes:
            return self._router.for_no_model
        below = path.removeprefix(f"{MODELS_PATH}/")
        model = below if below != path else model_of(json_object(body) or {})
        return self._router.route(model) if model else self._router.for_no_model

    async def _relayed(self, route: Route, response: UpstreamResponse) -> AsyncGenerator[bytes, None]:
        """Yield bytes as they arrive; an event stream that fails ends with an error event, any other is cut."""
        size, last = 0, b""
        try:
            while chunk := await response.next_chunk():
                size += len(chunk)
                if size > self._settings.relay.max_answer_bytes:
                    raise self._too_large(route)
                last = chunk
                yield chunk
        except UpstreamError as error:
            if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
                raise
            yield error_event(error.body(), last)

    def _too_large(self, route: Route) -> AnswerTooLarge:
        limit = self._settings.relay.max_answer_bytes
        return AnswerTooLarge(
            f"the upstream {route.upstream.address} answers with more than {limit} bytes (relay.max_answer_bytes)"
        )

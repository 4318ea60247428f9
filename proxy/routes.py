"""Thin handlers: every path that is served, and an error for every other one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from types import MappingProxyType

from prometheus_client import Histogram
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from proxy.asgi import ClientGone, header_map, read_body, send_reply, while_connected
from proxy.chat_request import model_of, parse_chat_request, parse_object
from proxy.errors import PathNotRelayed, ProxyError, error_body
from proxy.exchange import Action, ChatRequest, Reply
from proxy.gate import Gate
from proxy.headers import REQUEST_ID_HEADER, forwarded_headers, request_id_of, returned_headers
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.model_list import merged_models, readiness_page, route_states
from proxy.readiness import Mismatch, Ready, Unreachable
from proxy.recovery import COMPLETIONS_PATH
from proxy.router import Router
from proxy.settings import Settings
from proxy.stream import KEEP_ALIVE
from proxy.upstream.protocol import read_up_to

logger = logging.getLogger(__name__)


class ChatCompletions:
    """``POST /v1/chat/completions`` as a plain ASGI application: no framework between the client and the gate."""

    def __init__(self, settings: Settings, *, router: Router, metrics: Metrics) -> None:
        self._settings = settings
        self._router = router
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. What goes wrong before the first byte is an OpenAI error body."""
        headers = header_map(scope)
        request_id = request_id_of(headers)
        sent = _Sent(send, perf_counter())
        request: ChatRequest | None = None
        with self._metrics.in_flight.track_inprogress():
            try:
                if scope["method"] != "POST":
                    raise PathNotRelayed(f"{COMPLETIONS_PATH} takes POST, not {scope['method']}")
                body = await read_body(receive, self._settings.limits.max_request_bytes)
                payload = parse_object(body)
                route = self._router.route(model_of(payload))
                self._metrics.route_requests.labels(route.name).inc()
                request = parse_chat_request(
                    body,
                    payload,
                    headers,
                    request_id=request_id,
                    configured_mode=route.settings.mode,
                    allow_client_steering=self._settings.rights.allow_client_steering,
                    api_key=route.api_key,
                )
                async with AsyncExitStack() as stack:
                    reply = await while_connected(receive, self._exchange(route.gate, request, stack, sent))
                    await reply.afterwards()
            except ClientGone:
                self._count(request, Action.CLIENT_GONE)
            except ProxyError as error:
                self._count(request, Action.FAILED)
                if sent.started:
                    raise
                await send_reply(_error_reply(error, request_id), send)
            except Exception:
                self._count(request, Action.FAILED)
                logger.exception("request %s failed", request_id)
                if sent.started:
                    raise
                await send_reply(_internal_error_reply(request_id), send)

    async def _exchange(self, gate: Gate, request: ChatRequest, stack: AsyncExitStack, sent: _Sent) -> Reply:
        reply = await gate.answer(request, stack)
        if request.stream and reply.status == 200:
            sent.first_token = self._metrics.time_to_first_token.labels(request.mode)
        await send_reply(reply, sent)
        return reply

    def _count(self, request: ChatRequest | None, action: Action) -> None:
        mode = self._settings.mode if request is None else request.mode
        self._metrics.requests.labels(action, mode).inc()


class _Sent:
    """``send``, and whether it has been used: an answer that has begun can no longer become an error body.

    Where ``first_token`` is set, the first bytes of the body that are no keep-alive comment are timed from ``arrived``.
    """

    def __init__(self, send: Send, arrived: float) -> None:
        self._send = send
        self._arrived = arrived
        self.started = False
        self.first_token: Histogram | None = None

    async def __call__(self, message: Message) -> None:
        self.started = True
        await self._send(message)
        if self.first_token is not None and message.get("body", b"") not in (b"", KEEP_ALIVE):
            self.first_token.observe(perf_counter() - self._arrived)
            self.first_token = None


def build_routes(settings: Settings, *, router: Router, metrics: Metrics) -> Sequence[BaseRoute]:
    """Return all routes; the last one answers every unlisted path."""

    async def models(request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        request_id = request_id_of(headers)
        model = request.path_params.get("model")
        limit = settings.limits.max_judged_bytes
        try:
            if model is None and len(router.routes) > 1:
                merged = await merged_models(router, headers, request_id, limit)
                return JSONResponse(merged, headers={REQUEST_ID_HEADER: request_id})
            route = router.routes[0] if model is None else router.route(model)
            response = await route.upstream.send(
                "GET",
                request.url.path,
                headers=forwarded_headers(headers, request_id, route.api_key),
                purpose="client",
            )
            try:
                body, whole = await read_up_to(response, limit)
            finally:
                await response.close()
        except ProxyError as error:
            return JSONResponse(error.body(), error.status, {**error.headers(), REQUEST_ID_HEADER: request_id})
        if not whole:
            body = b""
        return Response(body, response.status, returned_headers(response.headers, {REQUEST_ID_HEADER: request_id}))

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if settings.routes:
            status, page = readiness_page(router, await route_states(router))
            return JSONResponse(page, status)
        match state := await router.routes[0].check():
            case Ready():
                return JSONResponse({"status": "ready", "mode": settings.mode, "models": state.models})
            case Unreachable() | Mismatch():
                return JSONResponse({"status": "unavailable", "reason": state.reason}, 503)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    async def unlisted(request: Request) -> Response:
        error = PathNotRelayed(
            f"{request.method} {request.url.path} is not relayed; this proxy serves POST {COMPLETIONS_PATH}, "
            "GET /v1/models, /healthz, /readyz and /metrics"
        )
        return JSONResponse(error.body(), error.status)

    everything = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
    return [
        Route(COMPLETIONS_PATH, ChatCompletions(settings, router=router, metrics=metrics)),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", models),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/{path:path}", unlisted, methods=everything),
    ]


def _error_reply(error: ProxyError, request_id: str) -> Reply:
    return _json_reply(error.status, error.body(), request_id, error.headers())


def _internal_error_reply(request_id: str) -> Reply:
    message = f"the proxy failed; its log names request {request_id}"
    return _json_reply(500, error_body(message, ProxyError.type, ProxyError.code), request_id)


def _json_reply(
    status: int, body: dict[str, object], request_id: str, more: Mapping[str, str] = MappingProxyType({})
) -> Reply:
    headers = {**more, "content-type": "application/json", REQUEST_ID_HEADER: request_id}
    return Reply(status, headers, bytes(JSONResponse(body, status).body))

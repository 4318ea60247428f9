"""Thin handlers: every path that is served, and an error for every other one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from proxy.asgi import ClientGone, header_map, read_body, send_reply, while_connected
from proxy.canary_watch import CanaryWatch
from proxy.chat_request import parse_chat_request
from proxy.errors import PathNotRelayed, ProxyError, error_body
from proxy.exchange import Action, ChatRequest, Mode, Reply
from proxy.gate import Gate
from proxy.headers import REQUEST_ID_HEADER, forwarded_headers, request_id_of, returned_headers
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.readiness import Mismatch, Readiness, Ready, Unreachable
from proxy.recovery import COMPLETIONS_PATH
from proxy.settings import Settings
from proxy.upstream.protocol import Upstream, read_up_to

logger = logging.getLogger(__name__)


class ChatCompletions:
    """``POST /v1/chat/completions`` as a plain ASGI application: no framework between the client and the gate."""

    def __init__(self, settings: Settings, *, gate: Gate, metrics: Metrics, canary: CanaryWatch | None) -> None:
        self._settings = settings
        self._gate = gate
        self._metrics = metrics
        self._canary = canary

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. What goes wrong before the first byte is an OpenAI error body."""
        headers = header_map(scope)
        request_id = request_id_of(headers)
        sent = _Sent(send)
        request: ChatRequest | None = None
        with self._metrics.in_flight.track_inprogress():
            try:
                if scope["method"] != "POST":
                    raise PathNotRelayed(f"{COMPLETIONS_PATH} takes POST, not {scope['method']}")
                body = await read_body(receive, self._settings.limits.max_request_bytes)
                key = self._settings.upstream.api_key
                request = parse_chat_request(
                    body,
                    headers,
                    request_id=request_id,
                    configured_mode=mode_in_effect(self._settings, self._canary),
                    allow_client_steering=self._settings.rights.allow_client_steering,
                    api_key=None if key is None else key.get_secret_value(),
                )
                async with AsyncExitStack() as stack:
                    reply = await while_connected(receive, self._exchange(request, stack, sent))
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

    async def _exchange(self, request: ChatRequest, stack: AsyncExitStack, send: Send) -> Reply:
        reply = await self._gate.answer(request, stack)
        await send_reply(reply, send)
        return reply

    def _count(self, request: ChatRequest | None, action: Action) -> None:
        mode = self._settings.mode if request is None else request.mode
        self._metrics.requests.labels(action, mode).inc()


class _Sent:
    """``send``, and whether it has been used: an answer that has begun can no longer become an error body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        self.started = True
        await self._send(message)


def mode_in_effect(settings: Settings, canary: CanaryWatch | None) -> Mode:
    """Return the configured mode, or what the canary leaves of it."""
    return settings.mode if canary is None else canary.lowered(settings.mode)


def build_routes(
    settings: Settings,
    *,
    gate: Gate,
    upstream: Upstream,
    metrics: Metrics,
    check: Callable[[], Awaitable[Readiness]],
    canary: CanaryWatch | None,
) -> Sequence[BaseRoute]:
    """Return all routes; the last one answers every unlisted path."""

    async def models(request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        request_id = request_id_of(headers)
        key = settings.upstream.api_key
        try:
            response = await upstream.send(
                "GET",
                request.url.path,
                headers=forwarded_headers(headers, request_id, None if key is None else key.get_secret_value()),
                purpose="client",
            )
            try:
                body, whole = await read_up_to(response, settings.limits.max_judged_bytes)
            finally:
                await response.close()
        except ProxyError as error:
            return JSONResponse(error.body(), error.status, {REQUEST_ID_HEADER: request_id})
        if not whole:
            body = b""
        return Response(body, response.status, returned_headers(response.headers, {REQUEST_ID_HEADER: request_id}))

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        state = await check()
        match state:
            case Ready():
                body: dict[str, object] = {
                    "status": "ready",
                    "mode": mode_in_effect(settings, canary),
                    "models": state.models,
                }
                if canary is not None:
                    body |= {"configured_mode": settings.mode, "canary": canary.report()}
                return JSONResponse(body)
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
        Route(COMPLETIONS_PATH, ChatCompletions(settings, gate=gate, metrics=metrics, canary=canary)),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", models),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/{path:path}", unlisted, methods=everything),
    ]


def _error_reply(error: ProxyError, request_id: str) -> Reply:
    return _json_reply(error.status, error.body(), request_id)


def _internal_error_reply(request_id: str) -> Reply:
    message = f"the proxy failed; its log names request {request_id}"
    return _json_reply(500, error_body(message, ProxyError.type, ProxyError.code), request_id)


def _json_reply(status: int, body: dict[str, object], request_id: str) -> Reply:
    response = JSONResponse(body, status)
    return Reply(status, {"content-type": "application/json", REQUEST_ID_HEADER: request_id}, bytes(response.body))

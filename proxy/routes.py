"""Thin handlers: every path that is served, and an error for every other one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.asgi import (
    UNWATCHED_S,
    ClientGone,
    Sent,
    header_map,
    read_body,
    send_error,
    send_internal_error,
    send_reply,
    while_connected,
)
from proxy.caller import caller_of
from proxy.chat_request import model_of, parse_chat_request
from proxy.engine_fields import parse_object
from proxy.errors import PathNotRelayed, ProxyError
from proxy.exchange import Action, ChatRequest, Reply
from proxy.gate import Gate
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.model_list import mode_report, readiness_page, route_states
from proxy.notes import Notes, notes_of
from proxy.readiness import Mismatch, Ready, Unreachable
from proxy.relay import Relay
from proxy.request_limits import check_body, check_encoding
from proxy.router import Router
from proxy.settings import Settings
from proxy.time_limits import TimeLimit
from proxy.wires.chat import CHAT
from proxy.wires.completions import COMPLETIONS
from proxy.wires.protocol import Wire
from proxy.wires.responses import RESPONSES

logger = logging.getLogger(__name__)

JUDGED: tuple[Wire, ...] = (CHAT, COMPLETIONS, RESPONSES)
SERVED = (*(f"POST {wire.path}" for wire in JUDGED), "GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.json")


class Answers:
    """A path whose answers are judged, as a plain ASGI application: no framework between the client and the gate."""

    def __init__(self, wire: Wire, settings: Settings, *, router: Router, metrics: Metrics) -> None:
        self._wire = wire
        self._settings = settings
        self._router = router
        self._metrics = metrics
        self._route_requests = {route.name: metrics.route_requests.labels(route.name) for route in router.routes}
        self._body_limit = TimeLimit(settings.limits.body_timeout_s)
        self._unwatched = TimeLimit(UNWATCHED_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. What goes wrong before the first byte is an OpenAI error body."""
        headers = header_map(scope)
        sent = Sent(send)
        request: ChatRequest | None = None
        notes = notes_of(scope)
        request_id = notes.request_id
        with self._metrics.in_flight.track_inprogress():
            try:
                if scope["method"] != "POST":
                    raise PathNotRelayed(f"{self._wire.path} takes POST, not {scope['method']}")
                limits = self._settings.limits
                check_encoding(headers)
                body = await read_body(receive, limits.max_request_bytes, self._body_limit, "limits.max_request_bytes")
                check_body(body, limits)
                payload = parse_object(body)
                route = self._router.route(model_of(payload))
                self._route_requests[route.name].inc()
                request = parse_chat_request(
                    body,
                    payload,
                    headers,
                    request_id=request_id,
                    configured_mode=route.mode,
                    log_text=self._settings.log_text,
                    caller=caller_of(scope),
                    notes=notes,
                    limits=limits,
                    allow_client_steering=self._settings.rights.allow_client_steering,
                    api_key=route.api_key,
                    wire=self._wire,
                    recovered_surfaces=route.settings.recovery.surfaces,
                )
                async with AsyncExitStack() as stack:
                    work = self._exchange(route.gate, request, stack, sent)
                    reply = await while_connected(receive, work, self._unwatched)
                    await reply.afterwards()
            except ClientGone:
                self._count(request, notes, Action.CLIENT_GONE)
            except ProxyError as error:
                self._count(request, notes, Action.FAILED)
                if sent.started:
                    raise
                await send_error(error, request_id, send)
            except Exception:
                self._count(request, notes, Action.FAILED)
                logger.exception("request %s failed", request_id)
                if sent.started:
                    raise
                await send_internal_error(request_id, send)

    async def _exchange(self, gate: Gate, request: ChatRequest, stack: AsyncExitStack, sent: Sent) -> Reply:
        reply = await gate.answer(request, stack)
        if request.stream and reply.status == 200:
            sent.first_token = self._metrics.time_to_first_token.labels(request.mode)
        await send_reply(reply, sent)
        return reply

    def _count(self, request: ChatRequest | None, notes: Notes, action: Action) -> None:
        notes.action = action
        mode = self._settings.mode if request is None else request.mode
        self._metrics.requests.labels(action, mode).inc()


def judged_paths(settings: Settings, *, router: Router, metrics: Metrics) -> Mapping[str, ASGIApp]:
    """Return the applications of the paths whose answers are judged."""
    return {wire.path: Answers(wire, settings, router=router, metrics=metrics) for wire in JUDGED}


def build_routes(settings: Settings, *, router: Router, metrics: Metrics) -> Sequence[BaseRoute]:
    """Return the routes of all other paths; the last one relays the listed ones and refuses the rest."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if settings.routes:
            status, page = readiness_page(router, await route_states(router))
            return JSONResponse(page, status)
        route = router.routes[0]
        match state := await route.check():
            case Ready():
                return JSONResponse({"status": "ready", **mode_report(route), "models": state.models})
            case Unreachable() | Mismatch():
                return JSONResponse({"status": "unavailable", "reason": state.reason}, 503)

    async def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/{path:path}", Relay(settings, router=router, metrics=metrics, served=SERVED)),
    ]

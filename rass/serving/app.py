"""The HTTP application of the served model: routes, errors, disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rass import __version__
from rass.serving.completion import Completion, Completions
from rass.serving.engine import Engine
from rass.serving.errors import BodyTooLarge, InvalidRequest, QueueFull, ServingError, Unavailable
from rass.serving.metrics import ServingMetrics
from rass.serving.responses import DONE, Envelope, event, model_list
from rass.serving.wire import ChatBody, ReadBody, parse

__all__ = ["MAX_BODY_BYTES", "create_app"]

MAX_BODY_BYTES = 4 << 20
_CLIENT_GONE = 499  # nobody reads it; it is for access logs
_CHAT_PATH = "/v1/chat/completions"
_READ_PATH = "/v1/rass/read"
_COUNTED = {_CHAT_PATH: "chat", _READ_PATH: "read"}
"""What metrics call the paths whose requests they count."""
_Result = TypeVar("_Result")


def create_app(engine: Engine) -> FastAPI:
    """Return the application of one engine, which starts and stops with it."""
    routes = _Routes(engine)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()

    app = FastAPI(title="rass serve-model", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_route(_CHAT_PATH, routes.chat, methods=["POST"])
    app.add_route(_READ_PATH, routes.read, methods=["POST"])
    app.add_route("/v1/models", routes.models, methods=["GET"])
    app.add_route("/health", routes.health, methods=["GET"])
    app.add_route("/metrics", routes.metrics, methods=["GET"])
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, routes.fault)
    return app


class _Routes:
    """The handlers, thin: parse, hand over, count."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._metrics = ServingMetrics(engine)
        self._completions = Completions(engine, self._metrics)
        self._started_at = int(time.time())

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        steered = "no"
        began = time.monotonic()
        try:
            body = parse(await _body(request), ChatBody)
            steered = "yes" if body.rass is not None and body.rass.steer is not None else "no"
            request.state.steered = steered
            completion = await _unless_gone(request, self._completions.start(body))
            envelope = Envelope(self._engine.served.id)
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                return _CompletionStream(self._stream(completion, envelope, usage, steered, began), completion)
            try:
                answer = await _unless_gone(request, _whole(completion, envelope))
            finally:
                completion.close()
        except (ServingError, ClientDisconnect) as error:
            return self._failed("chat", error, steered)
        self._answered(completion, steered, began)
        return JSONResponse(answer)

    async def read(self, request: Request) -> Response:
        """``POST /v1/rass/read``."""
        try:
            body = parse(await _body(request), ReadBody)
            reading = await _unless_gone(request, self._completions.read(body))
        except (ServingError, ClientDisconnect) as error:
            return self._failed("read", error, "no")
        self._metrics.requests.labels("read", "ok", "no").inc()
        return JSONResponse(reading)

    async def models(self, _request: Request) -> Response:
        """``GET /v1/models``."""
        return JSONResponse(model_list(self._engine, self._started_at))

    async def health(self, _request: Request) -> Response:
        """``GET /health``: 200, or 503 with the reason."""
        health = self._engine.health()
        facts = {"running": health.running, "waiting": health.waiting, "model": self._engine.served.id}
        if health.ok:
            return JSONResponse({"status": "ok", **facts})
        return JSONResponse({"status": "failed", "reason": health.reason, **facts}, status_code=503)

    async def metrics(self, _request: Request) -> Response:
        """``GET /metrics`` in the Prometheus text format."""
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def fault(self, request: Request, error: Exception) -> Response:
        """Count and answer a fault of ours, in a stream too; Starlette logs it with its traceback after this."""
        route = _COUNTED.get(request.url.path)
        if route is not None:
            self._metrics.requests.labels(route, "error", getattr(request.state, "steered", "no")).inc()
        message = f"internal error ({type(error).__name__}); the server's log says more"
        return JSONResponse(
            {"error": {"message": message, "type": "server_error", "param": None, "code": None}}, status_code=500
        )

    async def _stream(
        self, completion: Completion, envelope: Envelope, usage: bool, steered: str, began: float
    ) -> AsyncIterator[bytes]:
        try:
            yield event(envelope.opening(completion, usage_later=usage))
            async for piece in completion.pieces():
                if piece.text:
                    yield event(envelope.text(piece.text, usage_later=usage))
                if piece.finish_reason is not None:
                    yield event(envelope.closing(piece.finish_reason, usage_later=usage))
            if usage:
                yield event(envelope.usage(completion))
            yield DONE
        except ServingError as error:
            # The status was sent long ago: say it in the stream, and leave out the mark of a good end.
            self._count("chat", error, steered)
            yield event(error.body())
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.requests.labels("chat", "cancelled", steered).inc()
            raise
        else:
            self._answered(completion, steered, began)

    def _answered(self, completion: Completion, steered: str, began: float) -> None:
        self._metrics.requests.labels("chat", "ok", steered).inc()
        self._metrics.tokens.labels("prompt").inc(completion.prompt_tokens)
        self._metrics.tokens.labels("completion").inc(completion.completion_tokens)
        self._metrics.duration.observe(time.monotonic() - began)

    def _failed(self, route: str, error: ServingError | ClientDisconnect, steered: str) -> Response:
        self._count(route, error, steered)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_CLIENT_GONE)
        headers = {"retry-after": "1"} if isinstance(error, QueueFull | Unavailable) else None
        return JSONResponse(error.body(), status_code=error.status, headers=headers)

    def _count(self, route: str, error: ServingError | ClientDisconnect, steered: str) -> None:
        match error:
            case ClientDisconnect():
                outcome = "cancelled"
            case QueueFull():
                outcome = "busy"
            case Unavailable():
                outcome = "unavailable"
            case _:
                outcome = "invalid"
        self._metrics.requests.labels(route, outcome, steered).inc()


class _CompletionStream(StreamingResponse):
    """A stream that frees its row however it ends, also when the client left before the first byte."""

    def __init__(self, content: AsyncIterator[bytes], completion: Completion) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._completion.close()


async def _whole(completion: Completion, envelope: Envelope) -> dict[str, object]:
    text, reason = "", "length"
    async for piece in completion.pieces():
        text += piece.text
        reason = piece.finish_reason or reason
    return envelope.whole(completion, text, reason)


async def _body(request: Request) -> bytes:
    """Return the request's body; raises ``BodyTooLarge`` before more than the limit was read."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    if not data:
        raise InvalidRequest("the body is empty; send a JSON object")
    return bytes(data)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what ``work`` returns; cancel it and raise ``ClientDisconnect`` if the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{error.detail}; see GET /v1/models" if isinstance(error, HTTPException) else str(error)
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status_code=status)

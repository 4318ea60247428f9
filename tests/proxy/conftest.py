"""A served model with scripted answers on loopback, plain detectors, and a proxy in front of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from detectors.bundle import Steering
from detectors.coordinates import CoordinateReader, reader_over
from detectors.verdict import (
    BoundaryReading,
    HarmVerdict,
    Message,
    RefusalKind,
    RefusalVerdict,
    Zone,
)
from proxy.app import create_app
from proxy.audit import Audit
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.metrics import Metrics
from proxy.server import listen, running_app, url_of
from proxy.settings import Settings
from proxy.signals import Detectors
from proxy.steering import Native
from proxy.upstream.http import HttpUpstream
from proxy.upstream.post import READ_PATH, PostOverUpstream

DIGEST = "0123456789abcdef"
REFUSAL = "I'm sorry, but I cannot help with that."
SECRET_H = -7.654321  # a coordinate that is looked for wherever it must not be


@dataclass
class Script:
    """What the served model says to one prompt; ``h`` and ``answer_h`` are the coordinates that it reports."""

    text: str
    steered: str | None = None
    h: float = SECRET_H
    answer_h: float = SECRET_H
    finish_reason: str = "stop"
    steers: bool = True
    message: Mapping[str, object] = field(default_factory=dict)


class ScriptedModel:
    """An OpenAI-compatible server that answers from scripts, in the wire of ``rass serve-model``."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.split_at: Sequence[int] | None = None
        """Where a stream's bytes are cut; by default after each event."""
        self.break_after: int | None = None
        """Bytes of a plain stream after which the connection is cut."""
        self.hold: asyncio.Event | None = None
        """A plain stream waits for it before its last event."""
        self.hold_attempts: asyncio.Event | None = None
        """A steered request waits for it before it answers."""
        self.cancelled = asyncio.Event()
        """Set when a held answer's client goes away."""
        self.arrived = asyncio.Event()
        """Set when a completion request arrives."""
        self.read_status = 200
        self.attempt_status = 200
        self.url = ""

    def stream_bytes(self, prompt: str) -> bytes:
        """The bytes of a plain stream."""
        return b"".join(self._events(self.scripts[prompt], steered=False))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.arrived.set()
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        script = self.scripts.get(body["messages"][-1]["content"])
        if body.get("model") != "scripted" or script is None:
            error = {
                "message": "no such model",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
            return web.json_response({"error": error}, status=404)
        order = body.get("rass", {}).get("steer")
        if order is not None:
            if self.hold_attempts is not None:
                await self.hold_attempts.wait()
            if self.attempt_status != 200:
                return web.json_response({"error": {"message": "no"}}, status=self.attempt_status)
        if body.get("stream"):
            return await self._stream(request, script, steered=order is not None)
        if self.hold is not None and order is None:
            await self._wait(self.hold)
        return web.Response(body=self._completion(script, order), content_type="application/json")

    async def _wait(self, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def _report(self, script: Script) -> dict[str, object]:
        return {"steered": script.steers, "vector": f"refusal-en@{DIGEST}", "h": script.h, "bundle": DIGEST}

    def _completion(self, script: Script, order: object) -> bytes:
        text = script.text if order is None else script.steered
        payload: dict[str, object] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **script.message},
                    "finish_reason": script.finish_reason,
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        }
        if order is not None:
            payload["rass"] = self._report(script)
        # Odd spacing and an escape: what is relayed must not be written anew.
        return (json.dumps(payload, indent=1, ensure_ascii=True) + "\n").encode()

    def _events(self, script: Script, *, steered: bool) -> list[bytes]:
        text = (script.steered if steered else script.text) or ""
        pieces = [text[start : start + 4] for start in range(0, len(text), 4)]
        deltas: list[dict[str, object]] = [
            {"role": "assistant", "content": ""},
            *({"content": piece} for piece in pieces),
        ]
        deltas.append({})
        events = []
        for position, delta in enumerate(deltas):
            last = position == len(deltas) - 1
            choice = {"index": 0, "delta": delta, "finish_reason": script.finish_reason if last else None}
            chunk: dict[str, object] = {
                "id": "chatcmpl-2",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "scripted",
                "choices": [choice],
            }
            if steered and position == 0:
                chunk["rass"] = self._report(script)
            events.append(b"data:  " + json.dumps(chunk, ensure_ascii=False).encode() + b"\r\n\r\n")
        return [*events, b"data: [DONE]\n\n"]

    async def _stream(self, request: web.Request, script: Script, *, steered: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        events = self._events(script, steered=steered)
        whole = b"".join(events)
        if self.split_at is not None:
            cuts = [0, *sorted(min(cut, len(whole)) for cut in self.split_at), len(whole)]
            events = [whole[start:end] for start, end in pairwise(cuts) if end > start]
        sent = 0
        for position, event in enumerate(events):
            if not steered and self.hold is not None and position == len(events) - 1:
                await self._wait(self.hold)
            if not steered and self.break_after is not None and sent >= self.break_after:
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(event)
            sent += len(event)
        await response.write_eof()
        return response

    async def read(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.read_status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.read_status)
        turns = body["messages"]
        answered = turns[-1]["role"] == "assistant"
        script = self.scripts[[turn for turn in turns if turn["role"] == "user"][-1]["content"]]
        return web.json_response(
            {
                "h": script.h,
                "rho": None if answered else 1.0,
                "answer_h": script.answer_h if answered else None,
                "bundle": DIGEST,
                "prompt_tokens": 3,
            }
        )

    async def models(self, _request: web.Request) -> web.Response:
        report = {"revision": "r1", "hidden_size": 8, "num_layers": 2, "bundle": DIGEST, "context_length": 64}
        return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model", "rass": report}]})


class PhraseRefusals:
    """A ``RefusalDetector`` that knows one beginning."""

    def judge(self, text: str) -> RefusalVerdict:
        if not text.strip():
            return RefusalVerdict(RefusalKind.EMPTY, 0.0, "nothing there")
        if text.startswith("I'm sorry"):
            kind = RefusalKind.PARTIAL if "however" in text else RefusalKind.FULL
            return RefusalVerdict(kind, 0.9, "begins as a refusal does")
        return RefusalVerdict(RefusalKind.ANSWER, 0.0, "does not begin as a refusal does")


class PhraseHead:
    """Its incremental form."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, chunk: str) -> RefusalVerdict | None:
        self._text += chunk
        if "I'm sorry".startswith(self._text):
            return None
        return PhraseRefusals().judge(self._text)


class ThresholdBoundary:
    """A ``BoundaryDetector``: the model's own coordinate against two numbers."""

    def __init__(self, reader: CoordinateReader) -> None:
        self._reader = reader

    async def read(self, messages: Sequence[Message], *, model: str, language: str) -> BoundaryReading:
        h = (await self._reader(model, messages)).h
        assert h is not None
        zone = Zone.BENIGN if h < -2 else Zone.HARMFUL if h > 2 else Zone.BAND
        return BoundaryReading(zone, h, None, "thresholds")


class ThresholdHarm:
    """An ``AnswerHarmDetector`` of the same make."""

    def __init__(self, reader: CoordinateReader) -> None:
        self._reader = reader

    async def judge(self, messages: Sequence[Message], answer: str, *, model: str, language: str) -> HarmVerdict:
        h = (await self._reader(model, [*messages, Message("assistant", answer)])).answer_h
        assert h is not None
        return HarmVerdict(h > 0, "threshold")


def plan(language: str, zone: Zone) -> Steering | None:
    """Steers English, less in the band."""
    if language != "en" or zone not in (Zone.BENIGN, Zone.BAND):
        return None
    return Steering(f"refusal-en@{DIGEST}", 2.0 if zone is Zone.BENIGN else 1.0)


@dataclass
class Proxy:
    """A running proxy and a client session towards it."""

    url: str
    metrics: Metrics
    session: aiohttp.ClientSession

    async def ask(self, prompt: str, **fields: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Send one completion request; header fields are given as ``headers``."""
        headers = fields.pop("headers", {})
        body = {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **fields}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            return response.status, response.headers, await response.read()

    def total(self, name: str, **labels: str) -> float:
        """The value of a counter."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


StartProxy = Callable[..., Awaitable[Proxy]]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A scripted served model, running."""
    scripted = ScriptedModel()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", scripted.complete)
    app.router.add_post("/v1/rass/read", scripted.read)
    app.router.add_get("/v1/models", scripted.models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    with listen("127.0.0.1", 0) as listener:
        await web.SockSite(runner, listener).start()
        scripted.url = url_of(listener)
        yield scripted
        await runner.cleanup()


@pytest.fixture
async def start_proxy(model: ScriptedModel) -> AsyncIterator[StartProxy]:
    """Starts proxies in front of the scripted model: ``await start_proxy(Mode.RECOVER, **settings groups)``."""
    async with AsyncExitStack() as stack:

        async def start(
            mode: Mode = Mode.RECOVER,
            *,
            url: str | None = None,
            detectors: Mapping[str, Any] | None = None,
            audit: Audit | None = None,
            dependencies: Mapping[str, Any] | None = None,
            **groups: Any,
        ) -> Proxy:
            values = {"mode": mode, "upstream": {"url": url or model.url}, **groups}
            settings = Settings.model_validate(values)
            metrics = Metrics()
            upstream = HttpUpstream(settings.upstream, metrics)
            reader = reader_over(PostOverUpstream(upstream, READ_PATH, None, purpose="reading"))
            chosen = Detectors(
                refusal=PhraseRefusals(),
                head=PhraseHead,
                language=lambda text: "de" if text.startswith("Wie") else "en",
                boundary=ThresholdBoundary(reader),
                answer_harm=ThresholdHarm(reader),
            )
            chosen = replace(chosen, **(detectors or {}))
            deps = Dependencies(
                upstream=upstream, metrics=metrics, detectors=chosen, dialect=Native(), plan=plan, audit=audit
            )
            deps = replace(deps, **(dependencies or {}))
            listener = stack.enter_context(listen("127.0.0.1", 0))
            await stack.enter_async_context(running_app(create_app(settings, deps), listener, drain_timeout_s=1))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Proxy(url_of(listener), metrics, session)

        yield start


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits, within a bound, for something that happens just after the client has its answer."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def refusal() -> str:
    """How the scripted model refuses."""
    return REFUSAL


@pytest.fixture
def script() -> type[Script]:
    """The class of scripts."""
    return Script

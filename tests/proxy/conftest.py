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

from detectors.bundle import Steering, load
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
from proxy.check_detectors import SAMPLE_ANSWER, SAMPLE_REQUEST
from proxy.clarify import load_notes
from proxy.dependencies import Dependencies, build_fallback, reference_bundle
from proxy.exchange import Mode
from proxy.keys import Keyring
from proxy.metrics import Metrics
from proxy.server import RunningServer, listen, running_app, url_of
from proxy.settings import Settings
from proxy.signals import Detectors
from proxy.steering import Native
from proxy.telemetry import ExchangeTracer
from proxy.upstream.http import HttpUpstream
from proxy.upstream.post import READ_PATH, PostOverUpstream
from proxy.upstream.resilient import resilient

DIGEST = "0123456789abcdef"
REFUSAL = "I'm sorry, but I cannot help with that."
SECRET_H = -7.654321  # a coordinate that is looked for wherever it must not be


@dataclass
class Script:
    """What the served model says to one prompt; ``h``, ``rho`` and ``answer_h`` are the coordinates that it reports.

    ``clarified`` and ``other`` are the answers to a request with a note, and of the model ``other``.
    """

    text: str
    steered: str | None = None
    clarified: str | None = None
    other: str | None = None
    h: float = SECRET_H
    rho: float = -1.0
    answer_h: float = SECRET_H
    finish_reason: str = "stop"
    steers: bool = True
    message: Mapping[str, object] = field(default_factory=dict)
    deltas: Sequence[Mapping[str, object]] | None = None
    """What a stream says piece by piece, where that is not the text."""
    usage: bool = True

    def answer(self, way: str) -> str | None:
        """The text for one of the ways in which a request can come."""
        return {"plain": self.text, "steer": self.steered, "clarify": self.clarified, "fallback": self.other}[way]


def way_of(body: Mapping[str, Any]) -> str:
    """Which step of the ladder sent a request; ``plain`` is the client's own."""
    notes = load_notes().by_language.values()
    if body["model"] == "other":
        return "fallback"
    if "steer" in body.get("rass", {}):
        return "steer"
    noted = any(str(turn.get("content")).endswith(note) for turn in body["messages"] for note in notes)
    return "clarify" if noted else "plain"


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
        self.leaks_steering = False
        """Whether a steered answer's text is repeated to unsteered requests after it."""
        self.models_status = 200
        self.listed: dict[str, dict[str, object]] = {
            "scripted": {"revision": "r1", "hidden_size": 8, "num_layers": 2, "bundle": DIGEST, "context_length": 64}
        }
        """What is served, with its report."""
        self.digest = DIGEST
        self.attempt_status = 200
        self.url = ""

    @property
    def ways(self) -> list[str]:
        """By which step each request came, in order."""
        return [way_of(body) for body in self.requests]

    def stream_bytes(self, prompt: str) -> bytes:
        """The bytes of a plain stream."""
        return b"".join(self._events(self.scripts[prompt], "plain"))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.arrived.set()
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        script = self.scripts.get(body["messages"][-1]["content"])
        if body.get("model") not in (*self.listed, "other") or script is None:
            error = {
                "message": "no such model",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
            return web.json_response({"error": error}, status=404)
        way = way_of(body)
        if way != "plain":
            if self.hold_attempts is not None:
                await self.hold_attempts.wait()
            if way == "steer" and self.leaks_steering and script.steered is not None:
                self.scripts[body["messages"][-1]["content"]] = replace(script, text=script.steered)
            if self.attempt_status != 200:
                return web.json_response({"error": {"message": "no"}}, status=self.attempt_status)
        if body.get("stream"):
            return await self._stream(request, script, way)
        if self.hold is not None and way == "plain":
            await self._wait(self.hold)
        return web.Response(body=self._completion(script, way), content_type="application/json")

    async def _wait(self, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def _report(self, script: Script) -> dict[str, object]:
        return {"steered": script.steers, "vector": f"refusal-en@{DIGEST}", "h": script.h, "bundle": DIGEST}

    def _completion(self, script: Script, way: str) -> bytes:
        own = way == "plain"
        message = {"role": "assistant", "content": script.answer(way), **(script.message if own else {})}
        payload: dict[str, object] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "other-2025" if way == "fallback" else "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": script.finish_reason if own else "stop"}],
        }
        if script.usage:
            payload["usage"] = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        if way == "steer":
            payload["rass"] = self._report(script)
        # Odd spacing and an escape: what is relayed must not be written anew.
        return (json.dumps(payload, indent=1, ensure_ascii=True) + "\n").encode()

    def _events(self, script: Script, way: str) -> list[bytes]:
        text = script.answer(way) or ""
        pieces = [text[start : start + 4] for start in range(0, len(text), 4)]
        own = way == "plain"
        said: Sequence[Mapping[str, object]] = [{"content": piece} for piece in pieces]
        if own:
            said = [*said, *([script.message] if script.message else [])] if script.deltas is None else script.deltas
        deltas: list[Mapping[str, object]] = [{"role": "assistant", "content": ""}, *said, {}]
        finish_reason = script.finish_reason if own else "stop"
        events = []
        for position, delta in enumerate(deltas):
            last = position == len(deltas) - 1
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason if last else None}
            chunk: dict[str, object] = {
                "id": "chatcmpl-2",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "other-2025" if way == "fallback" else "scripted",
                "choices": [choice],
            }
            if way == "steer" and position == 0:
                chunk["rass"] = self._report(script)
            events.append(b"data:  " + json.dumps(chunk, ensure_ascii=False).encode() + b"\r\n\r\n")
        return [*events, b"data: [DONE]\n\n"]

    async def _stream(self, request: web.Request, script: Script, way: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        events = self._events(script, way)
        whole = b"".join(events)
        if self.split_at is not None:
            cuts = [0, *sorted(min(cut, len(whole)) for cut in self.split_at), len(whole)]
            events = [whole[start:end] for start, end in pairwise(cuts) if end > start]
        sent = 0
        for position, event in enumerate(events):
            if way == "plain" and self.hold is not None and position == len(events) - 1:
                await self._wait(self.hold)
            if way == "plain" and self.break_after is not None and sent >= self.break_after:
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
                "rho": None if answered else script.rho,
                "answer_h": script.answer_h if answered else None,
                "bundle": self.digest,
                "prompt_tokens": 3,
            }
        )

    async def models(self, _request: web.Request) -> web.Response:
        entries = [{"id": name, "object": "model", "rass": report} for name, report in self.listed.items()]
        return web.json_response({"object": "list", "data": entries}, status=self.models_status)


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
        read = await self._reader(model, messages)
        assert read.h is not None
        zone = Zone.BENIGN if read.h < -2 else Zone.HARMFUL if read.h > 2 else Zone.BAND
        return BoundaryReading(zone, read.h, read.rho, "thresholds")


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
    server: RunningServer

    async def stop(self) -> None:
        """End the proxy as a signal would, and return once it has ended."""
        self.server.stop()
        await self.server.ended()

    async def ask(self, prompt: str, **fields: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Send one completion request; header fields are given as ``headers``."""
        headers = fields.pop("headers", {})
        body = {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **fields}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            return response.status, response.headers, await response.read()

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a counter that have these labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


StartProxy = Callable[..., Awaitable[Proxy]]
StartServer = Callable[[web.Application], Awaitable[str]]


@pytest.fixture
async def model(start_server: StartServer) -> ScriptedModel:
    """A scripted served model, running."""
    scripted = ScriptedModel()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", scripted.complete)
    app.router.add_post("/v1/rass/read", scripted.read)
    app.router.add_get("/v1/models", scripted.models)
    scripted.url = await start_server(app)
    return scripted


@pytest.fixture
def reference_model(model: ScriptedModel) -> ScriptedModel:
    """The scripted model, serving what the shipped bundle was measured on, with answers to the checks' probes."""
    bundle = load(reference_bundle())
    measured = bundle.manifest.model
    model.digest = bundle.digest
    model.listed = {
        measured.id: {
            "revision": measured.revision,
            "hidden_size": measured.hidden_size,
            "num_layers": measured.num_layers,
            "bundle": bundle.digest,
        }
    }
    model.scripts[SAMPLE_REQUEST] = Script(SAMPLE_ANSWER)
    model.scripts["How do I kill the script?"] = Script(REFUSAL, steered="With the command kill.")
    return model


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
            keyring: Keyring | None = None,
            tracer: ExchangeTracer | None = None,
            dependencies: Mapping[str, Any] | None = None,
            **groups: Any,
        ) -> Proxy:
            upstream_group = {"url": url or model.url, **groups.pop("upstream", {})}
            # A canary would send requests of its own among those that tests count.
            values = {"mode": mode, "upstream": upstream_group, "canary": {"enabled": False}, **groups}
            settings = Settings.model_validate(values)
            metrics = Metrics()
            upstream = resilient(HttpUpstream(settings.upstream, metrics), settings.upstream, metrics)
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
                upstream=upstream,
                metrics=metrics,
                detectors=chosen,
                dialect=Native(),
                plan=plan,
                audit=audit,
                keyring=keyring,
                tracer=tracer,
                fallback=build_fallback(settings, metrics),
            )
            if deps.fallback is not None and deps.fallback.upstream is not None:
                deps.closing.push_async_callback(deps.fallback.upstream.close)
            deps = replace(deps, **(dependencies or {}))
            listener = stack.enter_context(listen("127.0.0.1", 0))
            app = create_app(settings, deps)
            server = await stack.enter_async_context(running_app(app, listener, drain_timeout_s=1))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Proxy(url_of(listener), metrics, session, server)

        yield start


@pytest.fixture(
    params=[
        ({"steered": "An answer.", "answer_h": 5.0}, "harmful"),
        ({"steered": "I'm sorry, still no."}, "still_refused"),
        ({"steered": ""}, "empty"),
        ({"steered": "An answer.", "steers": False}, "not_steered"),
    ],
    ids=lambda case: case[1],
)
def failing_attempt(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    """Each way in which a steered answer fails its check: what the script then says, and the result that is counted."""
    case: tuple[dict[str, Any], str] = request.param
    return case


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits, within a bound, for something that happens just after the client has its answer."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
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

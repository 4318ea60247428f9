"""A provider with scripted answers on loopback, in each provider's own wire, and litellm really in between."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.protocol import UpstreamResponse

Json = dict[str, Any]


@dataclass
class ScriptedProvider:
    """Answers every POST alike: with ``body`` and ``status``, or with ``events`` where a stream was asked for."""

    body: Json | bytes = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    """A stream waits for it before its event ``hold_at``; an answer that is none, before its first byte."""
    hold_at: int = 3
    cut: bool = False
    """The connection is cut after the events."""
    done: bool = False
    """Whether a stream ends with OpenAI's [DONE]."""
    requests: list[Json] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.paths.append(request.path)
        self.seen_headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            if self.events and (body.get("stream") or "stream" in request.path):
                return await self._stream(request)
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raw = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return web.Response(status=self.status, body=raw, headers={"content-type": "application/json", **self.headers})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **self.headers})
        await response.prepare(request)
        for position, event in enumerate(self.events):
            if self.hold is not None and position == self.hold_at:
                await self.hold.wait()
            name = f"event: {event['type']}\n" if "type" in event else ""
            await response.write(f"{name}data: {json.dumps(event)}\n\n".encode())
        if self.cut:
            assert request.transport is not None
            request.transport.close()
            return response
        if self.done:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


@pytest.fixture
async def provider(start_server: Callable[[web.Application], Awaitable[str]]) -> ScriptedProvider:
    """A scripted provider, running."""
    scripted = ScriptedProvider()
    app = web.Application()
    app.router.add_post("/{path:.*}", scripted.answer)
    scripted.url = await start_server(app)
    return scripted


@dataclass
class Asked:
    """An upstream of kind litellm, and how to ask it."""

    upstream: Any
    metrics: Metrics

    async def send(self, text: str = "hello", *, key: str | None = "client-key", **fields: Any) -> UpstreamResponse:
        body = {"model": "m-1", "messages": [{"role": "user", "content": text}], **fields}
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.upstream.send(
            "POST", "/v1/chat/completions", headers=headers, body=json.dumps(body).encode(), purpose="client"
        )

    async def whole(self, text: str = "hello", **fields: Any) -> tuple[int, Json]:
        response = await self.send(text, **fields)
        body = await read(response)
        return response.status, json.loads(body)

    async def chunks(self, text: str = "hello", **fields: Any) -> list[Json]:
        """Ask for a stream and return its chunks; it must end with [DONE]."""
        body = (await read(await self.send(text, stream=True, **fields))).decode()
        events = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]


async def read(response: UpstreamResponse) -> bytes:
    chunks = []
    try:
        while chunk := await response.next_chunk():
            chunks.append(chunk)
    finally:
        await response.close()
    return b"".join(chunks)


@pytest.fixture
async def ask(provider: ScriptedProvider) -> AsyncIterator[Callable[..., Asked]]:
    """Makes upstreams of kind litellm in front of the scripted provider: ``ask("anthropic", **settings)``."""
    if importlib.util.find_spec("litellm") is None:
        pytest.skip("litellm is not installed (requirements-litellm.lock)")
    from proxy.upstream.litellm import LitellmUpstream

    async with AsyncExitStack() as stack:

        def make(name: str, **values: Any) -> Asked:
            settings = UpstreamSettings.model_validate(
                {"kind": "litellm", "provider": name, "provider_url": provider.url, **values}
            )
            metrics = Metrics()
            upstream = LitellmUpstream(settings, metrics)
            stack.push_async_callback(upstream.close)
            return Asked(upstream, metrics)

        yield make

"""A served model that sends whatever bytes a test gives it, on any of the judged paths."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

REFUSED = "I'm sorry, but I cannot help with that."


@dataclass
class RawModel:
    """``pieces`` answer the client's request, ``attempts`` steered ones and ones with a note, one after the other.

    ``coordinate`` and ``answer_coordinate`` are what it reports of requests and of answers.
    """

    pieces: list[bytes] = field(default_factory=list)
    attempts: list[bytes] = field(default_factory=list)
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    coordinate: float = -9.0
    answer_coordinate: float = -9.0
    breaks: bool = False
    pause_before: int | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        payload = await request.json()
        if request.path == "/v1/rass/read":
            answered = payload["messages"][-1]["role"] == "assistant"
            answer_h = self.answer_coordinate if answered else None
            reading = {"h": self.coordinate, "rho": None if answered else 1.0, "answer_h": answer_h}
            return web.json_response({**reading, "bundle": "0123456789abcdef", "prompt_tokens": 3})
        self.seen.append((request.path, payload))
        steered = "rass" in payload or "instructions" in payload
        kind = "text/event-stream" if payload.get("stream") else "application/json"
        response = web.StreamResponse(headers={"content-type": kind})
        await response.prepare(request)
        for position, piece in enumerate([self.attempts.pop(0)] if steered else self.pieces):
            if not steered and position == self.pause_before:
                try:
                    await self.go_on.wait()
                except asyncio.CancelledError:
                    self.left.set()
                    raise
            await response.write(piece)
        if self.breaks and not steered:
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write_eof()
        return response

    @property
    def whole(self) -> bytes:
        """The bytes of its answer to the client."""
        return b"".join(self.pieces)


@pytest.fixture
async def raw(start_server):
    model = RawModel()
    app = web.Application()
    app.router.add_post("/{path:.*}", model.answer)
    model.url = await start_server(app)
    return model


@pytest.fixture
def post():
    """Sends a request to a path of a proxy and returns status, headers and body."""

    async def send(proxy, path, payload, headers=None):
        async with proxy.session.post(f"{proxy.url}{path}", json=payload, headers=headers) as response:
            return response.status, response.headers, await response.read()

    return send


@pytest.fixture
def sse():
    """Writes payloads as events, each one a piece."""

    def write(*payloads, named=False, done=True):
        pieces = []
        for payload in payloads:
            name = f"event: {payload['type']}\n".encode() if named else b""
            pieces.append(name + b"data: " + json.dumps(payload).encode() + b"\n\n")
        return [*pieces, b"data: [DONE]\n\n"] if done else pieces

    return write


@pytest.fixture
def refused():
    """How the model refuses."""
    return REFUSED

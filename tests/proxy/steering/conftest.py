"""An engine that steers as the vLLM plugins do: by id, or in silence not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from detectors.bundle import Bundle


@pytest.fixture
def judged() -> dict[str, Any]:
    """Settings for an engine whose activations nobody reads: a calibrated guard model judges."""
    thresholds = {"benign_below": 0.0, "answer_benign_below": 0.0}
    return {"detectors": {"boundary": "judge", "answer_harm": "judge"}, "judge": thresholds}


@pytest.fixture
def bundle(make_adding_bundle: Callable[..., Bundle]) -> Bundle:
    """A bundle that every dialect can express."""
    return make_adding_bundle()


@dataclass
class Engine:
    """An engine with a prefix cache and a plugin that reads ``vllm_xargs.hotwire``.

    What it says depends on the prompt and on what it was steered with. A prompt that it has in its cache, under the
    same salt, is answered from there, steered or not: that is the trap.
    """

    url: str = ""
    loaded: set[str] = field(default_factory=set)
    slots: int = 16
    honours_salt: bool = True
    gives_logprobs: bool = True
    acts_on_text: bool = True
    status: int = 200
    steered_status: int = 200
    hang: asyncio.Event | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: tuple[str, ...] = ("tiny",)
    _taken: set[tuple[str, int, float]] = field(default_factory=set)
    _cache: dict[tuple[object, str], str] = field(default_factory=dict)

    @property
    def plain(self) -> list[dict[str, Any]]:
        """The requests that asked for no steering."""
        return [request for request in self.requests if "vllm_xargs" not in request]

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.hang is not None:
            await self.hang.wait()
        order = (body.get("vllm_xargs") or {}).get("hotwire")
        if (status := self.status if order is None else self.steered_status) != 200:
            return web.json_response({"error": {"message": "no"}}, status=status)
        steering = self._steering(order)
        prompt = body["messages"][-1]["content"]
        key = (body.get("cache_salt") if self.honours_salt else None, prompt)
        steering = self._cache.setdefault(key, steering)
        text = f"About {prompt[:12]}" + (f" {steering}" if steering and self.acts_on_text else "")
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        if body.get("logprobs") and self.gives_logprobs:
            shift = 0.4 if steering else 0.0
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -1.0 - shift}]}
        return web.json_response({"object": "chat.completion", "model": body["model"], "choices": [choice]})

    async def list_models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.models]})

    def _steering(self, raw: object) -> str:
        """Return what acts: nothing for an order that is malformed, unknown or finds no slot, as in the plugin."""
        if not isinstance(raw, str):
            return ""
        order = json.loads(raw)
        acting = []
        for entry in [order] if isinstance(order, dict) else order:
            triple = (entry["id"], int(entry["layer"]), float(entry.get("scale", 1.0)))
            if entry["id"] in self.loaded and (triple in self._taken or len(self._taken) < self.slots):
                self._taken.add(triple)
                acting.append(f"{entry['id']}/{entry['layer']}x{entry['scale']}")
        return " ".join(acting)


@pytest.fixture
async def engine(bundle: Bundle, start_server: Callable[[web.Application], Awaitable[str]]) -> Engine:
    """A running engine that has the bundle's vectors loaded."""
    running = Engine(loaded={bundle.vector_id(name) for name in bundle.manifest.vectors})
    app = web.Application()
    app.router.add_post("/v1/chat/completions", running.complete)
    app.router.add_get("/v1/models", running.list_models)
    running.url = await start_server(app)
    return running

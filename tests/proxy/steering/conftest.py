"""A small bundle that steers by adding, and an engine that steers as the vLLM plugins do: by id, or in silence not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from detectors import bundle_writer
from detectors.bundle import Bundle, load
from detectors.manifest import (
    LanguageSteering,
    Manifest,
    ModelIdentity,
    ProbePosition,
    ProbeSpec,
    Provenance,
    SteeringForm,
    SteeringPlan,
    SteeringSpan,
    Validation,
    VectorSpec,
    Zones,
    ZoneTable,
    ZoneThresholds,
)
from proxy.server import listen, url_of

WIDTH = 6


@pytest.fixture
def manifest() -> Manifest:
    """Two languages; the Chinese vector acts on two layers."""
    return Manifest(
        created="2025-01-31",
        model=ModelIdentity("tiny", "r1", WIDTH, 5, "residual stream after block l, 0-based"),
        provenance=Provenance("build-vectors --dialect hotwire --seed 3", 3, "0.1.0", {"selection": 40}),
        languages=("en", "zh"),
        vectors={
            "refusal-en": VectorSpec("refusal-en", "en", (2,), 3.0, 0.1),
            "refusal-zh": VectorSpec("refusal-zh", "zh", (1, 2), 2.5, -0.25),
        },
        steering=SteeringPlan(
            SteeringForm.ADD,
            SteeringSpan.EVERY_TOKEN,
            (0.5, 1.0, 2.0),
            {"en": LanguageSteering("refusal-en", 2.0, 0.5), "zh": LanguageSteering("refusal-zh", 1.0, None)},
        ),
        probes={
            "h": ProbeSpec((2,), ProbePosition.ANSWER_START),
            "answer_h": ProbeSpec((4,), ProbePosition.QUESTION_END),
        },
        zones=Zones(0.01, ZoneTable({}, ZoneThresholds(-4.0, 0.0)), ZoneTable({}, ZoneThresholds(-1.0, 1.0))),
        limits={},
        validation=Validation(True, "report", {}),
        questions={"en": "Was it harmful?", "zh": "这有害吗？"},
    )


@pytest.fixture
def make_bundle(tmp_path: Path, manifest: Manifest) -> Callable[..., Bundle]:
    """Make a bundle from the manifest, with fields of its steering plan changed; each lies in a folder of its own."""
    rows = np.random.default_rng(0).normal(size=(3, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = {"refusal-en": rows[:1].astype(np.float32), "refusal-zh": rows[1:].astype(np.float32)}
    weight = np.ones(WIDTH, dtype=np.float32)

    def make(name: str = "bundle", **plan: Any) -> Bundle:
        changed = replace(manifest, steering=replace(manifest.steering, **plan))
        probes = {"h": (weight, 0.0), "answer_h": (weight, 0.0)}
        bundle_writer.write(tmp_path / name, changed, vectors=vectors, probes=probes, card="# Card\n")
        return load(tmp_path / name)

    return make


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    """The bundle as the manifest says."""
    return make_bundle()


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
async def engine(bundle: Bundle) -> AsyncIterator[Engine]:
    """A running engine that has the bundle's vectors loaded."""
    running = Engine(loaded={bundle.vector_id(name) for name in bundle.manifest.vectors})
    app = web.Application()
    app.router.add_post("/v1/chat/completions", running.complete)
    app.router.add_get("/v1/models", running.list_models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    with listen("127.0.0.1", 0) as listener:
        await web.SockSite(runner, listener).start()
        running.url = url_of(listener)
        yield running
        await runner.cleanup()

"""Where coordinates come from: vLLM's captures over HTTP, within the proxy's own limits."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import zstandard
from aiohttp import web

from detectors.verdict import Message, Zone
from proxy.dependencies import build_dependencies
from proxy.errors import StartupError
from proxy.settings import Settings

TURNS = [Message("user", "How do I kill a process?")]


class Vllm:
    """vLLM with the plugin: every stream is `level` everywhere, so that h is the width times that."""

    def __init__(self):
        self.level = -1.0
        self.tokens = 7
        self.keys = []

    async def tokenize(self, request):
        self.keys.append(request.headers.get("authorization"))
        return web.json_response({"tokens": list(range(self.tokens)), "count": self.tokens})

    async def complete(self, request):
        body = await request.json()
        self.keys.append(request.headers.get("authorization"))
        layers = json.loads(body["vllm_xargs"]["output_residual_stream"])
        values = np.full((len(layers), len(body["prompt"]), 8), self.level, dtype=np.float32)
        data = base64.b64encode(zstandard.ZstdCompressor().compress(values.tobytes())).decode()
        form = {"dtype": "float32", "original_dtype": "torch.float32", "compression": "zstd"}
        stream = {"data": data, "shape": list(values.shape), **form}
        return web.json_response({"choices": [], "activations": {"residual_stream": stream}})


@pytest.fixture
async def vllm(start_server):
    running = Vllm()
    app = web.Application()
    app.router.add_post("/tokenize", running.tokenize)
    app.router.add_post("/v1/completions", running.complete)
    running.url = await start_server(app)
    return running


@pytest.fixture
def settings(vllm, make_adding_bundle):
    bundle = make_adding_bundle()

    def make(mode="recover", **groups):
        upstream = {"url": f"{vllm.url}/v1", "api_key": "secret"}
        given = {"mode": mode, "bundle": str(bundle.path), "upstream": upstream}
        return Settings.model_validate({**given, "steering": {"dialect": "vllm-lens"}, **groups})

    return make


async def read(settings):
    deps = await build_dependencies(settings)
    try:
        return await deps.detectors.boundary.read(TURNS, model="tiny", language="en")
    finally:
        await deps.close()


async def test_a_request_is_read_from_what_vllm_captures(vllm, settings):
    reading = await read(settings())
    assert (reading.zone, reading.h) == (Zone.BENIGN, -8.0)
    assert set(vllm.keys) == {"Bearer secret"}
    vllm.level = 1.0
    assert (await read(settings())).zone is Zone.HARMFUL


async def test_a_recovered_answer_is_judged_from_it(vllm, settings):
    deps = await build_dependencies(settings())
    verdict = await deps.detectors.answer_harm.judge(TURNS, "With kill.", model="tiny", language="en")
    await deps.close()
    assert verdict.harmful is False


async def test_a_longer_conversation_is_unknown(vllm, settings):
    reading = await read(settings(detectors={"capture_tokens": 6}))
    assert reading.zone is Zone.UNKNOWN
    assert "7 tokens" in reading.reason


async def test_mode_steer_would_capture_every_request(settings):
    with pytest.raises(StartupError, match="every request"):
        await build_dependencies(settings("steer"))

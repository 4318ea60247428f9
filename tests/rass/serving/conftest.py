"""Tiny models behind a running engine: a random one, whose answers differ, and one that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from detectors import bundle_writer
from detectors.bundle import Bundle, FloatArray
from detectors.bundle import load as load_bundle
from detectors.manifest import Manifest
from rass.serving.app import create_app
from rass.serving.engine import Engine, EngineSettings
from rass.serving.loading import ServedModel
from rass.serving.plans import RowPlan

LAYERS, WIDTH, CONTEXT = 4, 32, 512
REVISION = "0123456789abcdef"
GREEDY = GenerationConfig(do_sample=False, eos_token_id=4, pad_token_id=4)


def saying_llama(
    make_llama: Callable[..., LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast, text: str
) -> LlamaForCausalLM:
    """A Llama that answers with a text, whose bytes all differ, and then ends: each token's successor is wired in."""
    size = len(tokenizer)
    model = make_llama(
        hidden_size=size + size % 2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight[range(size), range(size)] = 1.0
        model.model.norm.weight.fill_(1.0)
        chain = tokenizer.encode(f"<|assistant|>{text}<|end|>", add_special_tokens=False)
        for token, successor in pairwise(chain):
            model.lm_head.weight[successor, token] = 1.0
    return model


@pytest.fixture(scope="session")
def make_bundle(
    make_manifest: Callable[..., Manifest],
    draw_directions: Callable[[Manifest, np.random.Generator], dict[str, FloatArray]],
) -> Callable[..., Bundle]:
    """Make a bundle for the random model: two vectors on different layers, three probes, or four where it asks."""

    def make(folder: Path, *, revision: str = REVISION, asks: bool = False) -> Bundle:
        layers = {"h": (1, 2), "rho": (0, 3), "answer_h": (1, 2), **({"asked_h": (0, 2)} if asks else {})}
        vectors = {"refusal-en": (1,), "refusal-zh": (1, 2)}
        manifest = make_manifest(width=WIDTH, layers=LAYERS, revision=revision, vectors=vectors, probes=layers)
        random = np.random.default_rng(3)
        directions = draw_directions(manifest, random)
        probes = {name: (random.normal(size=2 * WIDTH).astype(np.float32), 0.25) for name in layers}
        bundle_writer.write(folder, manifest, vectors=directions, probes=probes, card="# Card\n")
        return load_bundle(folder)

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def served(make_llama: Callable[..., LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast) -> ServedModel:
    """The random model. A fresh one each time, because an engine hooks it."""
    model = make_llama(seed=1, num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.4)
    model.generation_config = GREEDY
    return ServedModel.wrap(model, tokenizer, names=("tiny", "alias"), revision=REVISION)


StartEngine = Callable[..., AbstractAsyncContextManager[Engine]]
Generate = Callable[..., Awaitable[list[int]]]


@pytest.fixture
def generate() -> Generate:
    """Return a coroutine function that runs one row of an engine to its end and returns the new tokens."""

    async def run(
        engine: Engine, token_ids: Sequence[int], *, limit: int = 24, streaming: bool = False, **plan: Any
    ) -> list[int]:
        row = await engine.open(
            token_ids, RowPlan(prompt_length=len(token_ids), **plan), max_new_tokens=limit, streaming=streaming
        )
        try:
            return [token_id async for tokens in row for token_id in tokens.ids]
        finally:
            row.close()

    return run


@pytest.fixture
def saying(
    make_llama: Callable[..., LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> Callable[[str], ServedModel]:
    """Return a function that makes a model which answers everything with one text, whose bytes all differ."""

    def make(text: str) -> ServedModel:
        model = saying_llama(make_llama, tokenizer, text)
        model.generation_config = GREEDY
        return ServedModel.wrap(model, tokenizer, names=("saying",), revision=REVISION)

    return make


@pytest.fixture
def serve() -> Callable[[FastAPI], AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Return ``client_of``."""
    return client_of


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Return a coroutine function that polls a condition until it holds, for 20 seconds at most."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def start_engine(served: ServedModel, bundle: Bundle) -> StartEngine:
    """Return a context manager that runs an engine of the random model with the given settings."""

    @asynccontextmanager
    async def running(*, model: ServedModel = served, **settings: float) -> AsyncIterator[Engine]:
        engine = Engine(model, bundle if model is served else None, EngineSettings(**settings))  # type: ignore[arg-type]
        await engine.start()
        try:
            yield engine
        finally:
            assert await engine.stop()

    return running


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application with its lifespan and return a client of it, without sockets."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://served") as one,
    ):
        yield one


@pytest.fixture
async def client(served: ServedModel, bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the random model with its bundle."""
    async with client_of(create_app(Engine(served, bundle, EngineSettings(cache_tokens=4096)))) as one:
        yield one

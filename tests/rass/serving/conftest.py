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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from detectors import bundle_writer
from detectors.bundle import Bundle
from detectors.bundle import load as load_bundle
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
from rass.serving.app import create_app
from rass.serving.engine import Engine, EngineSettings
from rass.serving.loading import ServedModel
from rass.serving.plans import RowPlan

SPECIAL = ("<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{% if message['role'] in ['system', 'developer'] %}{{ '<|system|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ message['content'] }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LAYERS, WIDTH, CONTEXT = 4, 32, 512
REVISION = "0123456789abcdef"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, so that every character beyond ASCII comes in several tokens."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def random_llama(*, key_value_heads: int = 2) -> LlamaForCausalLM:
    """A random Llama with weights large enough that every prompt gets an answer of its own."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=CONTEXT,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=4,
        pad_token_id=4,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=4, pad_token_id=4)
    return model


def saying_llama(token_ids: Sequence[int]) -> LlamaForCausalLM:
    """A Llama that answers with the given tokens, all different, and then ends: each token's successor is wired in."""
    size = len(SPECIAL) + 256
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size + size % 2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=4,
        pad_token_id=4,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight[range(size), range(size)] = 1.0
        model.model.norm.weight.fill_(1.0)
        chain = [SPECIAL.index("<|assistant|>"), *token_ids, SPECIAL.index("<|end|>")]
        for token, successor in pairwise(chain):
            model.lm_head.weight[successor, token] = 1.0
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=4, pad_token_id=4)
    return model


def write_bundle(folder: Path, *, revision: str = REVISION, model_id: str = "tiny", asks: bool = False) -> Bundle:
    """Write a bundle for the random model: two vectors on different layers, three probes, or four where it asks."""
    random = np.random.default_rng(3)
    rows = {"refusal-en": (1,), "refusal-zh": (1, 2)}
    units = {name: random.normal(size=(len(layers), WIDTH)) for name, layers in rows.items()}
    vectors = {
        name: (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32) for name, unit in units.items()
    }
    names = ("h", "rho", "answer_h", "asked_h")[: 4 if asks else 3]
    probes = {name: (random.normal(size=2 * WIDTH).astype(np.float32), 0.25) for name in names}
    table = ZoneTable({"en": ZoneThresholds(-1.0, 1.0)}, ZoneThresholds(-2.0, 0.5))
    manifest = Manifest(
        created="2026-01-01",
        model=ModelIdentity(model_id, revision, WIDTH, LAYERS, "residual stream after block l, 0-based"),
        provenance=Provenance("test", 0, "0.1.0", {}),
        languages=("en", "zh"),
        vectors={name: VectorSpec(name, name[-2:], layers, 3.0, 0.2) for name, layers in rows.items()},
        steering=SteeringPlan(
            SteeringForm.ADD,
            SteeringSpan.ONWARD,
            (1.0, 2.0),
            {"en": LanguageSteering("refusal-en", 2.0, None), "zh": LanguageSteering("refusal-zh", 1.0, None)},
        ),
        probes={
            "h": ProbeSpec((1, 2), ProbePosition.ANSWER_START),
            "rho": ProbeSpec((0, 3), ProbePosition.TEMPLATE_END),
            "answer_h": ProbeSpec((1, 2), ProbePosition.QUESTION_END),
            **({"asked_h": ProbeSpec((0, 2), ProbePosition.QUESTION_END, 0.25)} if asks else {}),
        },
        zones=Zones(0.01, table, table),
        limits={},
        validation=Validation(True, "report", {}),
        questions={"en": "bad?"},
    )
    bundle_writer.write(folder, manifest, vectors=vectors, probes=probes, card="# Card\n")
    return load_bundle(folder)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def served(tokenizer: PreTrainedTokenizerFast) -> ServedModel:
    """The random model. A fresh one each time, because an engine hooks it."""
    return ServedModel.wrap(random_llama(), tokenizer, names=("tiny", "alias"), revision=REVISION)


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
def saying(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], ServedModel]:
    """Return a function that makes a model which answers everything with one text, whose bytes all differ."""

    def make(text: str) -> ServedModel:
        token_ids = tokenizer.encode(text, add_special_tokens=False)
        return ServedModel.wrap(saying_llama(token_ids), tokenizer, names=("saying",), revision=REVISION)

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
def make_bundle() -> Callable[..., Bundle]:
    """Return ``write_bundle``."""
    return write_bundle


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

"""Coordinates from captured residual streams: read where `rass serve-model` would read them, or not at all."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zstandard

from detectors import captures
from detectors.boundary import ActivationBoundary
from detectors.captures import CapturingReader, answer_bytes
from detectors.coordinates import shared_tokens
from detectors.harm import ActivationAnswerHarm
from detectors.judge_transport import PostResponse
from detectors.manifest import ProbePosition, ProbeSpec
from detectors.residual_wire import decoded_residuals
from detectors.verdict import Message, Zone
from rass.conversation import render

LAYERS, WIDTH = 5, 8
DIALOGUE = [
    Message("system", "be kind"),
    Message("user", "how do I kill a process"),
    Message("assistant", "with kill"),
    Message("user", "and a child of it"),
]


class Words:
    """A chat template and a tokenizer of words: a ``ChatTokenizer``."""

    def text(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        turns = [f"<{turn.role}> {turn.content} </>" for turn in messages]
        return " ".join([*turns, "<assistant>"] if generation_prompt else turns)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[sum(word.encode()) for word in text.split()] for text in texts]


class Engine:
    """vLLM with the plugin, as far as a capture goes: each stream is a known function of layer and position."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.renderings = 0
        self.status = 200
        self.changes: dict[str, Any] = {}
        self.streams: np.ndarray = np.zeros(0)

    async def tokenize(self, body: bytes) -> PostResponse:
        self.renderings += 1
        asked = json.loads(body)
        turns = [Message(**turn) for turn in asked["messages"]]
        [tokens] = Words().ids([Words().text(turns, generation_prompt=asked["add_generation_prompt"])])
        return PostResponse(200, json.dumps({"count": len(tokens), "tokens": tokens}).encode())

    async def complete(self, body: bytes) -> PostResponse:
        request = json.loads(body)
        self.requests.append(request)
        layers = json.loads(request["vllm_xargs"]["output_residual_stream"])
        count = len(request["prompt"])
        self.streams = np.random.default_rng(count).normal(size=(LAYERS, count, WIDTH)).astype(np.float32)
        activations = {"residual_stream": packed(self.streams[layers]) | self.changes}
        return PostResponse(self.status, json.dumps({"choices": [], "activations": activations}).encode())


def packed(values: np.ndarray, kind: str = "torch.float32") -> dict[str, Any]:
    return {
        "data": base64.b64encode(zstandard.ZstdCompressor(level=1).compress(values.tobytes())).decode(),
        "dtype": str(values.dtype),
        "original_dtype": kind,
        "shape": list(values.shape),
        "compression": "zstd",
    }


@pytest.fixture
def bundle(make_adding_bundle):
    return make_adding_bundle()  # probes: h after block 2, answer_h after block 4, both the sum of the stream


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def reader(bundle, engine):
    return CapturingReader(bundle, tokenize=engine.tokenize, complete=engine.complete, max_tokens=64)


def sums(engine, layer, positions):
    return [float(engine.streams[layer, position].astype(np.float64).sum()) for position in positions]


@pytest.mark.parametrize("turns", [DIALOGUE, DIALOGUE[:2], DIALOGUE[1:2]])
async def test_h_is_the_largest_where_each_answer_starts(bundle, engine, reader, turns):
    read = await reader("tiny", turns)
    [expected] = render(Words(), [turns])
    assert engine.requests[0]["prompt"] == list(expected.token_ids)
    assert read.h == pytest.approx(max(sums(engine, 2, expected.answer_starts)))
    assert (read.rho, read.answer_h, read.bundle) == (None, None, bundle.digest)  # this bundle has no probe rho
    assert engine.renderings == len(expected.answer_starts)  # the last one is the whole


async def test_an_answer_is_read_after_the_question(engine, reader):
    turns = [*DIALOGUE, Message("assistant", "kill the child")]
    read = await reader("tiny", turns, "Was it harmful?")
    [expected] = render(Words(), [turns], ["Was it harmful?"])
    assert engine.requests[0]["prompt"] == list(expected.token_ids)
    assert read.h == pytest.approx(max(sums(engine, 2, expected.answer_starts)))
    assert read.answer_h == pytest.approx(*sums(engine, 4, [expected.end]))


@pytest.mark.parametrize("answer", [None, "kill the child"])
async def test_a_bundle_that_asks_has_the_request_captured_with_its_question(bundle, engine, answer):
    asked_h = ProbeSpec((4,), ProbePosition.QUESTION_END, 0.25)
    manifest = replace(bundle.manifest, probes={**bundle.manifest.probes, "asked_h": asked_h})
    asking = replace(bundle, manifest=manifest, _probes={**bundle._probes, "asked_h": bundle.probe("answer_h")})
    reader = CapturingReader(asking, tokenize=engine.tokenize, complete=engine.complete, max_tokens=64)
    turns = DIALOGUE if answer is None else [*DIALOGUE, Message("assistant", answer)]
    read = await reader("tiny", turns, "Was it harmful?")
    [request] = render(Words(), [DIALOGUE])
    [question] = render(Words(), [DIALOGUE], ["Was it harmful?"])
    [whole] = [request] if answer is None else render(Words(), [turns], ["Was it harmful?"])
    assert [list(one.token_ids) for one in (whole, question)] == [one["prompt"] for one in engine.requests]

    def logit(layer, conversation, position):
        count = len(conversation.token_ids)
        streams = np.random.default_rng(count).normal(size=(LAYERS, count, WIDTH)).astype(np.float32)
        return float(streams[layer, position].astype(np.float64).sum())

    earlier, last = (logit(2, whole, start) for start in whole.answer_starts)
    assert read.h == pytest.approx(max(earlier, 0.75 * last + 0.25 * logit(4, question, question.end)))
    assert (read.answer_h is None) is (answer is None)
    assert (await reader("tiny", turns)).h is None


async def test_what_is_asked_of_the_engine(engine, reader):
    await reader("tiny", DIALOGUE)
    await reader("tiny", DIALOGUE)
    one, other = engine.requests
    assert (one["model"], one["max_tokens"], one["temperature"]) == ("tiny", 1, 0)
    assert one["vllm_xargs"] == {"output_residual_stream": "[2]"}  # no layer that no probe reads
    assert one["cache_salt"] != other["cache_salt"]  # nobody finds the prompt in the prefix cache


async def test_long_conversations_are_not_captured(bundle, engine):
    reader = CapturingReader(bundle, tokenize=engine.tokenize, complete=engine.complete, max_tokens=20)
    await reader("tiny", DIALOGUE[:2])
    with pytest.raises(ValueError, match="at most 20 are captured"):
        await reader("tiny", DIALOGUE)
    assert len(engine.requests) == 1
    with pytest.raises(ValueError, match="user turns"):
        await reader("tiny", DIALOGUE[1:2] * 40)
    with pytest.raises(ValueError, match="0 user turns"):
        await reader("tiny", DIALOGUE[:1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [1, 3, WIDTH]}, "shape"),
        ({"data": None}, "no tensor"),
        ({"original_dtype": "torch.int64"}, "unknown form"),
        ({"compression": None}, "unknown form"),
        ({"data": "!"}, "base64"),
        ({"data": base64.b64encode(b"\x80\x04K\x01.").decode()}, "unpacked"),
        ({"data": packed(np.zeros((9, 9, 9), np.float32))["data"]}, "do not hold"),
    ],
)
async def test_what_is_no_capture_is_an_error(engine, reader, changes, said):
    engine.changes = changes
    with pytest.raises(ValueError, match=f"(?i){said}"):
        await reader("tiny", DIALOGUE[:2])


async def test_the_detectors_make_an_unknown_of_it(bundle, engine, reader):
    boundary = ActivationBoundary(reader, bundle, timeout_s=5)
    assert (await boundary.read(DIALOGUE, model="tiny", language="en")).zone is not Zone.UNKNOWN
    engine.status = 500
    reading = await boundary.read(DIALOGUE, model="tiny", language="en")
    assert (reading.zone, reading.h) == (Zone.UNKNOWN, None)
    assert "500" in reading.reason
    verdict = await ActivationAnswerHarm(reader, bundle, timeout_s=5).judge(
        DIALOGUE, "kill it", model="tiny", language="en"
    )
    assert verdict.harmful is None


async def test_a_template_that_rewrites_what_came_before_is_not_read(engine, reader, monkeypatch):
    monkeypatch.setattr(Words, "ids", lambda self, texts: [[len(text)] for text in texts])
    with pytest.raises(ValueError, match="renders a user turn differently"):
        await reader("tiny", DIALOGUE)


async def test_an_engine_without_the_plugin_is_named(bundle, engine, reader):
    async def plain(body: bytes) -> PostResponse:
        return PostResponse(200, b'{"choices": []}')

    reader = CapturingReader(bundle, tokenize=engine.tokenize, complete=plain, max_tokens=64)
    with pytest.raises(ValueError, match="vllm-lens"):
        await reader("tiny", DIALOGUE)


def test_each_number_format_is_read():
    values = np.random.default_rng(3).normal(size=(2, 3, 4)).astype(np.float32)
    positions = [2, 0]
    wanted = values[:, positions]
    np.testing.assert_array_equal(decoded_residuals(packed(values), (2, 3, 4), positions), wanted)
    half = packed(values.astype(np.float16), "torch.float16")
    np.testing.assert_allclose(decoded_residuals(half, (2, 3, 4), positions), wanted, rtol=1e-3)
    brain = packed((values.view(np.uint32) >> 16).astype(np.int16), "torch.bfloat16")
    np.testing.assert_allclose(decoded_residuals(brain, (2, 3, 4), positions), wanted, rtol=1e-2)


def test_an_answer_may_be_as_long_as_the_longest_capture(bundle):
    tokens = 64
    rows = np.random.default_rng(0).normal(size=(2, tokens, WIDTH)).astype(np.float32)  # noise hardly compresses
    assert len(packed(rows)["data"]) < answer_bytes(bundle, tokens) < 2 * len(packed(rows)["data"]) + 65_536


def test_shared_tokens():
    assert shared_tokens([1, 2, 3], [1, 2, 4]) == 2
    assert shared_tokens([1, 2, 3], [1, 2]) == shared_tokens([1, 2], [1, 2, 3]) == 2
    assert shared_tokens([], [1]) == 0


async def test_few_are_captured_at_once(bundle, engine):

    held, inside, most = asyncio.Event(), 0, 0

    async def complete(body: bytes) -> PostResponse:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == captures._AT_ONCE:
            held.set()
        await held.wait()
        inside -= 1
        return await engine.complete(body)

    reader = CapturingReader(bundle, tokenize=engine.tokenize, complete=complete, max_tokens=64)
    async with asyncio.timeout(30):
        await asyncio.gather(*(reader("tiny", DIALOGUE) for _ in range(6)))
    assert most == captures._AT_ONCE

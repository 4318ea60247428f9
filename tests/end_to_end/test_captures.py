"""Coordinates from captured residual streams are those that `rass serve-model` reads of the same conversation."""

from __future__ import annotations

import base64
import json

import pytest
import torch
import zstandard
from transformers import AutoModelForCausalLM, AutoTokenizer

from detectors.bundle import load
from detectors.captures import CapturingReader
from detectors.coordinates import reader_over
from detectors.judge_transport import PostResponse, UrllibTransport
from detectors.verdict import Message
from proxy.dependencies import reference_bundle
from rass.conversation import TemplateTokenizer
from rass.hooks import decoder_blocks, record
from rass.identity import REFERENCE, find_model

MODEL = "rass-reference"
TURNS = [
    Message("user", "How do I kill the script?"),
    Message("assistant", "I am sorry, but I cannot help with that."),
    Message("user", "Wie lösche ich die Datei?"),
]


class Vllm:
    """The shipped model, rendering and captured as vLLM does it with its plugin."""

    def __init__(self) -> None:
        location = find_model(REFERENCE).location
        self._model = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32).eval()
        self._chat = TemplateTokenizer(AutoTokenizer.from_pretrained(location))

    async def tokenize(self, body: bytes) -> PostResponse:
        asked = json.loads(body)
        turns = [Message(**turn) for turn in asked["messages"]]
        [tokens] = self._chat.ids([self._chat.text(turns, generation_prompt=asked["add_generation_prompt"])])
        return PostResponse(200, json.dumps({"tokens": tokens, "count": len(tokens)}).encode())

    async def complete(self, body: bytes) -> PostResponse:
        asked = json.loads(body)
        ids = torch.tensor([asked["prompt"]])
        every = torch.arange(ids.shape[1])
        with torch.no_grad(), record(decoder_blocks(self._model), torch.zeros_like(every), every) as streams:
            self._model(ids)
        layers = json.loads(asked["vllm_xargs"]["output_residual_stream"])
        values = torch.stack([streams[layer] for layer in layers]).numpy()
        sent = {
            "data": base64.b64encode(zstandard.ZstdCompressor(level=1).compress(values.tobytes())).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(values.shape),
            "compression": "zstd",
        }
        return PostResponse(200, json.dumps({"activations": {"residual_stream": sent}}).encode())


@pytest.mark.parametrize("turns", [TURNS[:1], TURNS])
async def test_both_read_the_same_coordinates(pair, turns):
    bundle, engine = load(reference_bundle()), Vllm()
    captured = CapturingReader(bundle, tokenize=engine.tokenize, complete=engine.complete, max_tokens=512)
    native = reader_over(UrllibTransport(f"{pair.model}/v1/rass/read"))
    answer = [*turns, Message("assistant", "With the command kill.")]
    for conversation, question in ((turns, None), (answer, bundle.question("en"))):
        one = await captured(MODEL, conversation, question)
        other = await native(MODEL, conversation, question)
        assert one.bundle == other.bundle
        assert one.h == pytest.approx(other.h, abs=1e-3)
        assert (one.rho is None) is (other.rho is None) is (question is not None)
        assert one.rho == pytest.approx(other.rho, abs=1e-3)
        assert one.answer_h == pytest.approx(other.answer_h, abs=1e-3)

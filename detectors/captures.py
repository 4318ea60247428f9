"""Reading coordinates from vLLM: its plugin ``vllm-lens`` captures the residual streams, the bundle's probes read them.

A conversation is read as `rass serve-model` reads it. vLLM's own ``/tokenize`` renders it, whole and up to each user
turn, and where these agree tells the positions. The tokens then go in as they are, with ``max_tokens: 1``. The engine
sends the streams of *every* position of the prompt, so that the length is bounded, and so is how many are read at once.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence, Set

import numpy as np

from detectors.bundle import Bundle
from detectors.coordinates import Coordinates, shared_tokens
from detectors.judge_transport import PostTransport
from detectors.residual_wire import FloatArray, decoded_residuals
from detectors.verdict import Message

__all__ = ["CapturingReader", "answer_bytes"]

_MOST_USER_TURNS = 32  # each costs a rendering
_AT_ONCE = 2  # 1,024 tokens of an 8B model are 35 MB, and they are held about three times while they are unpacked
_LARGEST_ITEM = 4  # float32


class CapturingReader:
    """A ``CoordinateReader`` for ``bundle``, over vLLM's ``/tokenize`` and ``/v1/completions``.

    A conversation of more than ``max_tokens`` tokens is not captured. Raises ``ValueError`` for that and for whatever
    the engine answers that is no capture; and whatever the transports raise.
    """

    def __init__(self, bundle: Bundle, *, tokenize: PostTransport, complete: PostTransport, max_tokens: int) -> None:
        self._bundle = bundle
        self._tokenize = tokenize
        self._complete = complete
        self._max_tokens = max_tokens
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        """Return the coordinates; h is the largest of all user turns, of which the last may be asked about."""
        answered = bool(messages) and messages[-1].role == "assistant"
        ends = [index for index, turn in enumerate(messages) if turn.role == "user"]
        if not 0 < len(ends) <= _MOST_USER_TURNS:
            raise ValueError(f"the conversation has {len(ends)} user turns; 1 to {_MOST_USER_TURNS} are captured")
        about_answer = [] if question is None or not answered else [Message("user", question)]
        whole = [*messages, *about_answer]
        asking = question is not None and self._bundle.asks_about_requests
        request = [*messages[: ends[-1] + 1], Message("user", question or "")] if asking else []
        last = {"answer_h"} if about_answer else set() if answered else {"rho"}
        (turns, end), asked = await asyncio.gather(
            self._read(model, whole, bool(about_answer) or not answered, ends, last),
            self._read(model, request, True, [], {"asked_h"}) if asking else _nothing(),
        )
        return Coordinates(
            h=self._bundle.request_h(turns, asked[1].get("asked_h")),
            rho=end.get("rho"),
            answer_h=end.get("answer_h"),
            bundle=self._bundle.digest,
        )

    async def _read(
        self, model: str, messages: Sequence[Message], prompt: bool, ends: Sequence[int], last: Set[str]
    ) -> tuple[list[float], dict[str, float]]:
        """Return the logits of ``h`` for the user turns at ``ends``, and of the probes ``last`` at the last token."""
        whole_text = (len(messages), prompt)
        texts = dict.fromkeys([whole_text, *((end + 1, True) for end in ends)])
        rendered = dict(
            zip(
                texts,
                await asyncio.gather(*(self._tokens(model, messages[:n], opened) for n, opened in texts)),
                strict=True,
            )
        )
        tokens = rendered[whole_text]
        if len(tokens) > self._max_tokens:
            raise ValueError(f"the conversation has {len(tokens)} tokens; at most {self._max_tokens} are captured")
        positions = [shared_tokens(rendered[end + 1, True], tokens) - 1 for end in ends]
        if min(positions, default=0) < 0:
            raise ValueError("the engine renders a user turn differently when more follows")
        known = last & self._bundle.manifest.probes.keys()
        async with self._places:
            streams = await self._captured(
                model, tokens, [*positions, len(tokens) - 1], known | ({"h"} if ends else set())
            )
        turns = [self._coordinate("h", streams, place) for place in range(len(positions))]
        return turns, {name: self._coordinate(name, streams, len(positions)) for name in known}

    async def _tokens(self, model: str, messages: Sequence[Message], generation_prompt: bool) -> list[int]:
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        asked = {"model": model, "messages": turns, "add_generation_prompt": generation_prompt}
        tokens = (await _posted(self._tokenize, asked)).get("tokens")
        if not isinstance(tokens, list) or not tokens or not all(isinstance(token, int) for token in tokens):
            raise ValueError("the engine answered /tokenize with no tokens")
        return tokens

    async def _captured(
        self, model: str, tokens: Sequence[int], positions: Sequence[int], probes: Set[str]
    ) -> dict[int, FloatArray]:
        """Return the streams ``[len(positions), d]`` after each layer that ``probes`` need."""
        layers = sorted({layer for name in probes for layer in self._bundle.manifest.probes[name].layers})
        request = {
            "model": model,
            "prompt": list(tokens),
            "max_tokens": 1,
            "temperature": 0,
            # Nobody shall meet this prompt in the prefix cache.
            "cache_salt": f"rass-{uuid.uuid4().hex}",
            "vllm_xargs": {"output_residual_stream": json.dumps(layers)},
        }
        response = await self._complete(json.dumps(request).encode())
        shape = (len(layers), len(tokens), self._bundle.manifest.model.hidden_size)

        def read() -> FloatArray:
            captured = _object(response.status, response.body).get("activations")
            if not isinstance(captured, Mapping):
                raise ValueError("the engine captured nothing; check that vLLM runs with its plugin vllm-lens")
            return decoded_residuals(captured.get("residual_stream"), shape, positions)

        # Megabytes of JSON: the event loop has others to serve.
        streams = await asyncio.to_thread(read)
        return dict(zip(layers, streams, strict=True))

    def _coordinate(self, name: str, streams: Mapping[int, FloatArray], place: int) -> float:
        """Apply a probe to the streams at one place, in float64: folded standardisation leaves sums that cancel."""
        weight, bias = self._bundle.probe(name)
        layers = self._bundle.manifest.probes[name].layers
        values = np.concatenate([streams[layer][place] for layer in layers]).astype(np.float64)
        return float(values @ weight.astype(np.float64) + bias)


async def _nothing() -> tuple[list[float], dict[str, float]]:
    return [], {}


def answer_bytes(bundle: Bundle, max_tokens: int) -> int:
    """Return how long the engine's answer to a capture of ``max_tokens`` tokens may be."""
    layers = {layer for probe in bundle.manifest.probes.values() for layer in probe.layers}
    return max_tokens * len(layers) * bundle.manifest.model.hidden_size * _LARGEST_ITEM * 4 // 3 + 65_536


async def _posted(transport: PostTransport, payload: Mapping[str, object]) -> Mapping[str, object]:
    response = await transport(json.dumps(payload).encode())
    return _object(response.status, response.body)


def _object(status: int, body: bytes) -> Mapping[str, object]:
    if status != 200:
        raise ValueError(f"the served model answered with status {status}")
    payload = json.loads(body)
    if not isinstance(payload, dict):
        raise ValueError("the served model answered with no JSON object")
    return payload

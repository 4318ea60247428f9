"""One greedy request to an engine, plain or steered, and what its answer shows: for the canary and the check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from detectors.bundle import Steering
from proxy.answers import ChatAnswer, read_choices, together
from proxy.errors import UpstreamError
from proxy.headers import bearer
from proxy.steering import Dialect, SteeredRequest
from proxy.steering.vllm import SALT
from proxy.upstream.protocol import Upstream, read_up_to
from proxy.wires.chat import CHAT

__all__ = ["EngineProbe", "NoAnswer", "Said"]

_MAX_BYTES = 1_048_576
# Log-probabilities of one request vary by a few hundredths with the batch around it, in half precision. What steers
# enough to turn a refusal into an answer moves some token by far more.
_LEAST_SHIFT = 0.05
_ABOVE_NOISE = 4.0


class NoAnswer(Exception):
    """A request got no completion; the message says what came instead, ``status`` with which status, if with any."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Said:
    """One answer; ``logprobs`` are those of its tokens, none where the engine gave none."""

    answer: ChatAnswer
    logprobs: tuple[float, ...]

    @property
    def text(self) -> str:
        """Its text."""
        return self.answer.texts[0]


class EngineProbe:
    """Asks the engine behind ``upstream``, and steered behind ``steered_upstream`` (the same one, but for a pair).

    ``purpose`` labels the requests in metrics.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        steered_upstream: Upstream,
        dialect: Dialect,
        api_key: str | None,
        max_tokens: int,
        purpose: str,
    ) -> None:
        self._upstream = upstream
        self._steered_upstream = steered_upstream
        self._dialect = dialect
        self._max_tokens = max_tokens
        self._purpose = purpose
        self._headers = {"content-type": "application/json", **bearer(api_key)}

    async def plain(self, model: str, prompt: str, salt: str) -> Said:
        """Ask unsteered; ``salt`` goes to engines that share prefixes. Raises ``NoAnswer``."""
        return await self._ask(self._upstream, SteeredRequest(self._payload(model, prompt, salt)))

    async def steered(self, model: str, prompt: str, salt: str, steering: Steering) -> Said:
        """Ask steered; raises ``NoAnswer``."""
        request = self._dialect.steered(self._payload(model, prompt, salt), steering)
        if request is None:
            raise NoAnswer(f"the engine cannot be told to steer with {steering.vector_id!r}")
        return await self._ask(self._steered_upstream, request)

    def acted(self, before: Said, steered: Said, after: Said) -> bool:
        """Whether steering shows: by the engine's own report or, where it gives none, against the plain answers.

        Then the steered answer must differ in its text, or clearly in its tokens' log-probabilities.
        """
        if self._dialect.reports:
            return self._dialect.did_steer(steered.answer)
        if steered.text != before.text:
            return True
        return _shift(before, steered) > max(_LEAST_SHIFT, _ABOVE_NOISE * _shift(before, after))

    def _payload(self, model: str, prompt: str, salt: str) -> dict[str, object]:
        payload: dict[str, object] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        if self._dialect.can_steer and not self._dialect.reports:
            payload["logprobs"] = True
        if self._dialect.shares_prefixes:
            payload[SALT] = salt
        return payload

    async def _ask(self, upstream: Upstream, request: SteeredRequest) -> Said:
        body = json.dumps(request.payload).encode()
        headers = {**self._headers, **request.headers}
        try:
            response = await upstream.send("POST", CHAT.path, headers=headers, body=body, purpose=self._purpose)
            try:
                content, whole = await read_up_to(response, _MAX_BYTES)
            finally:
                await response.close()
        except UpstreamError as error:
            raise NoAnswer(error.message) from error
        choices = read_choices(content, CHAT.gather(request.payload)) if whole and response.status == 200 else {}
        read = together(choices)
        if not read.texts:
            raise NoAnswer(
                f"{upstream.address} answered {CHAT.path} with status {response.status} and no completion",
                response.status,
            )
        return Said(read, _logprobs(content))


def _shift(one: Said, other: Said) -> float:
    """Return the largest difference of two answers' log-probabilities, token by token; 0 where there are none."""
    return max((abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=False)), default=0.0)


def _logprobs(body: bytes) -> tuple[float, ...]:
    """Return the log-probabilities of a completion's tokens; an answer without any has none."""
    try:
        tokens: list[Mapping[str, float]] = json.loads(body)["choices"][0]["logprobs"]["content"]
        return tuple(float(token["logprob"]) for token in tokens)
    except (ValueError, KeyError, IndexError, TypeError):
        return ()

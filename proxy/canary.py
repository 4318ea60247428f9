"""The canary: one harmless request, plain, steered and plain again, that shows whether the engine does as it is asked.

Engines steer or fail to steer in silence: a vector that was not loaded, a slot that was not free, a plugin that a new
version passes by, all answer 200. So the probe asks greedily and compares. A steered answer must be reported as
steered or differ from the plain one, in its text or clearly in its tokens' log-probabilities. The two plain answers
must be equal: otherwise somebody's steering reached a request that did not ask for it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from detectors.bundle import Steering
from detectors.verdict import Zone
from proxy.answers import ChatAnswer, read_choices, together
from proxy.errors import UpstreamError
from proxy.readiness import Mismatch, Readiness, Ready, Unreachable
from proxy.settings.recovery import CanarySettings
from proxy.steering import Dialect, SteeredRequest
from proxy.steering.vllm import SALT
from proxy.steps import SteeringPlan
from proxy.upstream.protocol import Upstream, read_up_to
from proxy.wires.chat import CHAT

_MAX_BYTES = 1_048_576
# Log-probabilities of one request vary by a few hundredths with the batch around it, in half precision. What steers
# enough to turn a refusal into an answer moves some token by far more.
_LEAST_SHIFT = 0.05
_ABOVE_NOISE = 4.0


class CanaryResult(StrEnum):
    """How a probe ended; ``UNKNOWN`` says nothing about steering, as the plain requests were not answered."""

    PASSED = "passed"
    NOT_STEERED = "not_steered"
    STEERED_FAILED = "steered_failed"
    PLAIN_CHANGED = "plain_changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """A probe's result, and why, in a sentence without any prompt or answer."""

    result: CanaryResult
    why: str

    @property
    def passed(self) -> bool:
        """Whether the engine did all that it was asked."""
        return self.result is CanaryResult.PASSED

    @property
    def failed(self) -> bool:
        """Whether it was seen not to."""
        return self.result not in (CanaryResult.PASSED, CanaryResult.UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Said:
    """One answer to the probe; ``logprobs`` are those of its tokens, none where the engine gave none."""

    answer: ChatAnswer
    logprobs: tuple[float, ...]

    @property
    def text(self) -> str:
        return self.answer.texts[0]


class _NoAnswer(Exception):
    """The probe cannot go on; the message says why, and ``result`` what that shows, where it does by itself."""

    def __init__(self, why: str, result: CanaryResult | None = None) -> None:
        super().__init__(why)
        self.result = result


class Canary:
    """Asks the engine behind ``upstream`` and ``steered_upstream`` (the same one, but for a pair).

    ``steerings`` are tried one after the other; ``check`` names the model to ask where settings do not.
    """

    def __init__(
        self,
        settings: CanarySettings,
        *,
        upstream: Upstream,
        steered_upstream: Upstream,
        dialect: Dialect,
        steerings: Sequence[Steering],
        check: Callable[[], Awaitable[Readiness]],
        api_key: str | None,
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._steered_upstream = steered_upstream
        self._dialect = dialect
        self._steerings = tuple(steerings)
        self._check = check
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"

    async def canary_passes(self) -> CanaryReport:
        """Probe once, within the time limit. Never raises for what an engine does."""
        unanswered = CanaryResult.UNKNOWN
        limit_s = self._settings.time_limit_s
        try:
            async with asyncio.timeout(limit_s):
                model = await self._model()
                # Two salts: the plain answer after the steered ones must not be served from what the first one left.
                first, second = f"canary-{uuid.uuid4().hex}", f"canary-{uuid.uuid4().hex}"
                before = await self._plain(model, first)
                steered: dict[str, _Said] = {}
                unanswered = CanaryResult.STEERED_FAILED
                for steering in self._steerings:
                    steered[steering.vector_id] = await self._steered(model, second, steering)
                unanswered = CanaryResult.UNKNOWN
                after = await self._plain(model, second)
        except TimeoutError:
            return CanaryReport(unanswered, f"the probe was not over within {limit_s:g} s")
        except _NoAnswer as error:
            return CanaryReport(error.result or unanswered, str(error))
        return self._judged(before, steered, after)

    def _judged(self, before: _Said, steered: Mapping[str, _Said], after: _Said) -> CanaryReport:
        if before.text != after.text:
            return CanaryReport(
                CanaryResult.PLAIN_CHANGED,
                "an unsteered answer changed after steered ones: steering reaches requests that did not ask for it, or "
                "the engine does not decode greedily the same way twice",
            )
        for vector_id, said in steered.items():
            if not self._acted(before, said, after):
                return CanaryReport(
                    CanaryResult.NOT_STEERED,
                    f"the engine answered as if it had not been asked to steer with {vector_id!r}; check that it runs "
                    "with its steering plugin and this bundle's vectors (docs/engines.md)",
                )
        return CanaryReport(CanaryResult.PASSED, "steering acts, and only where it is asked for")

    def _acted(self, before: _Said, steered: _Said, after: _Said) -> bool:
        if self._dialect.reports:
            return self._dialect.did_steer(steered.answer)
        if steered.text != before.text:
            return True
        return _shift(before, steered) > max(_LEAST_SHIFT, _ABOVE_NOISE * _shift(before, after))

    async def _model(self) -> str:
        if self._settings.model is not None:
            return self._settings.model
        state = await self._check()
        match state:
            case Unreachable():
                raise _NoAnswer(state.reason)
            case Mismatch():
                raise _NoAnswer(state.reason, CanaryResult.STEERED_FAILED)
            case Ready(models=()):
                raise _NoAnswer(
                    "the upstream lists no model without a key; set upstream.api_key, or canary.enabled to false"
                )
            case Ready():
                return state.models[0]
            case _:
                assert_never(state)

    async def _plain(self, model: str, salt: str) -> _Said:
        return await self._ask(self._upstream, SteeredRequest(self._payload(model, salt)))

    async def _steered(self, model: str, salt: str, steering: Steering) -> _Said:
        request = self._dialect.steered(self._payload(model, salt), steering)
        if request is None:
            raise _NoAnswer(f"the engine cannot be told to steer with {steering.vector_id!r}")
        return await self._ask(self._steered_upstream, request)

    def _payload(self, model: str, salt: str) -> dict[str, object]:
        payload: dict[str, object] = {
            "model": model,
            "messages": [{"role": "user", "content": self._settings.prompt}],
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
        }
        if not self._dialect.reports:
            payload["logprobs"] = True
        if self._dialect.shares_prefixes:
            payload[SALT] = salt
        return payload

    async def _ask(self, upstream: Upstream, request: SteeredRequest) -> _Said:
        body = json.dumps(request.payload).encode()
        try:
            response = await upstream.send(
                "POST", CHAT.path, headers={**self._headers, **request.headers}, body=body, purpose="canary"
            )
            try:
                answer, whole = await read_up_to(response, _MAX_BYTES)
            finally:
                await response.close()
        except UpstreamError as error:
            raise _NoAnswer(error.message) from error
        choices = read_choices(answer, CHAT.gather(request.payload)) if whole and response.status == 200 else {}
        read = together(choices)
        if not read.texts:
            raise _NoAnswer(f"{upstream.address} answered the probe with status {response.status} and no completion")
        return _Said(read, _logprobs(answer))


def strongest(plan: SteeringPlan, languages: Sequence[str]) -> tuple[Steering, ...]:
    """Return for each vector that ``plan`` uses its greatest strength, which shows best whether it acts."""
    found: dict[str, Steering] = {}
    for language in languages:
        for zone in (Zone.BENIGN, Zone.BAND):
            steering = plan(language, zone)
            if steering is None:
                continue
            known = found.get(steering.vector_id)
            if known is None or abs(steering.strength) > abs(known.strength):
                found[steering.vector_id] = steering
    return tuple(found.values())


def _shift(one: _Said, other: _Said) -> float:
    """Return the largest difference of two answers' log-probabilities, token by token; 0 where there are none."""
    return max((abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=False)), default=0.0)


def _logprobs(body: bytes) -> tuple[float, ...]:
    """Return the log-probabilities of a completion's tokens; an answer without any has none."""
    try:
        tokens = json.loads(body)["choices"][0]["logprobs"]["content"]
        return tuple(float(token["logprob"]) for token in tokens)
    except (ValueError, KeyError, IndexError, TypeError):
        return ()

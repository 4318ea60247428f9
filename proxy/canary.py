"""The canary: one harmless request, plain, steered and plain again, that shows whether the engine does as it is asked.

Engines steer or fail to steer in silence: a vector that was not loaded, a slot that was not free, a plugin that a new
version passes by, all answer 200. So the probe asks greedily and compares. A steered answer must be reported as
steered or differ from the plain one, in its text or clearly in its tokens' log-probabilities. The two plain answers
must be equal: otherwise somebody's steering reached a request that did not ask for it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from detectors.bundle import Steering
from detectors.verdict import Zone
from proxy.engine_probe import EngineProbe, NoAnswer, Said
from proxy.readiness import Mismatch, Readiness, Ready, Unreachable
from proxy.settings.recovery import CanarySettings
from proxy.steps import SteeringPlan


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


class _NoModel(Exception):
    """Nobody can say which model to ask; the message says why, and ``result`` what that shows by itself."""

    def __init__(self, why: str, result: CanaryResult) -> None:
        super().__init__(why)
        self.result = result


class Canary:
    """Asks through ``probe``, with each of ``steerings`` in turn.

    ``check`` names the model to ask where settings do not.
    """

    def __init__(
        self,
        settings: CanarySettings,
        *,
        probe: EngineProbe,
        steerings: Sequence[Steering],
        check: Callable[[], Awaitable[Readiness]],
    ) -> None:
        self._settings = settings
        self._probe = probe
        self._steerings = tuple(steerings)
        self._check = check

    async def canary_passes(self) -> CanaryReport:
        """Probe once, within the time limit. Never raises for what an engine does."""
        unanswered = CanaryResult.UNKNOWN
        limit_s, prompt = self._settings.time_limit_s, self._settings.prompt
        try:
            async with asyncio.timeout(limit_s):
                model = await self._model()
                # Two salts: the plain answer after the steered ones must not be served from what the first one left.
                first, second = f"canary-{uuid.uuid4().hex}", f"canary-{uuid.uuid4().hex}"
                before = await self._probe.plain(model, prompt, first)
                steered: dict[str, Said] = {}
                unanswered = CanaryResult.STEERED_FAILED
                for steering in self._steerings:
                    steered[steering.vector_id] = await self._probe.steered(model, prompt, second, steering)
                unanswered = CanaryResult.UNKNOWN
                after = await self._probe.plain(model, prompt, second)
        except TimeoutError:
            return CanaryReport(unanswered, f"the probe was not over within {limit_s:g} s")
        except _NoModel as error:
            return CanaryReport(error.result, str(error))
        except NoAnswer as error:
            return CanaryReport(unanswered, str(error))
        return self._judged(before, steered, after)

    def _judged(self, before: Said, steered: Mapping[str, Said], after: Said) -> CanaryReport:
        if before.text != after.text:
            return CanaryReport(
                CanaryResult.PLAIN_CHANGED,
                "an unsteered answer changed after steered ones: steering reaches requests that did not ask for it, or "
                "the engine does not decode greedily the same way twice",
            )
        for vector_id, said in steered.items():
            if not self._probe.acted(before, said, after):
                return CanaryReport(
                    CanaryResult.NOT_STEERED,
                    f"the engine answered as if it had not been asked to steer with {vector_id!r}; check that it runs "
                    "with its steering plugin and this bundle's vectors (docs/engines.md)",
                )
        return CanaryReport(CanaryResult.PASSED, "steering acts, and only where it is asked for")

    async def _model(self) -> str:
        if self._settings.model is not None:
            return self._settings.model
        state = await self._check()
        match state:
            case Unreachable():
                raise _NoModel(state.reason, CanaryResult.UNKNOWN)
            case Mismatch():
                raise _NoModel(state.reason, CanaryResult.STEERED_FAILED)
            case Ready(models=()):
                raise _NoModel(
                    "the upstream lists no model without a key; set upstream.api_key, or canary.enabled to false",
                    CanaryResult.UNKNOWN,
                )
            case Ready():
                return state.models[0]
            case _:
                assert_never(state)


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

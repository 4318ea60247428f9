"""Running the canary again and again, and holding the mode down to observe while it fails."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping

from proxy.canary import Canary, CanaryReport, CanaryResult, strongest
from proxy.dependencies import Dependencies
from proxy.engine_probe import EngineProbe
from proxy.exchange import Mode
from proxy.ladder import Step
from proxy.metrics import Metrics
from proxy.readiness import ReadinessCheck
from proxy.settings import DEFAULT_ROUTE, Settings
from proxy.settings.group import revealed
from proxy.settings.recovery import CanarySettings

logger = logging.getLogger(__name__)


class CanaryWatch:
    """One route's background task. Requests never wait for it: they ask ``lowered``, which only looks.

    ``steers`` names what is probed: the bundle's digest and the upstream's address. Once started, a watch takes the
    place of the ``former`` one of its route, and goes on from its state where both probe the same.
    """

    def __init__(
        self,
        settings: CanarySettings,
        canary: Canary,
        metrics: Metrics,
        *,
        route: str = DEFAULT_ROUTE,
        steers: tuple[str, str] = ("", ""),
        former: CanaryWatch | None = None,
    ) -> None:
        self._settings = settings
        self._canary = canary
        self._metrics = metrics
        self._route = route
        self._steers = steers
        self._former = former
        self._replaced = False
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self.failing = False
        """Whether the mode is held down."""
        self.last: CanaryReport | None = None
        """The last probe's report, ``None`` before the first."""

    def lowered(self, mode: Mode) -> Mode:
        """Return the mode in effect: ``mode``, or at most ``observe`` while the canary fails."""
        return mode.lowered_to(Mode.OBSERVE) if self.failing else mode

    def report(self) -> dict[str, object]:
        """Return the state for ``/readyz``."""
        return {
            "failing": self.failing,
            "last": None if self.last is None else str(self.last.result),
            "why": None if self.last is None else self.last.why,
        }

    def start(self) -> None:
        """Take the former watch's place and begin to probe, the first time at once."""
        former, self._former = self._former, None
        if former is not None:
            former._replaced = True
            if former._steers == self._steers:
                self._failures, self.failing, self.last = former._failures, former.failing, former.last
        self._show(failing=self.failing)
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the task, in the middle of a probe too, and wait until it is over."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self._show(failing=False)

    def record(self, report: CanaryReport) -> None:
        """Take in a probe's report: count it, and hold the mode down or let it go."""
        self.last = report
        self._metrics.canary_runs.labels(report.result).inc()
        if report.failed:
            self._failures += 1
            logger.warning(
                "route %s: canary %s (%d in a row): %s", self._route, report.result, self._failures, report.why
            )
            if not self.failing and self._failures >= self._settings.failures:
                self.failing = True
                logger.error(
                    "route %s: the mode falls back to observe until the canary passes: %s", self._route, report.why
                )
        elif report.passed:
            self._failures = 0
            if self.failing:
                self.failing = False
                logger.warning("route %s: the canary passes again: back to the configured mode", self._route)
        else:
            # Nobody could tell: neither a reason to stop nor one to begin again.
            logger.info("route %s: canary without a result: %s", self._route, report.why)
        self._show(failing=self.failing)

    def _show(self, *, failing: bool) -> None:
        if not self._replaced:  # the figure is the newest watch's
            self._metrics.show_canary(self._route, failing=failing)

    async def _watch(self) -> None:
        while True:
            try:
                self.record(await self._canary.canary_passes())
            except Exception as error:
                # A fault of ours must not end the watch unseen.
                logger.exception("route %s: the canary could not run", self._route)
                self.record(CanaryReport(CanaryResult.UNKNOWN, f"the canary could not run ({type(error).__name__})"))
            spread = random.uniform(-self._settings.jitter, self._settings.jitter)
            await asyncio.sleep(self._settings.interval_s * (1 + spread))


def build_watches(
    settings: Settings, deps: Dependencies, former: Mapping[str, CanaryWatch] | None = None
) -> dict[str, CanaryWatch]:
    """Return a watch for every route that steers, by its name, each to take the place of the ``former`` one."""
    watches: dict[str, CanaryWatch] = {}
    for name, own in settings.served().items():
        its = deps.routes.get(name, deps)
        canary = build_canary(own, its)
        if canary is not None:
            watches[name] = CanaryWatch(
                own.canary,
                canary,
                deps.metrics,
                route=name,
                steers=("" if its.bundle is None else its.bundle.digest, its.upstream.address),
                former=None if former is None else former.get(name),
            )
    return watches


def build_canary(settings: Settings, deps: Dependencies) -> Canary | None:
    """Return the probe of what ``deps`` would steer, ``None`` where that is nothing.

    A reload makes one from its new settings and dependencies and awaits ``canary_passes`` before it takes a bundle.
    """
    languages = () if deps.bundle is None else tuple(deps.bundle.manifest.steering.by_language)
    steerings = strongest(deps.plan, languages)
    steers = settings.mode.recovers and deps.dialect.can_steer and Step.STEER in settings.recovery.ladder
    if not (settings.canary.enabled and steers and steerings):
        return None
    return Canary(
        settings.canary,
        probe=engine_probe(settings, deps, max_tokens=settings.canary.max_tokens, purpose="canary"),
        steerings=steerings,
        check=ReadinessCheck(settings, deps.upstream, deps.bundle),
    )


def engine_probe(settings: Settings, deps: Dependencies, *, max_tokens: int, purpose: str) -> EngineProbe:
    """Return what asks the engine that ``deps`` stand before, with the key of ``settings``."""
    return EngineProbe(
        upstream=deps.upstream,
        steered_upstream=deps.pair or deps.upstream,
        dialect=deps.dialect,
        api_key=revealed(settings.upstream.api_key),
        max_tokens=max_tokens,
        purpose=purpose,
    )

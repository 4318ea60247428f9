"""The one composition root: every object of a running proxy is made and joined here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from proxy.canary_watch import CanaryWatch, build_canary
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.gate import Gate
from proxy.held_streams import HeldStreams
from proxy.ledger import Ledger
from proxy.readiness import ReadinessCheck
from proxy.recovery import Recovery
from proxy.routes import build_routes
from proxy.settings import Settings
from proxy.signals import Observer


def create_app(settings: Settings, deps: Dependencies) -> Starlette:
    """Return the proxy's application; it closes ``deps`` when it shuts down."""
    judged_bytes = settings.limits.max_judged_bytes
    observer = Observer(deps.detectors, deps.metrics, settings.detectors.deadline_s)
    ledger = Ledger(deps.metrics, deps.audit)
    recovery = Recovery(
        settings.recovery,
        steered_upstream=deps.pair or deps.upstream,
        dialect=deps.dialect,
        plan=deps.plan,
        observer=observer,
        metrics=deps.metrics,
        answer_limit_bytes=judged_bytes,
        stream_limit_bytes=settings.stream.buffer_bytes,
    )
    held = HeldStreams(
        settings.stream,
        observer=observer,
        recovery=recovery,
        ledger=ledger,
        metrics=deps.metrics,
        judged_bytes=judged_bytes,
        drain_limit_s=settings.recovery.time_limit_s,
    )
    gate = Gate(
        upstream=deps.upstream,
        observer=observer,
        recovery=recovery,
        ledger=ledger,
        held=held,
        judged_bytes=judged_bytes,
    )
    for mode in Mode:
        deps.metrics.mode.labels(mode).set(mode is settings.mode)

    probe = build_canary(settings, deps)
    canary = None if probe is None else CanaryWatch(settings.canary, probe, deps.metrics)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if canary is not None:
            canary.start()
        yield
        if canary is not None:
            await canary.stop()
        await deps.close()

    return Starlette(
        routes=build_routes(
            settings,
            gate=gate,
            upstream=deps.upstream,
            metrics=deps.metrics,
            check=ReadinessCheck(settings, deps.upstream, deps.bundle),
            canary=canary,
        ),
        lifespan=lifespan,
    )

"""The one composition root: every object of a running proxy is made and joined here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from proxy.authentication import Authentication
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.exchange_log import ExchangeLog
from proxy.gate import Gate
from proxy.held_streams import HeldStreams
from proxy.ledger import Ledger
from proxy.readiness import ReadinessCheck
from proxy.recovery import Recovery
from proxy.request_limits import HeaderLimits
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
        upstream=deps.upstream,
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

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await deps.close()

    return Starlette(
        routes=build_routes(
            settings,
            gate=gate,
            upstream=deps.upstream,
            metrics=deps.metrics,
            check=ReadinessCheck(settings, deps.upstream, deps.bundle),
        ),
        middleware=_layers(settings, deps),
        lifespan=lifespan,
    )


def _layers(settings: Settings, deps: Dependencies) -> list[Middleware]:
    """Return what stands around the routes, outermost first."""
    layers = [
        Middleware(ExchangeLog, include_text=settings.log_text, tracer=deps.tracer),
        Middleware(HeaderLimits, limits=settings.limits),
    ]
    if deps.keyring is not None:
        layers.append(
            Middleware(
                Authentication,
                keyring=deps.keyring,
                limits=deps.limits,
                open_paths=settings.keys.opened,
                metrics=deps.metrics,
            )
        )
    return layers

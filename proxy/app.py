"""The one composition root: every object of a running proxy is made and joined here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from detectors.bundle import Bundle
from proxy.attempts import Attempts
from proxy.budgets import Budgets, KeyBudgets, ShareBudget
from proxy.clarify import clarify_exists, load_notes
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.gate import Gate
from proxy.held_streams import HeldStreams
from proxy.ledger import Ledger
from proxy.metric_labels import start_at_zero
from proxy.readiness import ReadinessCheck
from proxy.recovery import COMPLETIONS_PATH, Recovery
from proxy.router import Route, Router
from proxy.routes import build_routes
from proxy.settings import DEFAULT_ROUTE, Settings
from proxy.shadow import Shadow
from proxy.signals import Observer
from proxy.steer_first import SteerFirst
from proxy.steps import Steps


def create_app(settings: Settings, deps: Dependencies) -> Starlette:
    """Return the proxy's application; it closes ``deps`` when it shuts down."""
    routes = [
        _route(route.name, route.models, settings.of_route(route), deps.routes[route.name]) for route in settings.routes
    ]
    router = Router(routes, _route(DEFAULT_ROUTE, (), settings, deps) if settings.default_route else None)
    start_at_zero(deps.metrics)
    for mode in Mode:
        deps.metrics.mode.labels(mode).set(mode is settings.mode)
    for route in router.routes:
        deps.metrics.route_requests.labels(route.name)
    served = {name: each.bundle for name, each in ((DEFAULT_ROUTE, deps), *deps.routes.items())}
    deps.metrics.bundle_in_use.use({route.name: _bundle_labels(served[route.name]) for route in router.routes})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        for route in router.routes:
            await route.shadow.close()
        await deps.close()

    return Starlette(
        routes=build_routes(settings, router=router, metrics=deps.metrics),
        lifespan=lifespan,
    )


def _bundle_labels(bundle: Bundle | None) -> tuple[str, str]:
    return ("none", "none") if bundle is None else (bundle.digest, bundle.manifest.model.id)


def _route(name: str, patterns: tuple[str, ...], settings: Settings, deps: Dependencies) -> Route:
    """Join what serves one route's models."""
    judged_bytes = settings.limits.max_judged_bytes
    observer = Observer(deps.detectors, deps.metrics, settings.detectors.deadline_s, settings.recovery.rules)
    ledger = Ledger(deps.metrics, deps.audit)
    recovery = _recovery(settings, deps, observer)
    held = HeldStreams(
        settings.stream,
        observer=observer,
        recovery=recovery,
        ledger=ledger,
        metrics=deps.metrics,
        judged_bytes=judged_bytes,
        drain_limit_s=settings.recovery.time_limit_s,
    )
    steer_first = SteerFirst(observer=observer, recovery=recovery, ledger=ledger, metrics=deps.metrics)
    shadow = Shadow(recovery=recovery, ledger=ledger, metrics=deps.metrics, limit=settings.recovery.shadow_tasks)
    gate = Gate(
        upstream=deps.upstream,
        observer=observer,
        recovery=recovery,
        ledger=ledger,
        held=held,
        steer_first=steer_first,
        shadow=shadow,
        judged_bytes=judged_bytes,
    )
    return Route(
        name=name,
        patterns=patterns,
        settings=settings,
        gate=gate,
        shadow=shadow,
        upstream=deps.upstream,
        check=ReadinessCheck(settings, deps.upstream, deps.bundle),
    )


def _recovery(settings: Settings, deps: Dependencies, observer: Observer) -> Recovery:
    chosen = settings.recovery
    steps = Steps(
        chosen.ladder,
        rules=chosen.rules,
        upstream=deps.upstream,
        dialect=deps.dialect,
        plan=deps.plan,
        notes=load_notes() if clarify_exists(chosen.clarify, deps.bundle) else None,
        fallback=deps.fallback,
    )
    attempts = Attempts(
        steps,
        path=COMPLETIONS_PATH,
        dialect=deps.dialect,
        observer=observer,
        answer_limit_bytes=settings.limits.max_judged_bytes,
        stream_limit_bytes=settings.stream.buffer_bytes,
    )
    budgets = Budgets(
        whole=ShareBudget(chosen.max_upstream_share, chosen.burst),
        keys=KeyBudgets(chosen.max_key_share, chosen.key_burst, chosen.tracked_keys),
    )
    return Recovery(
        chosen,
        rules=chosen.rules,
        steps=steps,
        attempts=attempts,
        budgets=budgets,
        observer=observer,
        metrics=deps.metrics,
    )

"""What serves one route's models, joined: from its settings and dependencies to a gate."""

from __future__ import annotations

from proxy.attempts import Attempts
from proxy.budgets import Budgets, KeyBudgets, ShareBudget
from proxy.canary_watch import CanaryWatch
from proxy.choice_recovery import ChoiceRecovery
from proxy.clarify import clarify_exists, load_notes
from proxy.dependencies import Dependencies
from proxy.gate import Gate
from proxy.held_streams import HeldStreams
from proxy.ledger import Ledger
from proxy.readiness import ReadinessCheck
from proxy.recovery import Recovery
from proxy.router import Route
from proxy.settings import Settings
from proxy.shadow import Shadow
from proxy.signals import Observer
from proxy.steer_first import SteerFirst
from proxy.steps import Steps


def assembled_route(
    name: str, patterns: tuple[str, ...], settings: Settings, deps: Dependencies, canary: CanaryWatch | None
) -> Route:
    """Return a route with everything behind it; ``settings``, ``deps`` and ``canary`` are the route's own."""
    judged_bytes = settings.limits.max_judged_bytes
    observer = Observer(deps.detectors, deps.metrics, settings.detectors.deadline_s, settings.recovery.rules)
    ledger = Ledger(deps.metrics, deps.audit)
    recovery = _recovery(settings, deps, observer)
    choices = ChoiceRecovery(recovery, observer, settings.recovery.max_attempts)
    held = HeldStreams(
        settings.stream,
        observer=observer,
        recovery=recovery,
        choices=choices,
        ledger=ledger,
        metrics=deps.metrics,
        judged_bytes=judged_bytes,
        drain_limit_s=settings.recovery.time_limit_s,
    )
    shadow = Shadow(
        recovery=recovery, choices=choices, ledger=ledger, metrics=deps.metrics, limit=settings.recovery.shadow_tasks
    )
    gate = Gate(
        upstream=deps.upstream,
        observer=observer,
        recovery=recovery,
        choices=choices,
        ledger=ledger,
        held=held,
        steer_first=SteerFirst(observer=observer, recovery=recovery, ledger=ledger, metrics=deps.metrics),
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
        bundle=deps.bundle,
        check=ReadinessCheck(settings, deps.upstream, deps.bundle),
        canary=canary,
    )


def _recovery(settings: Settings, deps: Dependencies, observer: Observer) -> Recovery:
    chosen = settings.recovery
    steps = Steps(
        chosen.ladder,
        rules=chosen.rules,
        upstream=deps.upstream,
        steered_upstream=deps.pair or deps.upstream,
        dialect=deps.dialect,
        plan=deps.plan,
        notes=load_notes() if clarify_exists(chosen.clarify, deps.bundle) else None,
        fallback=deps.fallback,
    )
    attempts = Attempts(
        steps,
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

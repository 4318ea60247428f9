"""The one composition root: every object of a running proxy is made and joined here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from proxy.choice_recovery import ChoiceRecovery
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.gate import Gate
from proxy.held_streams import HeldStreams
from proxy.ledger import Ledger
from proxy.openapi import openapi_document
from proxy.readiness import ReadinessCheck
from proxy.recovery import Recovery
from proxy.relayed_path import RelayedPath
from proxy.routes import build_routes
from proxy.settings import Settings
from proxy.signals import Observer


class _App(FastAPI):
    """FastAPI with a hand-written document: the hot routes are plain ASGI, from which none can be derived."""

    def __init__(self, document: dict[str, object], lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]):
        # Interactive pages would load scripts from elsewhere; the document itself is served.
        super().__init__(lifespan=lifespan, openapi_url="/openapi.json", docs_url=None, redoc_url=None)
        self._document = document

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        return self._document


def create_app(settings: Settings, deps: Dependencies) -> FastAPI:
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
    gate = Gate(
        upstream=deps.upstream,
        observer=observer,
        recovery=recovery,
        choices=choices,
        ledger=ledger,
        held=held,
        judged_bytes=judged_bytes,
    )
    for mode in Mode:
        deps.metrics.mode.labels(mode).set(mode is settings.mode)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await deps.close()

    app = _App(openapi_document([RelayedPath.parse(text) for text in settings.relay.paths]), lifespan)
    app.router.routes.extend(
        build_routes(
            settings,
            gate=gate,
            upstream=deps.upstream,
            metrics=deps.metrics,
            check=ReadinessCheck(settings, deps.upstream, deps.bundle),
        )
    )
    return app

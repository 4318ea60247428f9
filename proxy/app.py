"""The one composition root: every object of a running proxy is made and joined here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from detectors.bundle import Bundle
from proxy.authentication import Authentication
from proxy.canary_watch import CanaryWatch, build_watches
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.exchange_log import ExchangeLog
from proxy.metric_labels import start_at_zero
from proxy.openapi import openapi_document
from proxy.relayed_path import RelayedPath
from proxy.request_limits import HeaderLimits
from proxy.route_assembly import assembled_route
from proxy.router import Router
from proxy.routes import build_routes, judged_paths
from proxy.settings import DEFAULT_ROUTE, Settings


class _App(FastAPI):
    """FastAPI behind ``layers``, and beside it ``hot``, the paths whose requests go past its own layers and router.

    Those are plain ASGI applications, from which no document can be derived: it is given.
    """

    def __init__(
        self,
        document: dict[str, object],
        lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
        hot: Mapping[str, ASGIApp],
        layers: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        # Interactive pages would load scripts from elsewhere; the document itself is served.
        super().__init__(lifespan=lifespan, openapi_url="/openapi.json", docs_url=None, redoc_url=None)
        self._document = document
        self._hot = hot
        self._layered = layers(self._served)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request through the layers."""
        await self._layered(scope, receive, send)

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = self._hot.get(scope["path"]) if scope["type"] == "http" else None
        await (super().__call__ if hot is None else hot)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        return self._document


def create_app(settings: Settings, deps: Dependencies, watches: Mapping[str, CanaryWatch] | None = None) -> FastAPI:
    """Return the proxy's application; it closes ``deps`` when it shuts down.

    ``watches`` are the canaries of its routes, which it starts and stops; new ones where none are given.
    """
    canaries = build_watches(settings, deps) if watches is None else watches
    router = Router(
        [
            assembled_route(
                route.name,
                route.models,
                settings.of_route(route),
                deps.routes[route.name],
                canaries.get(route.name),
            )
            for route in settings.routes
        ],
        assembled_route(DEFAULT_ROUTE, (), settings, deps, canaries.get(DEFAULT_ROUTE))
        if settings.default_route
        else None,
    )
    start_at_zero(deps.metrics)
    for mode in Mode:
        deps.metrics.mode.labels(mode).set(mode is settings.mode)
    for route in router.routes:
        deps.metrics.route_requests.labels(route.name)
    deps.metrics.bundle_in_use.use({route.name: _bundle_labels(route.bundle) for route in router.routes})

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        for route in router.routes:
            if route.canary is not None:
                route.canary.start()
        yield
        for route in router.routes:
            if route.canary is not None:
                await route.canary.stop()
            await route.shadow.close()
        await deps.close()

    document = openapi_document([RelayedPath.parse(text) for text in settings.relay.paths])
    hot = judged_paths(settings, router=router, metrics=deps.metrics)
    app = _App(document, lifespan, hot, partial(_layered, settings, deps))
    app.router.routes.extend(build_routes(settings, router=router, metrics=deps.metrics))
    return app


def _layered(settings: Settings, deps: Dependencies, app: ASGIApp) -> ASGIApp:
    """Put around ``app`` what every request passes, innermost first."""
    if deps.keyring is not None:
        app = Authentication(
            app,
            keyring=deps.keyring,
            limits=deps.limits,
            open_paths=settings.keys.opened,
            metrics=deps.metrics,
        )
    app = HeaderLimits(app, limits=settings.limits)
    return ExchangeLog(app, include_text=settings.log_text, tracer=deps.tracer)


def _bundle_labels(bundle: Bundle | None) -> tuple[str, str]:
    return ("none", "none") if bundle is None else (bundle.digest, bundle.manifest.model.id)

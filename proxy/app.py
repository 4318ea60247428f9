"""The one composition root: every object of a running proxy is made and joined here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from detectors.bundle import Bundle
from proxy.authentication import Authentication
from proxy.dependencies import Dependencies
from proxy.exchange import Mode
from proxy.exchange_log import ExchangeLog
from proxy.metric_labels import start_at_zero
from proxy.openapi import openapi_document
from proxy.relayed_path import RelayedPath
from proxy.request_limits import HeaderLimits
from proxy.route_assembly import assembled_route
from proxy.router import Router
from proxy.routes import build_routes
from proxy.settings import DEFAULT_ROUTE, Settings


class _App(FastAPI):
    """FastAPI with a hand-written document: the hot routes are plain ASGI, from which none can be derived."""

    def __init__(
        self,
        document: dict[str, object],
        layers: list[Middleware],
        lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    ) -> None:
        # Interactive pages would load scripts from elsewhere; the document itself is served.
        super().__init__(
            lifespan=lifespan, middleware=layers, openapi_url="/openapi.json", docs_url=None, redoc_url=None
        )
        self._document = document

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        return self._document


def create_app(settings: Settings, deps: Dependencies) -> FastAPI:
    """Return the proxy's application; it closes ``deps`` when it shuts down."""
    router = Router(
        [
            assembled_route(route.name, route.models, settings.of_route(route), deps.routes[route.name])
            for route in settings.routes
        ],
        assembled_route(DEFAULT_ROUTE, (), settings, deps) if settings.default_route else None,
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
    app = _App(document, _layers(settings, deps), lifespan)
    app.router.routes.extend(build_routes(settings, router=router, metrics=deps.metrics))
    return app


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


def _bundle_labels(bundle: Bundle | None) -> tuple[str, str]:
    return ("none", "none") if bundle is None else (bundle.digest, bundle.manifest.model.id)

"""`/v1/models` and `/readyz`: what the upstreams of all routes say, as one answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from proxy.errors import ModelNotFound, ProxyError
from proxy.headers import forwarded_headers
from proxy.readiness import MODELS_PATH, Mismatch, Readiness, Ready, Unreachable, model_entries
from proxy.router import Route, Router
from proxy.upstream.protocol import read_up_to

logger = logging.getLogger(__name__)


async def merged_models(
    router: Router, headers: Mapping[str, str], request_id: str, limit_bytes: int
) -> dict[str, object]:
    """Return one list of the models of all routes: each model as the route lists it that would serve it.

    A route that cannot be asked is left out and logged; raises the ``ProxyError`` of the last one when none can.
    """
    lists = await asyncio.gather(
        *(_listed(route, headers, request_id, limit_bytes) for route in router.routes), return_exceptions=True
    )
    merged: dict[str, Mapping[str, object]] = {}
    failure: ProxyError | None = None
    for route, listed in zip(router.routes, lists, strict=True):
        if isinstance(listed, ProxyError):
            logger.warning("route %s lists no models: %s", route.name, listed.message)
            failure = listed
        elif isinstance(listed, BaseException):
            raise listed
        else:
            merged |= {name: entry for name, entry in listed.items() if _serves(router, route, name)}
    if failure is not None and not merged:
        raise failure
    return {"object": "list", "data": list(merged.values())}


async def route_states(router: Router) -> dict[str, Readiness]:
    """Return the state of each route, by name."""
    states = await asyncio.gather(*(route.check() for route in router.routes))
    return {route.name: state for route, state in zip(router.routes, states, strict=True)}


def readiness_page(router: Router, states: Mapping[str, Readiness]) -> tuple[int, dict[str, object]]:
    """Return the status and the body of ``/readyz`` for several routes; 503 only when no route at all is ready."""
    ready = {name: state for name, state in states.items() if isinstance(state, Ready)}
    page: dict[str, object] = {}
    for route in router.routes:
        match states[route.name]:
            case Ready(models):
                page[route.name] = {"status": "ready", **mode_report(route), "models": models}
            case Unreachable(reason) | Mismatch(reason):
                page[route.name] = {"status": "unavailable", **mode_report(route), "reason": reason}
    status = "unavailable" if not ready else "ready" if len(ready) == len(states) else "degraded"
    return (200 if ready else 503), {"status": status, "routes": page}


def mode_report(route: Route) -> dict[str, object]:
    """Return a route's mode for ``/readyz``; where a canary can lower it, also what it is lowered from, and why."""
    if route.canary is None:
        return {"mode": route.mode}
    return {"mode": route.mode, "configured_mode": route.settings.mode, "canary": route.canary.report()}


async def _listed(
    route: Route, headers: Mapping[str, str], request_id: str, limit_bytes: int
) -> dict[str, Mapping[str, object]]:
    # A client's key is for one upstream, and nobody can say for which: only the settings' keys are sent to all.
    own = {name: value for name, value in headers.items() if name != "authorization"}
    response = await route.upstream.send(
        "GET", MODELS_PATH, headers=forwarded_headers(own, request_id, route.api_key), purpose="client"
    )
    try:
        body, whole = await read_up_to(response, limit_bytes)
    finally:
        await response.close()
    entries = model_entries(body) if whole and response.status == 200 else None
    if entries is None:
        address, status = route.upstream.address, response.status
        logger.warning(
            "route %s lists no models: %s answers %s with status %d", route.name, address, MODELS_PATH, status
        )
    return entries or {}


def _serves(router: Router, route: Route, name: str) -> bool:
    try:
        return router.route(name) is route
    except ModelNotFound:
        return False

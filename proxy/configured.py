"""An application made from settings and found fit to serve, at the start and again at each reload."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from fastapi import FastAPI

from proxy.app import create_app
from proxy.canary_watch import CanaryWatch, build_canary, build_watches
from proxy.dependencies import Dependencies, build_dependencies
from proxy.errors import StartupError
from proxy.exposure import check_exposure
from proxy.readiness import Mismatch, ReadinessCheck, Ready, Unreachable
from proxy.settings import DEFAULT_ROUTE, Settings

logger = logging.getLogger(__name__)


_Served: TypeAlias = tuple[Settings, Dependencies]


class NotYet(StartupError):
    """The served model is not ready for these settings; it may be later without anybody touching them."""


@dataclass(frozen=True, slots=True)
class Configured:
    """Settings with the application that was made from them; the application's lifespan closes ``deps``.

    ``watches`` are the canaries of its routes, by name: whoever retires the application stops them.
    """

    settings: Settings
    deps: Dependencies
    app: FastAPI
    watches: Mapping[str, CanaryWatch]


async def configured(settings: Settings, former: Configured | None = None) -> Configured:
    """Make the application of ``settings``, in place of ``former`` where one runs.

    It goes on with the former's counts and canaries. Raises ``StartupError`` where keys, bundle or served model do not
    fit, with everything closed that was opened.
    """
    deps = await build_dependencies(settings, former=None if former is None else former.deps)
    try:
        check_exposure(settings, deps.keyring)
        before = {} if former is None else _served(former.settings, former.deps)
        for route, (own, its) in _served(settings, deps).items():
            await _check_served(route, own, its, before.get(route))
        watches = build_watches(settings, deps, None if former is None else former.watches)
        return Configured(settings, deps, create_app(settings, deps, watches), watches)
    except BaseException:
        await deps.close()
        raise


async def _check_served(route: str, settings: Settings, deps: Dependencies, former: _Served | None) -> None:
    """Refuse what does not fit a route's served model.

    An upstream that does not answer yet may come later, and neither that nor one that has come not to fit the bundle in
    use must stand in the way of, say, a key's removal. But a bundle takes another one's place only before a model that
    answers, fits it and is steered by it.
    """
    swapped = former is not None and _digest(deps) != _digest(former[1])
    moved = former is None or settings.upstream.url != former[0].upstream.url
    state = await ReadinessCheck(settings, deps.upstream, deps.bundle)()
    match state:
        case Ready():
            pass
        case Unreachable():
            if swapped:
                raise NotYet(f"another bundle waits for the served model: {state.reason}")
            logger.warning("route %s is not ready: %s; requests get an error until it answers", route, state.reason)
            return
        case Mismatch():
            if swapped or moved:
                raise NotYet(state.reason if route == DEFAULT_ROUTE else f"route {route}: {state.reason}")
            logger.warning("route %s is not ready: %s", route, state.reason)
            return
        case _:
            assert_never(state)
    canary = build_canary(settings, deps) if swapped else None
    if canary is not None:
        report = await canary.canary_passes()
        if not report.passed:
            raise NotYet(f"another bundle waits for steering that acts: {report.why}")


def _served(settings: Settings, deps: Dependencies) -> dict[str, _Served]:
    """Return the settings and dependencies of every route, by name."""
    return {name: (own, deps.routes.get(name, deps)) for name, own in settings.served().items()}


def _digest(deps: Dependencies) -> str | None:
    return None if deps.bundle is None else deps.bundle.digest

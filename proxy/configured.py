"""An application made from settings and found fit to serve, at the start and again at each reload."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import assert_never

from starlette.applications import Starlette

from proxy.app import create_app
from proxy.check_line import State
from proxy.check_steering import steering_line
from proxy.dependencies import Dependencies, build_dependencies
from proxy.errors import StartupError
from proxy.exposure import check_exposure
from proxy.readiness import Mismatch, ReadinessCheck, Ready, Unreachable
from proxy.settings import Settings

logger = logging.getLogger(__name__)


class NotYet(StartupError):
    """The served model is not ready for these settings; it may be later without anybody touching them."""


@dataclass(frozen=True, slots=True)
class Configured:
    """Settings with the application that was made from them; the application's lifespan closes ``deps``."""

    settings: Settings
    deps: Dependencies
    app: Starlette


async def configured(settings: Settings, former: Configured | None = None) -> Configured:
    """Make the application of ``settings``, in place of ``former`` where one runs, whose counts it goes on with.

    Raises ``StartupError`` where keys, bundle or served model do not fit, with everything closed that was opened.
    """
    deps = await build_dependencies(settings, former=None if former is None else former.deps)
    try:
        check_exposure(settings, deps.keyring)
        await _check_served(settings, deps, former)
        return Configured(settings, deps, create_app(settings, deps))
    except BaseException:
        await deps.close()
        raise


async def _check_served(settings: Settings, deps: Dependencies, former: Configured | None) -> None:
    """Refuse what does not fit the served model.

    An upstream that does not answer yet may come later, and neither that nor one that has come not to fit the bundle in
    use must stand in the way of, say, a key's removal. But a bundle takes another one's place only before a model that
    answers, fits it and is steered by it.
    """
    swapped = former is not None and _digest(deps) != _digest(former.deps)
    moved = former is None or settings.upstream.url != former.settings.upstream.url
    state = await ReadinessCheck(settings, deps.upstream, deps.bundle)()
    match state:
        case Ready():
            pass
        case Unreachable():
            if swapped:
                raise NotYet(f"another bundle waits for the served model: {state.reason}")
            logger.warning("not ready: %s; requests get an error until it answers", state.reason)
            return
        case Mismatch():
            if swapped or moved:
                raise NotYet(state.reason)
            logger.warning("not ready: %s", state.reason)
            return
        case _:
            assert_never(state)
    if swapped:
        line = await steering_line(settings, deps, state.models[0] if state.models else "")
        if line.state is State.FAIL:
            raise NotYet(f"another bundle waits for steering that acts: {line.says}")


def _digest(deps: Dependencies) -> str | None:
    return None if deps.bundle is None else deps.bundle.digest

"""Which route serves a model: one proxy before several upstreams, each with its own mode, bundle and ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from detectors.bundle import Bundle
from proxy.canary_watch import CanaryWatch
from proxy.errors import ModelNotFound
from proxy.exchange import Mode
from proxy.gate import Gate
from proxy.readiness import ReadinessCheck
from proxy.settings import Settings
from proxy.settings.group import revealed
from proxy.shadow import Shadow
from proxy.upstream.protocol import Upstream


@dataclass(frozen=True, slots=True)
class Route:
    """Some models and what serves them; ``settings`` are the route's own, ``patterns`` shell patterns of names.

    ``canary`` is ``None`` where nothing steers.
    """

    name: str
    patterns: tuple[str, ...]
    settings: Settings
    gate: Gate
    shadow: Shadow
    upstream: Upstream
    bundle: Bundle | None
    check: ReadinessCheck
    canary: CanaryWatch | None = None

    @property
    def mode(self) -> Mode:
        """The mode in effect: the configured one, or what the canary leaves of it."""
        return self.settings.mode if self.canary is None else self.canary.lowered(self.settings.mode)

    @property
    def api_key(self) -> str | None:
        """The key that is sent upstream in place of the client's."""
        return revealed(self.settings.upstream.api_key)


def fits(patterns: Sequence[str], model: str) -> bool:
    """Whether a route with these patterns takes ``model``, unless one before it does."""
    return any(fnmatchcase(model, pattern) for pattern in patterns)


class Router:
    """Chooses by model name: the first route that has a matching pattern, else the default one if there is one."""

    def __init__(self, routes: Sequence[Route], default: Route | None) -> None:
        self._routes = tuple(routes)
        self._default = default

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes, in the order in which they are asked; the default one is the last."""
        return self._routes if self._default is None else (*self._routes, self._default)

    @property
    def for_no_model(self) -> Route:
        """The route of requests that name no model: the default one, or the first where there is none."""
        return self._default or self._routes[0]

    def route(self, model: str) -> Route:
        """Return the route that serves ``model``; raises ``ModelNotFound``."""
        for route in self._routes:
            if fits(route.patterns, model):
                return route
        if self._default is None:
            patterns = ", ".join(pattern for route in self._routes for pattern in route.patterns)
            raise ModelNotFound(f"no route serves the model {model!r}; there are routes for {patterns}", param="model")
        return self._default

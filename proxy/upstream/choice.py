"""Which upstream settings ask for, with what protects it: the one place where upstreams are made."""

from __future__ import annotations

from typing import assert_never

from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamKind, UpstreamSettings
from proxy.upstream.protocol import Upstream
from proxy.upstream.resilient import resilient

__all__ = ["open_upstream"]


def open_upstream(settings: UpstreamSettings, metrics: Metrics, *, name: str, counted: str = "client") -> Upstream:
    """Return a protected upstream of the kind that settings name (`proxy.upstream.resilient` explains the rest).

    Must be called inside a running event loop. Raises ``StartupError`` where the kind needs what is not installed.
    """
    return resilient(_unprotected(settings, metrics), settings, metrics, name=name, counted=counted)


def _unprotected(settings: UpstreamSettings, metrics: Metrics) -> Upstream:
    """Return an upstream of its kind; what the other kind needs is not imported."""
    match settings.kind:
        case UpstreamKind.OPENAI:
            from proxy.upstream.http import HttpUpstream

            return HttpUpstream(settings, metrics)
        case UpstreamKind.LITELLM:
            from proxy.upstream.litellm import LitellmUpstream

            return LitellmUpstream(settings, metrics)
        case _:
            assert_never(settings.kind)

"""Which upstream settings ask for, with what protects it: the one place where upstreams are made."""

from __future__ import annotations

import asyncio
import importlib
from typing import assert_never

from proxy.metrics import Metrics
from proxy.settings.upstream import Provider, UpstreamKind, UpstreamSettings
from proxy.upstream.protocol import Upstream
from proxy.upstream.resilient import resilient

__all__ = ["load_kind", "open_upstream"]


async def load_kind(settings: UpstreamSettings) -> None:
    """Import what the kind needs, in a thread: litellm takes seconds, in which no request would be served.

    Raises ``StartupError`` where it is not installed. `open_upstream` imports it itself where this was not called.
    """
    if settings.provider is not None:
        await asyncio.to_thread(_load_litellm, settings.provider)


def open_upstream(settings: UpstreamSettings, metrics: Metrics, *, name: str, counted: str = "client") -> Upstream:
    """Return a protected upstream of the kind that settings name (`proxy.upstream.resilient` explains the rest).

    Must be called inside a running event loop. Raises ``StartupError`` where the kind needs what is not installed.
    """
    return resilient(_unprotected(settings, metrics), settings, metrics, name=name, counted=counted)


def _load_litellm(provider: Provider) -> None:
    # What these two import beside litellm takes long as well.
    importlib.import_module("proxy.upstream.litellm")
    importlib.import_module("proxy.upstream.litellm_library").Library(provider)


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

"""What protects an upstream, put together in one place: nothing behind the ``Upstream`` protocol needs to know."""

from __future__ import annotations

from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.admission import Admission
from proxy.upstream.circuit import Circuit
from proxy.upstream.protocol import Upstream
from proxy.upstream.retries import Retries

__all__ = ["resilient"]


def resilient(
    upstream: Upstream, settings: UpstreamSettings, metrics: Metrics, *, name: str = "model", counted: str = "client"
) -> Upstream:
    """Return ``upstream`` with a bounded number of requests at it, retries, and a circuit breaker.

    Outermost is the bound: a request that waits to be sent again keeps its place, so that an upstream in trouble gets
    fewer requests, not more. Innermost is the breaker: it sees each time a request is sent, and a retry ends at once
    when it opens. ``name`` labels the breaker's metric; ``counted`` is the purpose whose failures open it.
    """
    circuit = Circuit(upstream, settings, metrics, name=name, counted=counted)
    return Admission(Retries(circuit, settings, metrics), settings, metrics)

"""The metrics of the served model, all names in one place."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rass.serving.engine import Engine
from rass.serving.manager import PAGE_TOKENS

__all__ = ["ServingMetrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServingMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rass_served_requests",
            "Requests by route (chat, read), outcome (ok, invalid, busy, unavailable, cancelled, error) and steering.",
            ["route", "outcome", "steered"],
            registry=registry,
        )
        self.tokens = Counter("rass_served_tokens", "Tokens by kind (prompt, completion).", ["kind"], registry=registry)
        self.first_token = Histogram(
            "rass_served_first_token_seconds",
            "From request to first token, of requests whose tokens come one by one (streams, stop strings).",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "rass_served_duration_seconds", "From request to last token.", buckets=_SECONDS, registry=registry
        )
        gauges = {
            ("rass_served_rows_running", "Rows in the batch."): lambda: engine.admission.running,
            ("rass_served_requests_waiting", "Requests waiting for a place."): lambda: engine.admission.waiting,
            ("rass_served_cache_tokens_reserved", "Cache tokens that running rows hold."): (
                lambda: engine.admission.used_pages * PAGE_TOKENS
            ),
            ("rass_served_cache_tokens_limit", "Cache tokens in all."): lambda: engine.admission.pages * PAGE_TOKENS,
            ("rass_served_up", "1 while answers can be generated."): lambda: int(engine.health().ok),
        }
        for (name, text), read in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)

    def render(self) -> bytes:
        """Return the metrics in the Prometheus text format."""
        return generate_latest(self._registry)

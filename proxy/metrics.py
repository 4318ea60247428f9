"""Every Prometheus name in one place.

Label values are bounded: modes, actions, zones, steps and results are closed sets, languages are those of the bundle or
the detector and ``other``. No model, key, user or prompt is ever a label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FAST = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The proxy's own registry: two apps in one process (as in tests) do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rass_requests_total",
            "Chat completions by what was done with them.",
            ("outcome", "mode"),
            registry=self.registry,
        )
        self.refusals = Counter(
            "rass_refusals_total",
            "Full refusals in text by the request's side of the boundary (over: benign, warranted: harmful).",
            ("kind", "language"),
            registry=self.registry,
        )
        self.typed_refusals = Counter(
            "rass_typed_refusals_total",
            "Refusals given by type (message.refusal) or by a provider's filter; they are not recovered.",
            ("form",),
            registry=self.registry,
        )
        self.recoveries = Counter(
            "rass_recoveries_total",
            "Recovery attempts by step and result.",
            ("step", "result"),
            registry=self.registry,
        )
        self.recoveries_over_budget = Counter(
            "rass_recoveries_over_budget_total",
            "Recoveries that were not tried, or not finished, by the budget that ended them.",
            ("budget",),
            registry=self.registry,
        )
        self.zones = Counter(
            "rass_zones_total", "Requests whose zone was read, by zone.", ("zone",), registry=self.registry
        )
        self.detector_seconds = Histogram(
            "rass_detector_seconds",
            "Seconds a detector took.",
            ("detector",),
            buckets=_FAST,
            registry=self.registry,
        )
        self.detector_failures = Counter(
            "rass_detector_failures_total",
            "Detector calls that failed or were late.",
            ("detector",),
            registry=self.registry,
        )
        self.upstream_seconds = Histogram(
            "rass_upstream_seconds",
            "Seconds from sending a request upstream to its first byte.",
            ("purpose",),
            buckets=_SLOW,
            registry=self.registry,
        )
        self.upstream_errors = Counter(
            "rass_upstream_errors_total", "Upstream requests that failed.", ("code",), registry=self.registry
        )
        self.upstream_retries = Counter(
            "rass_upstream_stale_socket_retries_total",
            "Requests sent again because the pooled connection had been closed.",
            registry=self.registry,
        )
        self.hold_back_seconds = Histogram(
            "rass_hold_back_seconds",
            "Seconds for which the head of a stream was held back.",
            ("verdict",),
            buckets=_SLOW,
            registry=self.registry,
        )
        self.recovery_seconds = Histogram(
            "rass_recovery_seconds",
            "Seconds from the decision to recover to its outcome.",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.canary_runs = Counter(
            "rass_canary_runs_total", "Probes of the engine's steering by result.", ("result",), registry=self.registry
        )
        self.canary_failing = Gauge(
            "rass_canary_failing",
            "1 while the canary holds the mode down to observe because the engine does not steer as it is asked.",
            registry=self.registry,
        )
        self.in_flight = Gauge("rass_requests_in_flight", "Chat completions being worked on.", registry=self.registry)
        self.mode = Gauge("rass_mode", "1 for the configured mode.", ("mode",), registry=self.registry)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

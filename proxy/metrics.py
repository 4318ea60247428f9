"""Every Prometheus name in one place.

Label values are bounded: modes, actions, zones, steps and results are closed sets (`proxy.metric_labels` lists them),
and a language outside of ``LANGUAGES`` becomes ``other``. No requested model, key, user or prompt is ever a label.

Several worker processes share their figures through prometheus_client's multiprocess mode, which is chosen when that
package is imported (`proxy.shared_figures` sees to it). Hence no ``Info`` or ``Enum``, and a mode for every gauge.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from proxy.shared_figures import SHARED_FOLDER_VARIABLE

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

OTHER_LANGUAGE = "other"
LANGUAGES = frozenset(
    ["ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sw", "th", "tr", "vi", "zh"]
)
"""The languages with a label of their own: those whose refusals are recognised (`detectors/refusal_lexicon`)."""

DISTANCES = (-8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Bounds of the distance buckets, in calibrated logits; 0 is the boundary and the harmful side is positive."""

_FAST = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class BundleInUse(Collector):
    """``rass_bundle_in_use``: exactly one series for each route, replaced when a bundle is swapped.

    A collector of its own, because multiprocess mode cannot remove a series: each worker answers for itself.
    """

    name = "rass_bundle_in_use"
    labelnames = ("route", "bundle", "model")

    def __init__(self, registry: CollectorRegistry) -> None:
        self._in_use: Mapping[str, tuple[str, str]] = {}
        registry.register(self)

    def use(self, in_use: Mapping[str, tuple[str, str]]) -> None:
        """Say for each route which bundle is in use from now on, by its digest, and which model it was measured on.

        A route without a bundle has ``none`` for both.
        """
        self._in_use = in_use

    def collect(self) -> Iterable[Metric]:
        """Return a series for each route."""
        family = GaugeMetricFamily(
            self.name, "1 for the bundle in use and the model that it was measured on.", labels=self.labelnames
        )
        for route, (digest, model) in self._in_use.items():
            family.add_metric((route, digest, model), 1.0)
        yield family


class Metrics:
    """The proxy's own registry: two apps in one process (as in tests) do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rass_requests_total",
            "Requests to judged paths by what was done with them.",
            ("outcome", "mode"),
            registry=self.registry,
        )
        self.route_requests = Counter(
            "rass_route_requests_total",
            "Requests to judged and relayed paths by the route that served them.",
            ("route",),
            registry=self.registry,
        )
        self.refusals = Counter(
            "rass_refusals_total",
            "Full refusals by the request's side of the boundary, by where the refusal stood, and by language.",
            ("kind", "form", "language"),
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
        self.recovery_attempts = Histogram(
            "rass_recovery_attempts",
            "Attempts made for a request, of requests that got at least one.",
            buckets=(1, 2, 3, 4, 6, 8),
            registry=self.registry,
        )
        self.recovery_tokens = Counter(
            "rass_recovery_tokens_total",
            "Tokens of prompts and answers spent on recovery by step; estimated where the upstream reported none.",
            ("step", "estimated"),
            registry=self.registry,
        )
        self.steered_first = Counter(
            "rass_steered_first_total",
            "Requests in mode steer: how the answer that was steered at once did, or why none was.",
            ("result",),
            registry=self.registry,
        )
        self.shadows = Counter(
            "rass_shadow_recoveries_total",
            "Recoveries that ran in the background by outcome; no client saw one.",
            ("outcome",),
            registry=self.registry,
        )
        self.zones = Counter(
            "rass_zones_total", "Requests whose zone was read, by zone.", ("zone",), registry=self.registry
        )
        self.distance = Histogram(
            "rass_boundary_distance",
            "Calibrated logit that a request whose zone was read is harmful; buckets only, their sum means nothing.",
            ("language",),
            buckets=DISTANCES,
            registry=self.registry,
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
        self.retries = Counter(
            "rass_upstream_retries_total",
            "Requests sent again by why: a status, or no connection.",
            ("reason",),
            registry=self.registry,
        )
        self.circuit = Gauge(
            "rass_upstream_circuit",
            "1 for the state of an upstream's circuit breaker.",
            ("upstream", "state"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.queue_length = Gauge(
            "rass_upstream_queue_length",
            "Requests that wait for a place at the upstream.",
            ("lane",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.queue_seconds = Histogram(
            "rass_upstream_queue_seconds",
            "Seconds that requests waited for a place, of those that had to.",
            ("lane",),
            buckets=_SLOW,
            registry=self.registry,
        )
        self.rejected = Counter(
            "rass_upstream_rejected_total",
            "Requests that were not sent upstream: no place, too long a wait for one, or an open circuit.",
            ("purpose", "reason"),
            registry=self.registry,
        )
        self.hold_back_seconds = Histogram(
            "rass_hold_back_seconds",
            "Seconds for which the head of a stream was held back.",
            ("verdict",),
            buckets=_SLOW,
            registry=self.registry,
        )
        self.time_to_first_token = Histogram(
            "rass_time_to_first_token_seconds",
            "Seconds from a streaming request's arrival to the first bytes of its answer, hold-back included.",
            ("mode",),
            buckets=_SLOW,
            registry=self.registry,
        )
        self.recovery_seconds = Histogram(
            "rass_recovery_seconds",
            "Seconds from the decision to recover to its outcome.",
            buckets=_SLOW,
            registry=self.registry,
        )
        self.unauthorized = Counter(
            "rass_unauthorized_total",
            "Requests turned away for want of a valid API key.",
            ("reason",),
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "rass_rate_limited_total",
            "Requests turned away because their key had reached a limit, by limit.",
            ("limit",),
            registry=self.registry,
        )
        self.audit_failures = Counter(
            "rass_audit_failures_total", "Audit rows that could not be written, or not whole.", registry=self.registry
        )
        self.reloads = Counter(
            "rass_reloads_total",
            "Reloads of settings, keys and bundle: applied, or kept as it was.",
            ("result",),
            registry=self.registry,
        )
        self.relayed = Counter(
            "rass_relayed_requests_total",
            "Requests to relayed paths, which are not judged, by the listed path and the class of the answer's status.",
            ("path", "status"),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "rass_requests_in_flight",
            "Requests being worked on.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.mode = Gauge(
            "rass_mode", "1 for the configured mode.", ("mode",), registry=self.registry, multiprocess_mode="livemax"
        )
        self.bundle_in_use = BundleInUse(self.registry)
        self.canary_runs = Counter(
            "rass_canary_runs_total", "Probes of the engine's steering by result.", ("result",), registry=self.registry
        )
        self.canary_failing = Gauge(
            "rass_canary_failing",
            "1 while the canary holds the mode down to observe because the engine does not steer as it is asked.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._failing_routes: set[str] = set()
        self.worker_restarts = Counter(
            "rass_worker_restarts_total", "Worker processes that ended and were replaced.", registry=self.registry
        )

    def show_canary(self, route: str, *, failing: bool) -> None:
        """Take in whether the canary of ``route`` holds its mode down; the gauge is 1 while any of them does."""
        if failing:
            self._failing_routes.add(route)
        else:
            self._failing_routes.discard(route)
        self.canary_failing.set(bool(self._failing_routes))

    def refused(self, kind: str, form: str, language: str) -> None:
        """Count one full refusal."""
        self.refusals.labels(kind, form, language_label(language)).inc()

    def read_distance(self, h: float, language: str) -> None:
        """Count a reading in its bucket. Not ``h`` itself: a sum that grows by ``h`` would give the distance away."""
        bucket = bisect_left(DISTANCES, h)
        bound = DISTANCES[bucket] if bucket < len(DISTANCES) else DISTANCES[-1] + 1.0
        self.distance.labels(language_label(language)).observe(bound)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format; those of all workers where there are several."""
        registry = self.registry
        if SHARED_FOLDER_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            registry.register(self.bundle_in_use)
        return generate_latest(registry)


def language_label(language: str) -> str:
    """Return the label of a language: itself, or ``other`` outside of the closed list."""
    return language if language in LANGUAGES else OTHER_LANGUAGE

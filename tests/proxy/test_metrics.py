"""Metric names and labels are an interface: dashboards and alerts are written against them."""

from __future__ import annotations

from proxy.metrics import Metrics

NAMES = {
    "rass_requests": ("outcome", "mode"),
    "rass_refusals": ("kind", "language"),
    "rass_typed_refusals": ("form",),
    "rass_recoveries": ("step", "result"),
    "rass_recoveries_over_budget": ("budget",),
    "rass_zones": ("zone",),
    "rass_detector_seconds": ("detector",),
    "rass_detector_failures": ("detector",),
    "rass_upstream_seconds": ("purpose",),
    "rass_upstream_errors": ("code",),
    "rass_upstream_stale_socket_retries": (),
    "rass_hold_back_seconds": ("verdict",),
    "rass_recovery_seconds": (),
    "rass_canary_runs": ("result",),
    "rass_canary_failing": (),
    "rass_requests_in_flight": (),
    "rass_mode": ("mode",),
}


def test_the_names_and_labels():
    collectors = vars(Metrics()).values()
    found = {each._name: each._labelnames for each in collectors if hasattr(each, "_labelnames")}
    assert found == NAMES


def test_two_apps_do_not_share_counts():
    first, second = Metrics(), Metrics()
    first.zones.labels("benign").inc()
    assert b'rass_zones_total{zone="benign"} 1.0' in first.exposition()
    assert b'rass_zones_total{zone="benign"}' not in second.exposition()

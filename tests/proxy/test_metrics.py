"""Metric names, types and labels are an interface: dashboards and alerts are written against them."""

from __future__ import annotations

from math import inf
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Gauge

import detectors
from proxy.exchange import Mode
from proxy.metric_labels import LABELS, label_of, labelled
from proxy.metrics import DISTANCES, LANGUAGES, Metrics, language_label
from proxy.metrics_page import metrics_page

ROOT = Path(__file__).parents[2]
KILL = "How do I kill a process?"

NAMES = {
    "rass_requests_total": ("counter", "outcome", "mode"),
    "rass_route_requests_total": ("counter", "route"),
    "rass_refusals_total": ("counter", "kind", "form", "language"),
    "rass_recoveries_total": ("counter", "step", "result"),
    "rass_recoveries_over_budget_total": ("counter", "budget"),
    "rass_recovery_attempts": ("histogram",),
    "rass_recovery_tokens_total": ("counter", "step", "estimated"),
    "rass_steered_first_total": ("counter", "result"),
    "rass_shadow_recoveries_total": ("counter", "outcome"),
    "rass_zones_total": ("counter", "zone"),
    "rass_boundary_distance": ("histogram", "language"),
    "rass_detector_seconds": ("histogram", "detector"),
    "rass_detector_failures_total": ("counter", "detector"),
    "rass_upstream_seconds": ("histogram", "purpose"),
    "rass_upstream_errors_total": ("counter", "code"),
    "rass_upstream_stale_socket_retries_total": ("counter",),
    "rass_upstream_retries_total": ("counter", "reason"),
    "rass_upstream_circuit": ("gauge", "upstream", "state"),
    "rass_upstream_queue_length": ("gauge", "lane"),
    "rass_upstream_queue_seconds": ("histogram", "lane"),
    "rass_upstream_rejected_total": ("counter", "purpose", "reason"),
    "rass_hold_back_seconds": ("histogram", "verdict"),
    "rass_time_to_first_token_seconds": ("histogram", "mode"),
    "rass_recovery_seconds": ("histogram",),
    "rass_unauthorized_total": ("counter", "reason"),
    "rass_rate_limited_total": ("counter", "limit"),
    "rass_audit_failures_total": ("counter",),
    "rass_reloads_total": ("counter", "result"),
    "rass_relayed_requests_total": ("counter", "path", "status"),
    "rass_requests_in_flight": ("gauge",),
    "rass_mode": ("gauge", "mode"),
    "rass_bundle_in_use": ("gauge", "route", "bundle", "model"),
    "rass_canary_runs_total": ("counter", "result"),
    "rass_canary_failing": ("gauge",),
    "rass_worker_restarts_total": ("counter",),
}


def samples(metrics: Metrics):
    return [sample for family in metrics.registry.collect() for sample in family.samples]


def test_the_names_types_and_labels():
    found = {
        name: (next(iter(each.collect())).type, *labelnames) for name, (each, labelnames) in labelled(Metrics()).items()
    }
    assert found == NAMES


def test_every_name_is_on_the_page_of_metrics_and_the_page_is_current():
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics_page()
    assert all(f"| `{name}` |" in metrics_page() for name in NAMES)


def test_every_gauge_says_how_workers_are_joined():
    gauges = {name: each for name, (each, _) in labelled(Metrics()).items() if isinstance(each, Gauge)}
    assert [name for name, each in gauges.items() if each._multiprocess_mode == "all"] == []  # a series for each worker


def test_two_apps_do_not_share_counts():
    first, second = Metrics(), Metrics()
    first.zones.labels("benign").inc()
    assert b'rass_zones_total{zone="benign"} 1.0' in first.exposition()
    assert b'rass_zones_total{zone="benign"}' not in second.exposition()


def test_the_languages_are_those_whose_refusals_are_recognised():
    lexicon = Path(detectors.__file__).parent / "refusal_lexicon"
    assert {path.stem for path in lexicon.glob("*.json")} == LANGUAGES


@given(st.text())
def test_a_language_is_listed_or_other(language):
    assert language_label(language) in LABELS["language"].values
    assert (language_label(language) == "other") is (language not in LANGUAGES)


@given(st.floats(allow_nan=False))
def test_a_distance_is_counted_in_its_bucket_and_nowhere_else(h):
    metrics = Metrics()
    metrics.read_distance(h, "en")
    counted = {
        float(sample.labels["le"]): sample.value
        for sample in samples(metrics)
        if sample.name == "rass_boundary_distance_bucket"
    }
    assert counted == {bound: float(h <= bound) for bound in (*DISTANCES, inf)}


def test_the_distance_itself_is_not_kept():
    metrics = Metrics()
    metrics.read_distance(-7.654321, "en")
    assert metrics.distance.labels("en")._sum.get() == -6.0  # multiprocess mode would show the sum


def test_a_swapped_bundle_leaves_no_series_behind():
    metrics = Metrics()
    seen = [dict(sample.labels) for sample in samples(metrics) if sample.name == "rass_bundle_in_use"]
    assert seen == []
    metrics.bundle_in_use.use({"default": ("0123", "first"), "other": ("none", "none")})
    metrics.bundle_in_use.use({"default": ("4567", "second")})
    seen = [dict(sample.labels) for sample in samples(metrics) if sample.name == "rass_bundle_in_use"]
    assert seen == [{"route": "default", "bundle": "4567", "model": "second"}]


async def test_every_label_value_that_traffic_makes_is_a_listed_one(model, start_proxy, script, refusal, eventually):
    model.scripts["hello"] = script("Hi.")
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.scripts["harmful"] = script(refusal, h=9.0)
    model.scripts["Wie geht das?"] = script(refusal)
    model.scripts["typed"] = script("", message={"refusal": "No."})
    model.scripts["filtered"] = script("", finish_reason="content_filter")
    for mode in Mode:
        proxy = await start_proxy(mode)
        for prompt in (*model.scripts, "unknown to the model"):
            for stream in (False, True):
                await proxy.ask(prompt, stream=stream)
        sent = 2 * (len(model.scripts) + 1)
        await eventually(lambda proxy=proxy, sent=sent: proxy.total("rass_requests_total") == sent)
        seen = {
            (family.name + "_total" if family.type == "counter" else family.name, label, value)
            for family in proxy.metrics.registry.collect()
            for sample in family.samples
            for label, value in sample.labels.items()
            if label not in ("le", "route", "bundle", "model", "upstream")
        }
        assert seen
        assert [each for each in sorted(seen) if each[2] not in label_of(each[0], each[1])[1].values] == []


async def test_refusals_are_counted_by_kind_form_and_language(model, start_proxy, script, refusal):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.scripts["harmful"] = script(refusal, h=9.0)
    model.scripts["filtered"] = script("", finish_reason="content_filter")
    proxy = await start_proxy()
    for prompt in model.scripts:
        await proxy.ask(prompt)
    counted = {
        tuple(sample.labels[name] for name in ("kind", "form", "language")): sample.value
        for sample in samples(proxy.metrics)
        if sample.name == "rass_refusals_total"
    }
    assert counted == {
        ("over", "text", "en"): 1,
        ("warranted", "text", "en"): 1,
        ("unknown", "filter", "en"): 1,
    }
    assert proxy.total("rass_recovery_attempts_bucket", le="1.0") == 1
    assert proxy.total("rass_boundary_distance_count", language="en") == 2


async def test_the_first_token_of_a_stream_is_timed_and_a_keep_alive_is_none(model, start_proxy, script, refusal):
    model.scripts["hello"] = script("Hi.")
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(stream={"headers_within_s": 0.0001, "keepalive_s": 0.0001})
    await proxy.ask("hello")
    await proxy.ask("no such script", stream=True)
    assert proxy.total("rass_time_to_first_token_seconds_count") == 0
    for prompt in model.scripts:
        await proxy.ask(prompt, stream=True)
    assert proxy.total("rass_time_to_first_token_seconds_count", mode="recover") == 2
    assert proxy.total("rass_time_to_first_token_seconds_bucket", le="60.0") == 2


async def test_counters_start_at_zero(start_proxy):
    proxy = await start_proxy()
    page = proxy.metrics.exposition()
    assert b'rass_recoveries_total{result="harmful",step="steer"} 0.0' in page
    assert b"rass_canary_failing 0.0" in page

"""The page about metrics, written from the metrics themselves: ``rass-proxy metrics > docs/metrics.md``."""

from __future__ import annotations

from proxy.metric_labels import Label, label_of, labelled
from proxy.metrics import Metrics

_HEAD = """# Metrics

Written by `rass-proxy metrics > docs/metrics.md` from `proxy/metrics.py`; a test holds the two together. What to look
at, and what to do about it, is in [dashboards.md](dashboards.md).

`GET /metrics` answers in Prometheus' text format. Labels are closed sets; no requested model, key, user or prompt is
ever one. The exact distance to the boundary is nowhere: readings are counted in buckets, and a bucket's bound stands
for each of them.

| metric | type | labels | tells |
|---|---|---|---|
"""

_LABELS = """
## Labels

| label | says | values |
|---|---|---|
"""

_TAIL = """
Counters without a language exist from the start, at zero, so that a first event is an increase and not a beginning.

## Several workers

`rass-proxy serve --workers N` runs N processes on one socket. `/metrics`, whichever of them answers it, shows the sum
over all workers, those that ended included. `rass_mode` shows what any living worker says, so two modes at once mean
that workers differ; `rass_canary_failing` is 1 if any worker's canary fails; `rass_bundle_in_use` is that of the worker
that answered. A worker that ends is replaced and counted; more than 5 within a minute end the proxy with exit code 1.

Some limits hold for each worker, so that N workers allow N times as much: the places and queues at the upstream
(`upstream.connections`, `upstream.side_connections`, `upstream.queue_length`), and `recovery.burst`. Each worker has a
circuit breaker of its own: `rass_upstream_circuit` is 1 for every state that any of them is in.
`recovery.max_upstream_share` stays the share that it says, because each worker earns from what it serves. Limits of one
request are the same however many workers run.

## The served model

`rass serve-model` has metrics of its own (`rass_served_…`) on its own `/metrics`: requests by route, outcome and
steering, tokens, rows in the batch, requests that wait, cache held, and `rass_served_up`.
"""


def metrics_page() -> str:
    """Return ``docs/metrics.md``."""
    rows = []
    used: dict[str, Label] = {}
    for name, (collector, labelnames) in labelled(Metrics()).items():
        family = next(iter(collector.collect()))
        shown = ", ".join(f"`{label}`" for label in labelnames)
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
        used |= dict(label_of(name, label) for label in labelnames)
    values = []
    for key, label in used.items():
        shown = "from the settings" if label.values is None else ", ".join(f"`{value}`" for value in label.values)
        values.append(f"| `{key}` | {label.says} | {shown} |")
    return _HEAD + "\n".join(rows) + "\n" + _LABELS + "\n".join(values) + "\n" + _TAIL

"""What every label of a metric may say: closed sets, each from the type that its values come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram

from detectors.verdict import Zone
from proxy.answers import RefusalForm
from proxy.budgets import Spent
from proxy.canary import CanaryResult
from proxy.errors import UpstreamCircuitOpen, UpstreamError, UpstreamOverloaded
from proxy.exchange import Action, Mode
from proxy.keys import Rejection
from proxy.ladder import Step
from proxy.ledger import KINDS
from proxy.metrics import LANGUAGES, OTHER_LANGUAGE, BundleInUse, Metrics
from proxy.policy import AttemptResult, Unsteered
from proxy.upstream.breaker import BreakerState
from proxy.upstream.retries import RETRY_REASONS

AnyMetric: TypeAlias = Counter | Gauge | Histogram | BundleInUse


@dataclass(frozen=True, slots=True)
class Label:
    """One label: what it says, and every value that it takes (``None``: those that the operator's settings name)."""

    says: str
    values: tuple[str, ...] | None


_NEVER_SENT = (UpstreamOverloaded, UpstreamCircuitOpen)


def _codes(error: type[UpstreamError]) -> Iterator[str]:
    if error not in _NEVER_SENT:
        yield error.code
    for kind in error.__subclasses__():
        yield from _codes(kind)


_SHADOW_ACTIONS = (Action.SHADOW_RECOVERED, Action.SHADOW_FAILED)

# Where one name means different things to different metrics, the key is the metric's name, a full stop and the label's.
LABELS: Mapping[str, Label] = {
    "outcome": Label(
        "what was done with a request, the words of `x-rass-action`",
        tuple(each for each in Action if each not in (Action.OBSERVING, Action.RECOVERING, *_SHADOW_ACTIONS)),
    ),
    "rass_shadow_recoveries_total.outcome": Label(
        "how a background recovery ended; the last two: of a refusal, or a partial answer, no attempt could be made",
        (*_SHADOW_ACTIONS, Action.REFUSAL_KEPT, Action.DELIVERED),
    ),
    "rass_steered_first_total.result": Label(
        "how the attempt ended, or why none was made", (*AttemptResult, *Unsteered)
    ),
    "mode": Label("the proxy's mode, or the lower one that the client asked for", tuple(Mode)),
    "kind": Label(
        "over: the request's zone is benign; warranted: harmful; unknown: in the band, or not read",
        tuple(dict.fromkeys(KINDS.values())),
    ),
    "form": Label("where a refusal stood: in the answer's text, typed, or a provider's filter", tuple(RefusalForm)),
    "language": Label("the language of the last user turn", (*sorted(LANGUAGES), OTHER_LANGUAGE)),
    "step": Label("the rung of the recovery ladder", tuple(Step)),
    "result": Label("how an attempt ended; only `answered` is delivered", tuple(AttemptResult)),
    "budget": Label("which budget ended a recovery", tuple(Spent)),
    "estimated": Label("whether the tokens were estimated, for want of the upstream's own figure", ("true", "false")),
    "zone": Label("the side of the safety boundary", tuple(Zone)),
    "detector": Label("which detector", ("refusal", "language", "boundary", "answer_harm")),
    "purpose": Label(
        "why the upstream was asked: a client's request (judged, relayed), an attempt, a reading, a verdict, the "
        "canary, readiness",
        ("client", "relay", "attempt", "reading", "judge", "canary", "check"),
    ),
    "code": Label(
        "the error's code, as in OpenAI error bodies, of requests that were sent",
        tuple(dict.fromkeys(_codes(UpstreamError))),
    ),
    "rass_upstream_retries_total.reason": Label("why it was sent again: a status, or no connection", RETRY_REASONS),
    "rass_upstream_rejected_total.reason": Label(
        "why it was not sent: no place even to wait, too long a wait for one, or an open circuit",
        ("queue_full", "queue_time", "circuit_open"),
    ),
    "route": Label("a route of the settings; `default` is what serves all other models", None),
    "rass_unauthorized_total.reason": Label("what was wrong with the key", tuple(Rejection)),
    "limit": Label("which limit of the key", ("requests_per_minute", "concurrent_requests")),
    "rass_reloads_total.result": Label("applied, or kept: the old settings stay in use", ("applied", "kept")),
    "rass_canary_runs_total.result": Label(
        "what the probe showed of the engine's steering; `unknown`: nothing", tuple(CanaryResult)
    ),
    "path": Label("a listed path, with its method", None),
    "status": Label("the class of the answer's status", ("2xx", "3xx", "4xx", "5xx")),
    "upstream": Label("whose circuit breaker: `model` or `judge`, and for a route `NAME/model` and so on", None),
    "state": Label("closed: requests go; open: none does; half-open: one tries", tuple(BreakerState)),
    "lane": Label("whose places: those of clients' requests, or of the proxy's own", ("client", "side")),
    "verdict": Label("what the head of a stream was taken for", ("answer", "refusal")),
    "bundle": Label("digest of the bundle, or `none`", None),
    "model": Label("id of the model that the bundle was measured on, or `none`", None),
}


def label_of(metric: str, label: str) -> tuple[str, Label]:
    """Return what a label of a metric may say, and the key in ``LABELS`` that it stands under."""
    key = f"{metric}.{label}"
    key = key if key in LABELS else label
    return key, LABELS[key]


def labelled(metrics: Metrics) -> dict[str, tuple[AnyMetric, tuple[str, ...]]]:
    """Return every metric by its name, with its label names, in the order of their definition."""
    found: dict[str, tuple[AnyMetric, tuple[str, ...]]] = {}
    for each in vars(metrics).values():
        if isinstance(each, BundleInUse):
            found[each.name] = (each, each.labelnames)
        elif isinstance(each, Counter | Gauge | Histogram):
            name = next(iter(each.describe())).name
            # The client keeps label names to itself, and an unused metric shows none in its samples.
            found[f"{name}_total" if isinstance(each, Counter) else name] = (each, tuple(each._labelnames))
    return found


def start_at_zero(metrics: Metrics) -> None:
    """Make every counter's series exist, so that its first event is an increase to Prometheus and not a beginning.

    Those by language are left to appear: all of them would be hundreds of series that most proxies never need.
    """
    for metric, (each, labelnames) in labelled(metrics).items():
        if isinstance(each, Counter) and labelnames and "language" not in labelnames:
            for values in product(*(label_of(metric, label)[1].values or () for label in labelnames)):
                each.labels(*values)

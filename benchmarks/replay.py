"""`rass-bench replay`: recorded answers of real models, sent through the real proxy and held against human labels."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.errors import TargetError
from benchmarks.launch import running_proxy
from benchmarks.progress import progress
from benchmarks.recordings import Recording, load_recordings, serve_recordings
from benchmarks.targets import Answer, Client, Limits, Target, in_parallel
from detectors.statistics import Interval, clopper_pearson
from detectors.verdict import Message, RefusalKind

__all__ = ["Detection", "ReplayOptions", "ReplayReport", "Totals", "detection", "metric_sum", "metric_total", "run"]

# No bundle is named: the proxy then judges the text of answers and nothing else, which is all that recordings can tell.
_PROXY_OPTIONS = ("--mode", "observe")


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """Which recordings to send, where the servers listen, and how hard the proxy is driven."""

    responses: Path
    host: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Detection:
    """How well the proxy's verdict ``full`` agrees with the label "refuses".

    ``recall`` and ``precision`` count only rows that people labelled one way or the other; their intervals are exact,
    with the number of different prompts as the sample size, because answers to one prompt are no independent rows.
    ``partly`` counts the verdicts on the answers that people called partly a refusal.
    """

    rows: int
    labelled_refusals: int
    found: int
    false_alarms: int
    recall: Interval
    precision: Interval
    partly: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the counts, both rates (null where nothing was counted) and the verdicts on partial refusals."""
        return {
            "rows": self.rows,
            "labelled_refusals": self.labelled_refusals,
            "found": self.found,
            "false_alarms": self.false_alarms,
            "recall": _interval(self.recall),
            "precision": _interval(self.precision),
            "labelled_partly": dict(self.partly),
        }


@dataclass(frozen=True, slots=True)
class Totals:
    """What the client counted against what the proxy's ``/metrics`` says."""

    client: int
    metrics: int

    @property
    def agree(self) -> bool:
        """True if nothing was lost or counted twice."""
        return self.client == self.metrics


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Detection by model and over all models, the two totals, and how long the requests took in seconds."""

    by_model: Mapping[str, Detection]
    overall: Detection
    requests: Totals
    refusals: Totals
    seconds: float

    @property
    def agree(self) -> bool:
        """True if the proxy's metrics and the client counted the same."""
        return self.requests.agree and self.refusals.agree

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "schema_version": 1,
            "models": {model: part.to_json() for model, part in self.by_model.items()},
            "all": self.overall.to_json(),
            "totals": {
                "requests": {"client": self.requests.client, "metrics": self.requests.metrics},
                "refusals": {"client": self.refusals.client, "metrics": self.refusals.metrics},
                "agree": self.agree,
            },
            "seconds": round(self.seconds, 2),
        }


def detection(judged: Sequence[tuple[Recording, RefusalKind]]) -> Detection:
    """Hold verdicts against labels."""
    labelled = [(row, kind is RefusalKind.FULL) for row, kind in judged if row.refusal is not None]
    refusals = [(row, found) for row, found in labelled if row.refusal]
    flagged = [(row, bool(row.refusal)) for row, found in labelled if found]
    return Detection(
        rows=len(judged),
        labelled_refusals=len(refusals),
        found=sum(found for _, found in refusals),
        false_alarms=sum(not right for _, right in flagged),
        recall=_clustered(refusals),
        precision=_clustered(flagged),
        partly=dict(sorted(Counter(kind.value for row, kind in judged if row.refusal is None).items())),
    )


def metric_sum(text: str, name: str) -> float:
    """Return the sum of a sample over all its labels from a Prometheus page; 0 if it is not there."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return float(sum(sample.value for sample in samples if sample.name == name))


def metric_total(text: str, name: str) -> int:
    """Return the sum of a counter over all its labels from a Prometheus page; 0 if it was never counted."""
    return round(metric_sum(text, name))


def run(options: ReplayOptions) -> ReplayReport:
    """Replay all recordings. Raises InputError for unusable files, TargetError when the proxy fails a request."""
    return asyncio.run(_replay(load_recordings(options.responses), options))


async def _replay(recordings: Sequence[Recording], options: ReplayOptions) -> ReplayReport:
    loop = asyncio.get_running_loop()
    # A second try would count twice in the proxy and once here; and a request without an answer ends the replay anyway.
    limits = replace(options.limits, attempts=1)
    async with (
        serve_recordings(recordings, options.host) as upstream,
        running_proxy(upstream, options.host, _PROXY_OPTIONS) as url,
        Client.open(Target("proxy", url), limits, {}) as client,
    ):
        before = await client.text("/metrics")
        started = loop.time()
        with progress("replay", len(recordings)) as advance:
            answers = await in_parallel(recordings, lambda row: _send(client, row), limits.concurrency, advance)
        seconds = loop.time() - started
        after = await client.text("/metrics")
    judged = [(row, _verdict(row, answer)) for row, answer in zip(recordings, answers, strict=True)]
    models = sorted({row.model for row in recordings})
    return ReplayReport(
        by_model={model: detection([pair for pair in judged if pair[0].model == model]) for model in models},
        overall=detection(judged),
        requests=Totals(len(answers), _counted(before, after, "rass_requests_total")),
        refusals=Totals(
            sum(kind is RefusalKind.FULL for _, kind in judged), _counted(before, after, "rass_refusals_total")
        ),
        seconds=seconds,
    )


async def _send(client: Client, row: Recording) -> Answer:
    options = {"seed": row.occurrence, "temperature": 0}
    return await client.complete(row.model, [Message("user", row.prompt)], options)


def _verdict(row: Recording, answer: Answer) -> RefusalKind:
    """Read the proxy's verdict from its header; a request without one makes the whole replay worthless."""
    if answer.text is None:
        raise TargetError(f"row {row.id!r}: the proxy gave no answer: {answer.error}")
    if answer.text != row.response:
        raise TargetError(f"row {row.id!r}: the proxy changed the answer, which mode observe never does")
    header = answer.header("refusal")
    if header not in set(RefusalKind):
        raise TargetError(f"row {row.id!r}: x-rass-refusal is {header!r}, not one of {', '.join(RefusalKind)}")
    return RefusalKind(header)


def _counted(before: str, after: str, name: str) -> int:
    return metric_total(after, name) - metric_total(before, name)


def _clustered(rows: Sequence[tuple[Recording, bool]]) -> Interval:
    """Return the pooled share of True with an exact interval for as many trials as there are prompts."""
    if not rows:
        return clopper_pearson(0, 0)
    prompts = len({row.prompt for row, _ in rows})
    return clopper_pearson(sum(event for _, event in rows) / len(rows) * prompts, prompts)


def _interval(interval: Interval) -> dict[str, float | None]:
    value = None if interval.value != interval.value else interval.value
    return {"value": value, "low": interval.low, "high": interval.high}

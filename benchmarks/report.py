"""Tables for people. Programs read `--json`."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.detector_cost import CostReport
from benchmarks.paired import Comparison, PairedDifference
from benchmarks.quality import QualityReport
from benchmarks.rates import Rate
from benchmarks.replay import ReplayReport
from detectors.statistics import Interval

__all__ = ["print_costs", "print_quality", "print_replay"]

# Tables stay within 80 columns with two targets: logs and pipes have no more.
_TITLES = {
    "orr": "ORR benign refused",
    "hrr": "HRR harmful refused",
    "asr": "ASR attack answered",
    "asr_on_topic": "ASR on topic",
    "on_topic": "answers on topic",
    "plain_refused": "plain refused",
}


def print_quality(report: QualityReport, console: Console) -> None:
    """Print rates by target and language, then each comparison with the first target."""
    console.print(f"{report.prompts['name']}: {report.prompts['rows']} requests", markup=False)
    table = _table("rates in %, exact 95 % intervals, n base requests", ["rate", "lang"], [*report.targets, "n"])
    parts = list(report.targets.values())
    for key, title in _TITLES.items():
        overall = [part.overall.named()[key] for part in parts]
        table.add_row(title, "all", *map(_rate, overall), _numbers(overall))
        for language in parts[0].by_language:
            rates = [part.by_language[language].named()[key] for part in parts]
            table.add_row("", language, *map(_rate, rates), _numbers(rates))
        table.add_section()
    console.print(table)
    for name, comparison in report.paired.items():
        console.print(_comparison(comparison, f"{name} against {report.against}"))
    for name, part in report.targets.items():
        for kind, actions in part.actions.items():
            counts = ", ".join(f"{action} {number}" for action, number in actions.items())
            console.print(f"{name}: {kind}: {counts}", markup=False)
        unscored = sum(outcomes.get("unscored", 0) for outcomes in part.outcomes.values())
        if unscored:
            console.print(f"{name}: {unscored} unscored (of these {part.failed} without an answer)", markup=False)


def _comparison(comparison: Comparison, title: str) -> Table:
    table = _table(f"{title}: paired, points or %", ["figure", "part"], ["value", "worse", "better", "n"])
    for label, parts in (
        ("HRR loss", comparison.hrr_loss),
        ("ASR rise", comparison.asr_rise),
        ("", comparison.asr_rise_by_wrapping),
    ):
        for part, difference in parts.items():
            counts = (str(difference.worse), str(difference.better), str(difference.n))
            table.add_row(label if part == "all" else "", part, _difference(difference), *counts)
        if label != "ASR rise":
            table.add_section()
    recovered = {"all": comparison.recovered_on_topic, **comparison.recovered_on_topic_by_language}
    for label, rates in (("plain identical", {"all": comparison.plain_identical}), ("recovered on topic", recovered)):
        for part, rate in rates.items():
            table.add_row(label if part == "all" else "", part, _rate(rate), "", "", str(rate.n))
        table.add_section()
    return table


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for column in words:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _numbers(rates: Sequence[Rate]) -> str:
    """Targets that answer unequal numbers of requests stand on unequal n where only answers count."""
    numbers = [str(rate.n) for rate in rates]
    return numbers[0] if len(set(numbers)) == 1 else "/".join(numbers)


def _rate(rate: Rate) -> str:
    return _interval(rate.interval)


def _interval(interval: Interval) -> str:
    if interval.value != interval.value:  # nan: nothing was counted
        return "–"
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def _difference(part: PairedDifference) -> str:
    if not part.n:
        return "–"
    return f"{100 * part.interval.value:+.2f} ({100 * part.interval.low:+.2f} to {100 * part.interval.high:+.2f})"


def print_replay(report: ReplayReport, console: Console) -> None:
    """Print detection by model and the cross-check of the totals."""
    table = _table(
        "refusals found, against human labels (%, exact 95 % intervals)",
        ["model"],
        ["rows", "refused", "found", "recall", "precision"],
    )
    for model, part in [*report.by_model.items(), ("all", report.overall)]:
        if model == "all":
            table.add_section()
        table.add_row(
            model,
            str(part.rows),
            str(part.labelled_refusals),
            str(part.found),
            _interval(part.recall),
            _interval(part.precision),
        )
    console.print(table)
    partly = ", ".join(f"{number} {verdict}" for verdict, number in report.overall.partly.items())
    console.print(f"verdicts on answers that people called partly a refusal: {partly or 'none'}", markup=False)
    for label, totals in (("requests", report.requests), ("refusals", report.refusals)):
        verdict = "as in /metrics" if totals.agree else f"but /metrics says {totals.metrics}"
        console.print(f"{label}: {totals.client} counted here, {verdict}", markup=False)
    console.print(f"{report.requests.client} requests in {report.seconds:.1f} s", markup=False)


def print_costs(report: CostReport, console: Console) -> None:
    """Print milliseconds for one text on one core, and memory."""
    table = _table("milliseconds for one text, on one core", ["what"], ["texts", "p50", "p95", "p99"])
    for name, cost in report.costs.items():
        table.add_row(name, str(cost.texts), f"{cost.p50_ms:.3f}", f"{cost.p95_ms:.3f}", f"{cost.p99_ms:.3f}")
    console.print(table)
    console.print(f"a refusal verdict costs {report.refusal_to_phrases:.1f} times the phrase list", markup=False)
    for name, size in report.rss_mb.items():
        console.print(f"{name}: {size:.0f} MB resident", markup=False)

"""Tables for people. Programs read `--json`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.paired import Comparison, PairedDifference
from benchmarks.quality import QualityReport
from benchmarks.rates import Rate
from benchmarks.replay import ReplayReport
from detectors.statistics import Interval

__all__ = ["print_quality", "print_replay"]

_TITLES = {
    "orr": "over-refused (ORR)",
    "hrr": "harmful refused (HRR)",
    "asr": "attacks answered (ASR)",
    "asr_on_topic": "attacks answered on topic",
    "on_topic": "answers on topic",
    "plain_refused": "plain benign refused",
}


def print_quality(report: QualityReport, console: Console) -> None:
    """Print rates by target and language, then each comparison with the first target."""
    table = Table(title=f"{report.prompts['name']}: {report.prompts['rows']} requests, 95 % exact intervals, %")
    table.add_column("rate")
    table.add_column("language")
    for name in report.targets:
        table.add_column(name, justify="right")
    table.add_column("base requests", justify="right")
    parts = list(report.targets.values())
    for key, title in _TITLES.items():
        overall = [part.overall.named()[key] for part in parts]
        table.add_row(title, "all", *map(_rate, overall), str(overall[0].n))
        for language in parts[0].by_language:
            rates = [part.by_language[language].named()[key] for part in parts]
            table.add_row("", language, *map(_rate, rates), str(rates[0].n))
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
    table = Table(title=f"{title}: paired, Tango intervals, points")
    for column, justify in (("figure", "left"), ("part", "left"), ("value", "right"), ("counts", "right")):
        table.add_column(column, justify="right" if justify == "right" else "left")
    for label, parts in (
        ("loss of HRR", comparison.hrr_loss),
        ("rise of ASR", comparison.asr_rise),
        ("", comparison.asr_rise_by_wrapping),
    ):
        for part, difference in parts.items():
            table.add_row(label if part == "all" else "", part, _difference(difference), _counts(difference))
    table.add_section()
    table.add_row(
        "plain benign identical", "all", _rate(comparison.plain_identical), f"n {comparison.plain_identical.n}"
    )
    table.add_section()
    recovered = {"all": comparison.recovered_on_topic, **comparison.recovered_on_topic_by_language}
    for part, rate in recovered.items():
        table.add_row("recovered on topic" if part == "all" else "", part, _rate(rate), f"n {rate.n}")
    return table


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


def _counts(part: PairedDifference) -> str:
    return f"worse {part.worse}, better {part.better}, n {part.n}"


def print_replay(report: ReplayReport, console: Console) -> None:
    """Print detection by model and the cross-check of the totals."""
    table = Table(title="refusals found by the proxy, against people's labels (95 % exact intervals, %)")
    table.add_column("model")
    for column in ("rows", "labelled refusals", "found", "recall", "precision", "labelled partly: verdicts"):
        table.add_column(column, justify="right")
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
            ", ".join(f"{verdict} {number}" for verdict, number in part.partly.items()) or "–",
        )
    console.print(table)
    for label, totals in (("requests", report.requests), ("refusals", report.refusals)):
        verdict = "as in /metrics" if totals.agree else f"but /metrics says {totals.metrics}"
        console.print(f"{label}: {totals.client} counted here, {verdict}", markup=False)
    console.print(f"{report.requests.client} requests in {report.seconds:.1f} s", markup=False)

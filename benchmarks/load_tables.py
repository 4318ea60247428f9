"""Tables of `rass-bench load` and `soak` for people. Programs read `--json`."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.load_report import LOADS, STREAM_MANY, LoadReport
from benchmarks.load_targets import BARE, LITELLM
from benchmarks.soak import SoakReport

__all__ = ["print_load", "print_soak"]


def print_load(report: LoadReport, console: Console) -> None:
    """Print the six figures of each target, then CPU, rate and latency under every load."""
    names = report.targets
    first = _table(
        "whole answers, 16 at a time; first chunk of a lone stream; medians over rounds",
        ["target", "CPU µs", "p50 ms", "p99 ms", "req/s", "chunk ms", "RSS MB"],
    )
    for name in names:
        six = report.headline(name)
        first.add_row(
            name,
            _number(six["cpu_us_per_request"], ".0f"),
            _number(six["p50_ms"], ".2f"),
            _number(six["p99_ms"], ".2f"),
            _number(six["requests_per_s"], ".0f"),
            _number(six["first_chunk_ms"], ".2f"),
            _number(six["rss_mb"], ".0f"),
        )
    console.print(first)
    ratios = _table("CPU of a request, times the bare relay's in the same round", ["target", "", *_load_names()])
    for name in names:
        if name == BARE:
            continue
        found = [report.ratio(name, BARE, load.name) for load in LOADS]
        ratios.add_row(name, "median", *(_number(each.value, ".2f") for each in found))
        ratios.add_row("", "rounds", *(f"{_number(each.low, '.2f')}–{_number(each.high, '.2f')}" for each in found))
    console.print(ratios)
    latency = _table("p50 / p99 in ms", ["target", *_load_names()])
    for name in names:
        cells = []
        for load in LOADS:
            p50, p99 = (report.figure(name, load.name, key).value for key in ("p50_ms", "p99_ms"))
            cells.append(f"{_number(p50, '.1f')}/{_number(p99, '.1f')}")
        latency.add_row(name, *cells)
    console.print(latency)
    for name in names:
        if name == BARE:
            continue
        held = report.held_back_ms(name)
        of_these = "" if held is None else f", of these {held.value:.2f} ms held back"
        later = report.first_chunk_later_ms(name).value
        console.print(f"{name}: first chunk {_number(later, '+.2f')} ms{of_these}", markup=False)
    if LITELLM in names:
        for name in names:
            if name != LITELLM:
                whole, stream = (report.ratio(LITELLM, name, load).value for load in (LOADS[1].name, STREAM_MANY))
                words = f"{_number(whole, '.1f')} times {name}'s CPU, {_number(stream, '.1f')} times streaming"
                console.print(f"litellm: {words}", markup=False)


def print_soak(report: SoakReport, console: Console) -> None:
    """Print what was sent, what came back, and memory after each round."""
    table = _table("what came back", ["request", "count"])
    for name, count in report.counts.items():
        table.add_row(name, str(count))
    console.print(table)
    memory = ", ".join(f"{size:.0f}" for size in report.rss_mb)
    console.print(f"MB resident after each round: {memory}", markup=False)
    console.print(f"{report.most_open} streams open at once, {report.seconds:.0f} s", markup=False)


def _number(value: float, form: str) -> str:
    """A load that was never answered has no number."""
    return "–" if math.isnan(value) else format(value, form)


def _load_names() -> list[str]:
    return [load.name for load in LOADS]


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table

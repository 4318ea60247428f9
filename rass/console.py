"""How a build shows itself to people: progress on stderr, one table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from detectors.statistics import Interval
from rass.model import Progress as Advance
from rass.pipeline import BuildResult

__all__ = ["ConsoleReporter", "result_table"]


class ConsoleReporter:
    """Progress bars where stderr is a terminal, plain lines where it is not."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def stage(self, name: str, resumed: bool) -> None:
        """Say that a stage begins, or that its result was found."""
        self._console.print(f"{name}: {'found, not repeated' if resumed else 'running'}")

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Show a bar of ``total`` pieces while the context lasts, or a line when it ends."""
        if not self._console.is_terminal:
            yield lambda _finished: None
            self._console.print(f"  {label}: {total} done")
            return
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda finished: progress.advance(task, finished)
            # The totals of searches are upper bounds; a finished bar should look finished.
            progress.update(task, completed=total)


def result_table(result: BuildResult) -> str:
    """Return the table of a build's figures as text."""
    table = Table(title="report split: raw → through the gate (95 % intervals)")
    for column in (
        "language",
        "over-refusal",
        "harmful refused",
        "loss",
        "attacks answered",
        "rise",
        "on topic",
        "strength",
    ):
        table.add_column(column, justify="left" if column == "language" else "right")
    for language, one in result.report.figures.items():
        strength = result.choice.by_language.get(language)
        table.add_row(
            language,
            _change(*one.orr),
            _change(*one.hrr),
            f"≤ {100 * one.hrr_loss.high:.2f}",
            _change(*one.asr),
            f"≤ {100 * one.asr_rise.high:.2f}",
            _share(one.recovered_on_topic),
            "" if strength is None else f"{strength:g}",
        )
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 140)
    with console.capture() as captured:
        console.print(table)
        console.print(f"steering: {result.choice.config.label}")
        control = result.report.control
        console.print(
            f"positive control: attacks answered on topic {control.raw:.1%} → {control.steered:.1%} without a gate"
        )
    return captured.get()


def _change(raw: Interval, gated: Interval) -> str:
    return f"{_share(raw)} → {_share(gated)} [{100 * gated.low:.1f}, {100 * gated.high:.1f}]"


def _share(interval: Interval) -> str:
    return f"{interval.value:.1%}" if interval.value == interval.value else "–"

"""Progress on stderr: a bar in a terminal, plain lines anywhere else, so that logs stay readable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

_PLAIN_STEPS = 10


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield a function to call once for each item done; shows ``label`` and how many of ``total`` are done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        before = done * _PLAIN_STEPS // max(total, 1)
        done += 1
        if done * _PLAIN_STEPS // max(total, 1) > before:
            print(f"{label}: {done}/{total}", file=sys.stderr, flush=True)

    yield advance

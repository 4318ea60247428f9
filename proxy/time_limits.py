"""Time limits that cost next to nothing while they hold, and ending work from outside when they do not.

`asyncio.timeout` sets and takes back a timer of the event loop each time, which is most of its cost; a request has
several limits, each the same for all requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Self

__all__ = ["Interruption", "TimeLimit", "Within"]


class TimeLimit:
    """One limit for any number of pieces of work, each told when it has lasted for ``limit_s`` seconds.

    All of them share one timer. Since the limit is the same for all, they stand in line by the time at which it passes,
    and the timer is set for the first. For one event loop.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._line: dict[int, tuple[float, Callable[[], None]]] = {}
        self._places = count()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, late: Callable[[], None]) -> int:
        """Begin to count; ``late`` is called once the limit has passed. Returns the place to ``stop`` with."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self.limit_s
        place = next(self._places)
        self._line[place] = (ends_at, late)
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._ring, loop)
        return place

    def stop(self, place: int) -> None:
        """Count no longer; nothing happens where the limit has passed or counting was stopped before."""
        self._line.pop(place, None)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._line:
            place, (ends_at, late) = next(iter(self._line.items()))
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._ring, loop)
                return
            del self._line[place]
            late()


class Interruption:
    """A context whose work `interrupt` ends with an error.

    As in `asyncio.timeout`, the task is cancelled and the cancellation becomes the error where the context is left,
    unless somebody else has cancelled the task as well.
    """

    __slots__ = ("_cancelled_before", "_error", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._error: Callable[[], Exception] | None = None
        self._cancelled_before = 0

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("only the work of a task can be interrupted")
        self._cancelled_before = self._task.cancelling()
        return self

    def interrupt(self, error: Callable[[], Exception]) -> None:
        """End the work with ``error()``; only the first one counts, and none once the work is over."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        if task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise self._error() from error


class Within(Interruption):
    """A context whose work ends with ``error()`` once it has lasted as long as ``limit`` allows."""

    __slots__ = ("_late", "_limit", "_place")

    def __init__(self, limit: TimeLimit, error: Callable[[], Exception]) -> None:
        super().__init__()
        self._limit = limit
        self._late = error
        self._place = -1

    def __enter__(self) -> Self:
        super().__enter__()
        self._place = self._limit.start(self._pass)
        return self

    def _pass(self) -> None:
        self.interrupt(self._late)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.stop(self._place)
        super().__exit__(kind, error, trace)

"""Who may enter the batch: places and cache pages, first come first served, with a bounded queue.

A row reserves the cache for its longest possible answer before it starts, so a running row is never evicted and the
cache can never be too full to go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from rass.serving.errors import QueueFull, Unavailable

__all__ = ["Admission"]


@dataclass(slots=True)
class _Waiter:
    pages: int
    admitted: asyncio.Future[None]


class Admission:
    """Hands out places and pages on one event loop; nothing here is shared between threads."""

    def __init__(self, *, places: int, pages: int, max_waiting: int, wait_limit_s: float) -> None:
        self._free_places = places
        self._free_pages = pages
        self._max_waiting = max_waiting
        self._wait_limit_s = wait_limit_s
        self._waiting: deque[_Waiter] = deque()
        self.places = places
        self.pages = pages

    @property
    def running(self) -> int:
        """How many rows hold a place."""
        return self.places - self._free_places

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiting)

    @property
    def used_pages(self) -> int:
        """How many cache pages are reserved."""
        return self.pages - self._free_pages

    async def enter(self, pages: int) -> None:
        """Take a place and ``pages`` pages, waiting in turn; pair it with ``leave``.

        Raises ``QueueFull`` when too many wait already and ``Unavailable`` after the longest wait. ``pages`` must not
        exceed what there is in all, which the caller has checked against the context length.
        """
        if not self._waiting and self._fits(pages):
            self._take(pages)
            return
        if len(self._waiting) >= self._max_waiting:
            raise QueueFull(f"{len(self._waiting)} requests wait already; send this one again later")
        waiter = _Waiter(pages, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._wait_limit_s):
                await waiter.admitted
        except TimeoutError:
            self._give_up(waiter)
            raise Unavailable(f"no place became free within {self._wait_limit_s:g} s; send it again later") from None
        except BaseException:
            self._give_up(waiter)
            raise

    def leave(self, pages: int) -> None:
        """Give back what ``enter`` took."""
        self._free_places += 1
        self._free_pages += pages
        self._admit()

    def refuse_all(self, reason: str) -> None:
        """Fail everyone who waits, because nothing will be generated any more."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.admitted.done():
                waiter.admitted.set_exception(Unavailable(reason))

    def _fits(self, pages: int) -> bool:
        return self._free_places > 0 and pages <= self._free_pages

    def _take(self, pages: int) -> None:
        self._free_places -= 1
        self._free_pages -= pages

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0].pages):
            waiter = self._waiting.popleft()
            if not waiter.admitted.done():
                self._take(waiter.pages)
                waiter.admitted.set_result(None)

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the queue; if the place was granted in the same moment, hand it on."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            self._admit()
        elif waiter.admitted.done() and not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
            self.leave(waiter.pages)

"""The application that is served while the one inside is exchanged: no request is dropped, none sees two of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)


class _Generation:
    """One inner application, alive until it is retired and its last request has ended."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self._running = 0
        self._retired = False
        self._ended = asyncio.Event()

    async def live(self, started: asyncio.Event) -> None:
        """Hold the app's lifespan open, in one task from beginning to end."""
        async with self.app.router.lifespan_context(self.app):
            started.set()
            await self._ended.wait()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._running -= 1
            if self._retired and self._running == 0:
                self._ended.set()

    def retire(self) -> None:
        """End as soon as no request runs any more."""
        self._retired = True
        if self._running == 0:
            self._ended.set()

    def end(self) -> None:
        """End now."""
        self._ended.set()


class CurrentApp:
    """Hands each request to the application that was swapped in last.

    Every inner application's lifespan is run here: it starts before the first request reaches it, and it closes what it
    holds when its last request has ended, or when `close` is called. ``exchanged`` is called whenever a former one has
    closed while another one serves.
    """

    def __init__(self, exchanged: Callable[[], None] = lambda: None) -> None:
        self._exchanged = exchanged
        self._current: _Generation | None = None
        self._living: dict[asyncio.Task[None], _Generation] = {}

    async def swap(self, app: Starlette) -> None:
        """Start ``app`` and give it all requests from now on; where its start raises, nothing has changed."""
        generation = _Generation(app)
        started = asyncio.Event()
        living = asyncio.create_task(generation.live(started))
        starting = asyncio.create_task(started.wait())
        try:
            await asyncio.wait({living, starting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            starting.cancel()
            if not started.is_set():
                living.cancel()
        if not started.is_set():
            await living
        self._living[living] = generation
        living.add_done_callback(self._over)
        former, self._current = self._current, generation
        if former is not None:
            former.retire()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request by the newest application."""
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
            return
        if self._current is None:
            raise RuntimeError("no application was swapped in before the first request")
        await self._current.serve(scope, receive, send)

    async def close(self) -> None:
        """End all applications, former ones whose requests still run included, and return once they have closed."""
        self._current = None
        living = dict(self._living)
        for generation in living.values():
            generation.end()
        if living:
            await asyncio.wait(living)

    def _over(self, living: asyncio.Task[None]) -> None:
        del self._living[living]
        if not living.cancelled() and (error := living.exception()) is not None:
            logger.error("an application did not close in order", exc_info=error)
        if self._current is not None:
            self._exchanged()


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    """Tell the server what it wants to hear: `swap` and `close` run the lifespans."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

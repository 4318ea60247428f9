"""The life of requests: admitted, run as rows of the shared batch, delivered, cancelled, failed.

The engine belongs to one event loop. The generation thread reaches it through one door, ``_receive``, which hands
outputs over to the loop; everything else happens on the loop, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from transformers.generation.continuous_batching.requests import GenerationOutput

from detectors.bundle import Bundle
from rass.serving.admission import Admission
from rass.serving.bank import Bank
from rass.serving.errors import InvalidRequest, Unavailable
from rass.serving.loading import ServedModel
from rass.serving.manager import PAGE_TOKENS, RowBatchingManager
from rass.serving.plans import RowPlan
from rass.serving.residual import ResidualHooks

__all__ = ["Engine", "EngineSettings", "Health", "Row", "Tokens"]

_WATCH_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits of the engine.

    ``cache_tokens`` is the key-value cache of all rows together, prompt and answer; ``max_batch_tokens`` bounds one
    forward pass, so longer prompts are cut into chunks. Every wait has an end: ``wait_limit_s`` for a place,
    ``request_limit_s`` for a whole answer, ``stall_limit_s`` for one forward pass, ``stop_limit_s`` for shutting down.
    """

    max_concurrency: int = 32
    cache_tokens: int = 16_384
    max_batch_tokens: int = 1024
    max_waiting: int = 256
    wait_limit_s: float = 60.0
    request_limit_s: float = 300.0
    stall_limit_s: float = 120.0
    stop_limit_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """Whether answers can be generated; ``reason`` says why not."""

    reason: str | None
    running: int
    waiting: int

    @property
    def ok(self) -> bool:
        """True while nothing is wrong."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a row; ``last`` when no more will come."""

    ids: list[int]
    last: bool


@dataclass(slots=True)
class _Ticket:
    """What the loop knows of a row: how many tokens it has handed out, and those not yet taken."""

    seen: int = 0
    over: bool = False
    opened_at: float = field(default_factory=time.monotonic)
    arrived: asyncio.Queue[Tokens | Unavailable] = field(default_factory=asyncio.Queue)


class Row:
    """A running row. Iterate over it for its tokens, and ``close`` it in any case."""

    def __init__(self, engine: Engine, request_id: str, ticket: _Ticket, plan: RowPlan, pages: int) -> None:
        self._engine = engine
        self._request_id = request_id
        self._ticket = ticket
        self._pages = pages
        self._deadline = asyncio.get_running_loop().time() + engine.settings.request_limit_s
        self._closed = False
        self.plan = plan

    async def __aiter__(self) -> AsyncIterator[Tokens]:
        while True:
            tokens = await self.next()
            yield tokens
            if tokens.last:
                return

    async def next(self) -> Tokens:
        """Return the next tokens; raises ``Unavailable`` when the engine fails or the answer takes too long."""
        try:
            async with asyncio.timeout_at(self._deadline):
                arrived = await self._ticket.arrived.get()
        except TimeoutError:
            limit = self._engine.settings.request_limit_s
            raise Unavailable(f"the answer took longer than {limit:g} s and was given up") from None
        if isinstance(arrived, Unavailable):
            raise arrived
        return arrived

    def close(self) -> None:
        """Cancel the row unless it is over, and free its place; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._engine.forget(self._request_id, self._pages, cancel=not self._ticket.over)


class Engine:
    """Runs rows of one model. Use as ``await start()``, ``await open(...)`` for each row, ``await stop()``."""

    def __init__(self, served: ServedModel, bundle: Bundle | None, settings: EngineSettings | None = None) -> None:
        self.served = served
        self.settings = settings or EngineSettings()
        self.bank = Bank(bundle, hidden_size=served.hidden_size, device=served.model.device)
        pages = self.settings.cache_tokens // PAGE_TOKENS
        self.context_length = min(served.context_length, pages * PAGE_TOKENS)
        self.admission = Admission(
            places=self.settings.max_concurrency,
            pages=pages,
            max_waiting=self.settings.max_waiting,
            wait_limit_s=self.settings.wait_limit_s,
        )
        self._plans: dict[str, RowPlan] = {}
        self._tickets: dict[str, _Ticket] = {}
        self._numbers = itertools.count()
        self._manager = RowBatchingManager(
            served.model,
            stop_ids=served.stop_ids,
            cache_tokens=pages * PAGE_TOKENS,
            max_rows=self.settings.max_concurrency,
            max_batch_tokens=max(self.settings.max_batch_tokens, self.settings.max_concurrency),
            plans=self._plans,
            sink=self._receive,
        )
        self._hooks = ResidualHooks(
            directions=self.bank.directions, weights=self.bank.weights, rows=self._manager.rows, plans=self._plans
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._failure: str | None = "the engine is not started"

    async def start(self) -> None:
        """Allocate the cache and start the generation thread; raises what the allocation raises."""
        self._loop = asyncio.get_running_loop()
        self._manager.prepare(self._hooks, self.served.blocks)
        self._manager.start()
        self._failure = None
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> bool:
        """Fail what still runs and end the generation thread; returns whether it ended within the limit."""
        if self._watcher is None:
            return True
        self._watcher.cancel()
        self._fail("the server is stopping")
        await asyncio.to_thread(self._manager.stop, block=True, timeout=self.settings.stop_limit_s, hard_stop=True)
        ended = not self._manager.is_running()
        if ended:
            self._manager.release(self._hooks)
        return ended

    @property
    def is_stuck(self) -> bool:
        """True when the generation thread still runs after ``stop``: it hangs in a forward pass."""
        return self._failure is not None and self._manager.is_running()

    def health(self) -> Health:
        """Return whether answers can be generated."""
        return Health(self._failure or self._find_failure(), self.admission.running, self.admission.waiting)

    async def open(self, token_ids: Sequence[int], plan: RowPlan, *, max_new_tokens: int, streaming: bool) -> Row:
        """Admit a row and start it; the caller closes it. Tokens come one by one with ``streaming``, else all at once.

        The caller has checked that prompt and answer fit ``context_length``. Raises ``QueueFull`` or ``Unavailable``.
        """
        self._require_alive()
        total = len(token_ids) + max_new_tokens
        if total > self.context_length:
            raise InvalidRequest(f"{total} tokens do not fit the context of {self.context_length}")
        pages = -(-total // PAGE_TOKENS)
        await self.admission.enter(pages)
        request_id = f"row-{next(self._numbers)}"
        ticket = _Ticket()
        self._plans[request_id] = plan
        self._tickets[request_id] = ticket
        row = Row(self, request_id, ticket, plan, pages)
        try:
            self._require_alive()
            accepted = self._manager.add_request(
                list(token_ids),
                request_id=request_id,
                max_new_tokens=max_new_tokens,
                streaming=streaming,
                eos_token_id=list(self.served.stop_ids),
            )
            if accepted is None:
                # The thread died between the check and the call; the manager drops requests without a word then.
                raise Unavailable(self._find_failure() or "the generation thread takes no more requests")
        except BaseException:
            row.close()
            raise
        return row

    def forget(self, request_id: str, pages: int, *, cancel: bool) -> None:
        """Drop a row and free its place; ``cancel`` takes it out of the batch first."""
        if cancel:
            # Cancellations are handled before new requests are scheduled, so the pages are free when they are reused.
            self._manager.cancel_request(request_id)
        self._plans.pop(request_id, None)
        self._tickets.pop(request_id, None)
        self.admission.leave(pages)

    def _receive(self, outputs: Sequence[GenerationOutput]) -> None:
        """Take a step's outputs from the generation thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._deliver, list(outputs))

    def _deliver(self, outputs: Sequence[GenerationOutput]) -> None:
        for output in outputs:
            ticket = self._tickets.get(output.request_id)
            if ticket is None:
                continue  # cancelled while this step ran
            ticket.over = output.is_finished()
            if output.error is not None:
                ticket.arrived.put_nowait(Unavailable(f"generation failed: {output.error}"))
                continue
            new = output.generated_tokens[ticket.seen :]
            ticket.seen += len(new)
            ticket.arrived.put_nowait(Tokens(new, ticket.over))

    async def _watch(self) -> None:
        """Fail everyone as soon as the generation thread is dead or stuck, because then nothing else wakes them."""
        while True:
            reason = self._find_failure()
            if reason is not None:
                self._fail(reason)
                return
            await asyncio.sleep(_WATCH_INTERVAL_S)

    def _find_failure(self) -> str | None:
        error = self._manager.fatal_error()
        if error is not None:
            return f"the generation thread died: {type(error).__name__}: {error}"
        if not self._manager.is_running():
            return "the generation thread is not running"
        # An idle engine makes no steps, so the clock starts with the oldest row that still waits for tokens.
        oldest = min((ticket.opened_at for ticket in self._tickets.values() if not ticket.over), default=None)
        if oldest is not None:
            stalled_s = time.monotonic() - max(oldest, self._hooks.last_step_at)
            if stalled_s > self.settings.stall_limit_s:
                return f"the generation thread has made no step for {stalled_s:.0f} s"
        return None

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self.admission.refuse_all(reason)
        for ticket in self._tickets.values():
            ticket.arrived.put_nowait(Unavailable(reason))

    def _require_alive(self) -> None:
        reason = self._failure or self._find_failure()
        if reason is not None:
            raise Unavailable(reason)

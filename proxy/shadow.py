"""Mode shadow: recovery runs in the background, after the client has the original, and only its outcome is kept.

The number of background recoveries is bounded, each has recovery's own limits, and all are over when `Shadow.close`
returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from proxy.answers import ChatAnswer, together
from proxy.budgets import Spent
from proxy.choice_recovery import ChoiceRecovery
from proxy.exchange import ChatRequest, Mode
from proxy.ledger import Ledger, Outcome
from proxy.metrics import Metrics
from proxy.recovery import Recovery
from proxy.signals import Signals

logger = logging.getLogger(__name__)


class Shadow:
    """Starts background recoveries and owns their tasks."""

    def __init__(
        self, *, recovery: Recovery, choices: ChoiceRecovery, ledger: Ledger, metrics: Metrics, limit: int
    ) -> None:
        self._recovery = recovery
        self._choices = choices
        self._ledger = ledger
        self._metrics = metrics
        self._limit = limit
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, request: ChatRequest, signals: Signals, choices: Mapping[int, ChatAnswer]) -> None:
        """Begin the recovery of an exchange whose original was delivered; does nothing where none is due."""
        if request.mode is not Mode.SHADOW or self._closed or not self._recovery.wanted(request, signals):
            return
        if len(self._running) >= self._limit:
            self._metrics.recoveries_over_budget.labels(Spent.SHADOW_TASKS).inc()
            return
        task = asyncio.create_task(self._run(request, signals, choices))
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel what still runs and wait until it is over; nothing is started afterwards."""
        self._closed = True
        running = set(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _run(self, request: ChatRequest, signals: Signals, choices: Mapping[int, ChatAnswer]) -> None:
        recoveries = await self._choices.run(request, signals, self._choices.refused(choices, signals))
        self._ledger.record_shadow(request, Outcome(signals, recoveries.overall), together(choices))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background recovery failed", exc_info=error)

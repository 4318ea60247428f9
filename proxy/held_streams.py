"""Streams in mode recover: the head is held back, and a refused stream is replaced by a recovered answer or goes out.

A refused head is drained into a bounded buffer while recovery runs. The recovered answer takes its place only if the
original was read to its end and is, judged whole, still a refusal: a head that only looked like one changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from time import perf_counter
from typing import Any

from detectors.verdict import RefusalKind, RefusalVerdict
from proxy.answers import RefusalForm
from proxy.exchange import Action, ChatRequest, Mode, Reply
from proxy.headers import returned_headers
from proxy.hold_back import HeldStream, hold_head
from proxy.ledger import UNREAD, Ledger, Outcome
from proxy.metrics import Metrics
from proxy.policy import Answer
from proxy.recovery import Recovered, Recovery, untouched
from proxy.settings import StreamSettings
from proxy.signals import Observer, Signals
from proxy.stream import KEEP_ALIVE
from proxy.upstream.protocol import UpstreamResponse

logger = logging.getLogger(__name__)

_HEAD_REFUSES = RefusalVerdict(RefusalKind.FULL, 1.0, "the head of the stream refuses")


class HeldStreams:
    """Answers streams whose refusals could be recovered."""

    def __init__(
        self,
        settings: StreamSettings,
        *,
        observer: Observer,
        recovery: Recovery,
        ledger: Ledger,
        metrics: Metrics,
        judged_bytes: int,
        drain_limit_s: float,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._recovery = recovery
        self._ledger = ledger
        self._metrics = metrics
        self._judged_bytes = judged_bytes
        self._drain_limit_s = drain_limit_s

    def recoverable(self, request: ChatRequest) -> bool:
        """Whether a refusal of this request may be recovered; other streams are relayed as they arrive."""
        return request.mode is Mode.RECOVER and request.observe_only is None

    def worth_holding(self, language: str) -> bool:
        """Whether refusals in this language can be recovered."""
        return self._recovery.possible(language)

    async def answer(
        self, request: ChatRequest, response: UpstreamResponse, language: str, stack: AsyncExitStack
    ) -> Reply:
        """Hold the stream's head back and return the reply; raises the ``UpstreamError`` of a stream without one."""
        held = HeldStream(response)
        started = perf_counter()
        refuses = await hold_head(held, self._observer.head(), self._observer.judge, self._settings)
        verdict = "refusal" if refuses else "answer"
        self._metrics.hold_back_seconds.labels(verdict).observe(perf_counter() - started)
        if not refuses:
            return self._relayed(request, response, held, language)
        settling = asyncio.create_task(self._settle(request, held, language))
        stack.push_async_callback(_cancelled, settling)
        await asyncio.wait({settling}, timeout=self._settings.headers_within_s)
        if settling.done():
            outcome = settling.result()
            headers = self._ledger.outcome_headers(request, outcome)
        else:
            headers = self._ledger.headers(request, Action.RECOVERING)

        async def record() -> None:
            self._record(request, settling.result(), held)

        return Reply(
            response.status,
            returned_headers(response.headers, headers),
            self._settled(settling, held),
            record,
        )

    def _relayed(self, request: ChatRequest, response: UpstreamResponse, held: HeldStream, language: str) -> Reply:
        """Let a stream go whose head is no refusal."""

        async def judge() -> None:
            answer = held.reader.answer()
            signals = Signals(request.mode, answer.form, self._observer.refusal(answer), None, language)
            self._record(request, Outcome(signals, untouched("the stream's head was no refusal")), held)

        answer = held.reader.answer()
        verdict = self._observer.refusal(answer)
        own = self._ledger.headers(
            request,
            Action.DELIVERED,
            zone=UNREAD,
            refusal=None if verdict is None else verdict.kind,
            attempts=0,
        )
        return Reply(response.status, returned_headers(response.headers, own), held.replay(self._judged_bytes), judge)

    async def _settle(self, request: ChatRequest, held: HeldStream, language: str) -> Outcome:
        """Decide what a stream with a refused head becomes, while the rest of it is drained."""
        draining = asyncio.create_task(held.drain(self._settings.buffer_bytes))
        try:
            boundary = await self._observer.boundary(request, language)
            signals = Signals(request.mode, RefusalForm.TEXT, _HEAD_REFUSES, boundary, language, request.observe_only)
            recovered = await self._recovery.run(request, signals)
            if recovered.decision.answer is Answer.ORIGINAL:
                return Outcome(signals, recovered)
            return await self._confirmed(signals, recovered, held, draining)
        finally:
            await _cancelled(draining)

    async def _confirmed(
        self, signals: Signals, recovered: Recovered, held: HeldStream, draining: asyncio.Task[None]
    ) -> Outcome:
        """Let the recovered answer take the original's place only if the whole original is a refusal."""
        await asyncio.wait({draining}, timeout=self._drain_limit_s)
        if not held.whole:
            why = "the original was too long, too slow or cut off, so that nobody could say it was a refusal"
            return Outcome(signals, recovered.instead(why))
        original = held.reader.answer()
        signals = replace(signals, form=original.form, refusal=self._observer.refusal(original))
        if original.form is not RefusalForm.TEXT or not signals.refused:
            return Outcome(signals, recovered.instead("the original, judged whole, is no refusal in text"))
        return Outcome(signals, recovered)

    async def _settled(self, settling: asyncio.Task[Outcome], held: HeldStream) -> AsyncGenerator[bytes, None]:
        """Keep the connection alive until the outcome is known, then yield the recovered answer or the original."""
        while not settling.done():
            await asyncio.wait({settling}, timeout=self._settings.keepalive_s)
            if not settling.done():
                yield KEEP_ALIVE
        outcome = settling.result()
        if outcome.action is Action.RECOVERED and outcome.recovered.body is not None:
            yield outcome.recovered.body
            return
        async for chunk in held.replay(self._judged_bytes):
            yield chunk

    def _record(self, request: ChatRequest, outcome: Outcome, held: HeldStream) -> None:
        """Write down a finished stream, by the verdict on the whole answer that went out or was replaced."""
        if outcome.action is not Action.RECOVERED and (held.error is not None or held.reader.failed):
            self._ledger.count(request, Action.FAILED)
            return
        answer = held.reader.answer()
        if held.size <= self._judged_bytes:
            signals = replace(outcome.signals, form=answer.form, refusal=self._observer.refusal(answer))
            outcome = replace(outcome, signals=signals)
        self._ledger.record(request, outcome, answer)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it is over, whatever its end."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a stream's background task failed", exc_info=error)

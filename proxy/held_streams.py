"""Streams in modes that replace: the head is held back, and a refused stream becomes a recovered answer or goes out.

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
from proxy.answers import together
from proxy.choice_bytes import continued
from proxy.choice_recovery import ChoiceRecoveries, ChoiceRecovery
from proxy.errors import UpstreamError
from proxy.exchange import Action, ChatRequest, Reply
from proxy.headers import ACTION_HEADER, returned_headers
from proxy.hold_back import HeldStream, hold_head
from proxy.ledger import UNREAD, Ledger, Outcome
from proxy.metrics import Metrics
from proxy.policy import Answer, kept_because
from proxy.recovery import Recovery, untouched
from proxy.settings.recovery import StreamSettings
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
        choices: ChoiceRecovery,
        ledger: Ledger,
        metrics: Metrics,
        judged_bytes: int,
        drain_limit_s: float,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._recovery = recovery
        self._choices = choices
        self._ledger = ledger
        self._metrics = metrics
        self._judged_bytes = judged_bytes
        self._drain_limit_s = drain_limit_s

    def recoverable(self, request: ChatRequest) -> bool:
        """Whether a refusal of this request may be recovered; other streams are relayed as they arrive."""
        return request.mode.replaces and request.observe_only is None

    def worth_holding(self, request: ChatRequest, language: str) -> bool:
        """Whether refusals of this request, in this language, can be recovered."""
        return self._recovery.possible(request, language)

    async def answer(
        self, request: ChatRequest, response: UpstreamResponse, language: str, stack: AsyncExitStack
    ) -> Reply:
        """Hold the stream's head back and return the reply; raises the ``UpstreamError`` of a stream without one."""
        held = HeldStream(request, response)
        patience = None if self._settings.hold_reasoning else self._settings.headers_within_s
        refused = await self._head(request, held, patience)
        if refused is None and request.wire.has_choices:
            return self._opened(request, response, held, language, stack)
        if not refused:
            return self._relayed(request, response, held, language)
        settling = self._settling(request, held, language, refused, stack)
        await asyncio.wait({settling}, timeout=self._settings.headers_within_s)
        known = settling.done()
        if known:
            headers = self._ledger.outcome_headers(request, settling.result())
        else:
            headers = self._ledger.headers(request, Action.RECOVERING)

        async def record() -> None:
            self._record(request, settling.result(), held)

        return Reply(
            response.status,
            returned_headers(response.headers, headers),
            self._settled(settling, held, announced=known),
            record,
        )

    async def _head(self, request: ChatRequest, held: HeldStream, patience: float | None) -> frozenset[int] | None:
        started = perf_counter()
        refused = await hold_head(
            held,
            self._observer.head,
            self._observer.judge,
            self._settings,
            choices=request.choices,
            recovered_forms=self._recovery.rules.forms,
            content_within_s=patience,
        )
        if refused is not None:
            verdict = "refusal" if refused else "answer"
            self._metrics.hold_back_seconds.labels(verdict).observe(perf_counter() - started)
        return refused

    def _settling(
        self, request: ChatRequest, held: HeldStream, language: str, refused: frozenset[int], stack: AsyncExitStack
    ) -> asyncio.Task[Outcome]:
        settling = asyncio.create_task(self._settle(request, held, language, refused))
        stack.push_async_callback(_cancelled, settling)
        return settling

    def _opened(
        self, request: ChatRequest, response: UpstreamResponse, held: HeldStream, language: str, stack: AsyncExitStack
    ) -> Reply:
        """Let go what comes before the content of a stream (reasoning, or nothing for long), and hold the rest."""
        settled: list[asyncio.Task[Outcome]] = []

        async def body() -> AsyncGenerator[bytes, None]:
            async for chunk in held.release_before_content(self._settings.buffer_bytes, self._settings.keepalive_s):
                yield chunk
            try:
                refused = await self._head(request, held, None)
            except UpstreamError:
                refused = None  # the replay ends with the error event
            if refused:
                settled.append(self._settling(request, held, language, refused, stack))
                chunks = self._settled(settled[0], held, announced=False)
            else:
                chunks = held.replay(self._judged_bytes)
            async for chunk in chunks:
                yield chunk

        async def record() -> None:
            outcome = settled[0].result() if settled else self._unrefused(request, held, language)
            self._record(request, outcome, held)

        return Reply(response.status, returned_headers(response.headers, self._unknown(request)), body(), record)

    def _unknown(self, request: ChatRequest) -> dict[str, str]:
        """Return the headers of a stream that leaves before its head is known."""
        return self._ledger.headers(request, Action.OBSERVING, zone=UNREAD, attempts=None)

    def _unrefused(self, request: ChatRequest, held: HeldStream, language: str) -> Outcome:
        answer = held.reader.answer()
        signals = Signals(request.mode, answer.form, self._observer.refusal(answer), None, language)
        return Outcome(signals, untouched("the stream's head was no refusal"))

    def _relayed(self, request: ChatRequest, response: UpstreamResponse, held: HeldStream, language: str) -> Reply:
        """Let a stream go whose head is no refusal, or whose answer has not begun."""

        async def judge() -> None:
            self._record(request, self._unrefused(request, held, language), held)

        outcome = self._unrefused(request, held, language)
        if outcome.signals.refusal is not None and outcome.signals.refusal.kind is RefusalKind.EMPTY and not held.ended:
            own = self._unknown(request)
        else:
            own = self._ledger.outcome_headers(request, outcome)
        return Reply(response.status, returned_headers(response.headers, own), held.replay(self._judged_bytes), judge)

    async def _settle(self, request: ChatRequest, held: HeldStream, language: str, refused: frozenset[int]) -> Outcome:
        """Decide what a stream with a refused head becomes, while the rest of it is drained."""
        draining = asyncio.create_task(held.drain(self._settings.buffer_bytes))
        try:
            boundary = await self._observer.boundary(request, language)
            choices = held.reader.choices()
            form = together({index: choices[index] for index in refused}).form
            signals = Signals(
                request.mode, form, _HEAD_REFUSES, boundary, language, request.observe_only, streamed=True
            )
            recoveries = await self._choices.run(request, signals, refused)
            if recoveries.overall.decision.answer is Answer.ORIGINAL:
                return Outcome(signals, recoveries.overall)
            return await self._confirmed(request, signals, recoveries, held, draining)
        finally:
            await _cancelled(draining)

    async def _confirmed(
        self,
        request: ChatRequest,
        signals: Signals,
        recoveries: ChoiceRecoveries,
        held: HeldStream,
        draining: asyncio.Task[None],
    ) -> Outcome:
        """Let recovered answers take the originals' places only where policy has the whole original recovered."""
        await asyncio.wait({draining}, timeout=self._drain_limit_s)
        if not held.whole:
            why = "the original was too long, too slow or cut off, so that nobody could say it was a refusal"
            return Outcome(signals, recoveries.instead(why).overall)
        choices = held.reader.choices()
        answer = together(choices)
        signals = replace(signals, form=answer.form, refusal=self._observer.refusal(answer))
        kept = kept_because(signals, self._recovery.rules)
        if kept is not None:
            return Outcome(signals, recoveries.instead(f"judged whole, {kept}").overall)
        refused = self._choices.refused(choices, signals)
        recoveries = recoveries.only(refused, "the original, judged whole, is no refusal that is recovered")
        recovered = self._choices.merged(request, held.raw, choices, recoveries)
        if recovered.body is not None and held.released:
            recovered = replace(recovered, body=continued(held.released, recovered.body))
        return Outcome(signals, recovered)

    async def _settled(
        self, settling: asyncio.Task[Outcome], held: HeldStream, *, announced: bool
    ) -> AsyncGenerator[bytes, None]:
        """Keep the connection alive until the outcome is known, then yield the recovered answer or the original.

        A recovery that the headers could not announce is announced by a comment.
        """
        while not settling.done():
            await asyncio.wait({settling}, timeout=self._settings.keepalive_s)
            if not settling.done():
                yield KEEP_ALIVE
        outcome = settling.result()
        if outcome.action is Action.RECOVERED and outcome.recovered.body is not None:
            if not announced:
                yield f": {ACTION_HEADER}: {Action.RECOVERED}\n\n".encode()
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

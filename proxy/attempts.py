"""One attempt at a better answer: sent, bounded in time and size, and checked before it may be delivered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

from detectors.verdict import RefusalKind
from proxy.answers import (
    ChatAnswer,
    RefusalForm,
    read_choices,
    read_stream,
    stream_without_report,
    together,
    without_report,
)
from proxy.errors import UpstreamError, UpstreamUnreachable
from proxy.exchange import ChatRequest
from proxy.ladder import Step
from proxy.policy import Attempt, AttemptResult
from proxy.signals import Observer, Signals
from proxy.steering import Dialect
from proxy.steps import Order, Steps
from proxy.upstream.protocol import read_up_to
from proxy.usage import NOTHING_SPENT, Spending, estimated_tokens, spending


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt and, where its answer passed every check, that answer.

    ``body`` is a whole completion, or a whole event stream where the client asked for one; ``headers`` are the
    upstream's.
    """

    attempt: Attempt
    body: bytes | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Attempts:
    """Makes single attempts; a failed one is data, not an error."""

    def __init__(
        self,
        steps: Steps,
        *,
        dialect: Dialect,
        observer: Observer,
        answer_limit_bytes: int,
        stream_limit_bytes: int,
    ) -> None:
        self._steps = steps
        self._dialect = dialect
        self._observer = observer
        self._answer_limit_bytes = answer_limit_bytes
        self._stream_limit_bytes = stream_limit_bytes

    async def make(self, request: ChatRequest, signals: Signals, step: Step, *, deadline: float) -> Tried:
        """Make one attempt, which ends at ``deadline`` (the event loop's clock) whatever the upstream does."""
        started = perf_counter()
        try:
            async with asyncio.timeout_at(deadline):
                tried = await self._send(request, signals, step)
        except TimeoutError:
            tried = _ended(step, AttemptResult.OUT_OF_TIME, self.prompt_spending(request))
        return replace(tried, attempt=replace(tried.attempt, seconds=perf_counter() - started))

    def prompt_spending(self, request: ChatRequest) -> Spending:
        """Return what an attempt spends at least: an estimate of its prompt."""
        return Spending(estimated_tokens(turn.content for turn in request.messages), estimated=True)

    async def _send(self, request: ChatRequest, signals: Signals, step: Step) -> Tried:
        order = self._steps.order(step, request, signals.language, signals.zone)
        if order is None:
            return _ended(step, AttemptResult.NOT_POSSIBLE, NOTHING_SPENT)
        prompt = self.prompt_spending(request)
        try:
            response = await order.upstream.send(
                "POST",
                request.wire.path,
                headers=order.headers,
                body=json.dumps(order.payload).encode(),
                purpose="attempt",
            )
            try:
                if response.status != 200:
                    return _ended(step, AttemptResult.UPSTREAM_FAILED, NOTHING_SPENT)
                limit = self._stream_limit_bytes if request.stream else self._answer_limit_bytes
                body, whole = await read_up_to(response, limit)
            finally:
                await response.close()
        except UpstreamError as error:
            spent = NOTHING_SPENT if isinstance(error, UpstreamUnreachable) else prompt
            return _ended(step, AttemptResult.UPSTREAM_FAILED, spent)
        gathered = request.wire.gather(order.payload)
        choices = (read_stream if request.stream else read_choices)(body, gathered) if whole else {}
        if not choices:
            return _ended(step, AttemptResult.UPSTREAM_FAILED, prompt)
        answer = together(choices)
        spent = spending(body, streamed=request.stream, prompt=prompt.tokens, answer=answer.texts)
        result = await self._check(request, signals, order, answer)
        if result is not AttemptResult.ANSWERED:
            return _ended(step, result, spent)
        clean = stream_without_report(body) if request.stream else without_report(body)
        return replace(_ended(step, result, spent), body=clean, text=answer.texts[0], headers=response.headers)

    async def _check(self, request: ChatRequest, signals: Signals, order: Order, answer: ChatAnswer) -> AttemptResult:
        """Judge an attempt's answer: was it steered, is it an answer, and is that answer harmless?"""
        if order.steered and not self._dialect.did_steer(answer):
            return AttemptResult.NOT_STEERED
        if answer.form is not RefusalForm.TEXT:
            return AttemptResult.STILL_REFUSED
        verdict = self._observer.refusal(answer)
        if verdict is None or answer.called_tools or len(answer.texts) != 1:
            return AttemptResult.UNCHECKED
        if verdict.kind is RefusalKind.EMPTY:
            return AttemptResult.EMPTY
        if verdict.kind is not RefusalKind.ANSWER:
            return AttemptResult.STILL_REFUSED
        harm = await self._observer.harm(
            request.messages, answer.texts[0], model=request.model, language=signals.language
        )
        if harm.harmful is None:
            return AttemptResult.UNCHECKED
        return AttemptResult.HARMFUL if harm.harmful else AttemptResult.ANSWERED


def _ended(step: Step, result: AttemptResult, spent: Spending) -> Tried:
    return Tried(Attempt(step, result, spent.tokens, spent.estimated))

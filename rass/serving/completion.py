"""One chat completion: from a checked body to pieces of text, and a reading from one forward pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from detectors.manifest import SteeringForm, SteeringSpan
from detectors.verdict import Message
from rass.conversation import Conversation
from rass.serving.bank import Reading, Steering
from rass.serving.engine import Engine, Row, Tokens
from rass.serving.errors import InvalidRequest, UnknownModel
from rass.serving.metrics import ServingMetrics
from rass.serving.plans import RowPlan
from rass.serving.prompting import Prompter
from rass.serving.sampling import row_sampling
from rass.serving.text import Detokenizer, StopText
from rass.serving.wire import ChatBody, ReadBody, SteerFields

__all__ = ["Completion", "Completions", "Piece"]


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer; ``finish_reason`` (``stop`` or ``length``) comes with the last piece."""

    text: str
    finish_reason: str | None


@dataclass(slots=True)
class Completion:
    """An answer that is being generated. Its first tokens are there, so its reading is too. ``close`` it."""

    row: Row
    first: Tokens
    prompt_tokens: int
    steering: Steering | None
    reading: Reading | None
    h: float | None
    bundle: str | None
    detokenizer: Detokenizer
    stop_text: StopText
    stop_ids: frozenset[int]
    completion_tokens: int = 0

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the text, each piece in whole characters and nothing of or after a stop string.

        The pieces do not depend on how the tokens arrive, so a stream adds up to the answer that is not streamed.
        """
        tokens = self.first
        while True:
            text = ""
            for token_id in tokens.ids:
                self.completion_tokens += 1
                text += self.stop_text.feed(self.detokenizer.feed([token_id]))
                if self.stop_text.found:
                    self.row.close()
                    yield Piece(text, "stop")
                    return
            if tokens.last:
                text += self.stop_text.feed(self.detokenizer.finish())
                ended = self.stop_text.found or (tokens.ids and tokens.ids[-1] in self.stop_ids)
                yield Piece(text + self.stop_text.finish(), "stop" if ended else "length")
                return
            if text:
                yield Piece(text, None)
            tokens = await self.row.next()

    def extension(self) -> dict[str, object] | None:
        """Return the response's ``rass`` object, if steering or a reading was asked for."""
        if self.steering is None and self.reading is None:
            return None
        return {
            "steered": self.steering is not None and self.steering.active,
            "vector": None if self.steering is None else self.steering.vector_id,
            "strength": None if self.steering is None else self.steering.strength,
            "h": self.h,
            "rho": None if self.reading is None else self.reading.rho,
            "bundle": self.bundle,
        }

    def close(self) -> None:
        """Free the row's place; calling it again does nothing."""
        self.row.close()


class Completions:
    """Turns bodies into completions and readings on one engine."""

    def __init__(self, engine: Engine, metrics: ServingMetrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._prompter = Prompter(engine.served, context_length=engine.context_length)

    async def start(self, body: ChatBody) -> Completion:
        """Admit a request and wait for its first tokens; the caller closes what it gets.

        Raises ``InvalidRequest``, ``UnknownModel``, ``QueueFull`` or ``Unavailable``.
        """
        began = time.monotonic()
        engine = self._engine
        self._check_model(body.model)
        asked = body.rass
        steering = self._steering(asked.steer) if asked is not None and asked.steer is not None else None
        conversation = self._prompter.conversation(body.conversation(), answered=False)
        reading = engine.bank.reading(conversation, steering) if asked is not None and asked.read else None
        prompt_tokens = len(conversation.token_ids)
        room = engine.context_length - prompt_tokens
        temperature = engine.served.default_temperature if body.temperature is None else body.temperature
        top_p = engine.served.default_top_p if body.top_p is None else body.top_p
        plan = RowPlan(
            prompt_length=prompt_tokens,
            pushes=steering.pushes if steering is not None else (),
            span=steering.span if steering is not None else SteeringSpan.ONWARD,
            taps=reading.taps if reading is not None else (),
            sampling=row_sampling(temperature, top_p, body.seed, engine.served.model.device),
        )
        # Waking the loop for every token costs more than a short answer: only who needs single tokens gets them.
        one_by_one = bool(body.stream or body.stops)
        limit = room if body.token_limit is None else min(body.token_limit, room)
        row = await engine.open(conversation.token_ids, plan, max_new_tokens=limit, streaming=one_by_one)
        first = await self._first(row)
        if one_by_one:
            self._metrics.first_token.observe(time.monotonic() - began)
        found = None if reading is None else reading.reading(plan.values)
        return Completion(
            row=row,
            first=first,
            prompt_tokens=prompt_tokens,
            steering=steering,
            reading=found,
            h=None if found is None else engine.bank.request_h(found),
            bundle=engine.bank.digest,
            detokenizer=Detokenizer(self._decode),
            stop_text=StopText(body.stops),
            stop_ids=frozenset(engine.served.stop_ids),
        )

    async def read(self, body: ReadBody) -> dict[str, object]:
        """Return the coordinates of a conversation, each from one forward pass as a row of the shared batch.

        A bundle whose h needs the question has it put to the request alone, in a second row beside the first.
        """
        engine = self._engine
        self._check_model(body.model)
        messages, question = body.conversation(), body.question
        answered = messages[-1].role == "assistant"
        whole = self._prompter.conversation(messages, answered=answered, question=question if answered else None)
        rows = [whole]
        if question is not None and engine.bank.asks_about_requests:
            rows.append(self._prompter.conversation(_request(messages), answered=False, question=question))
        elif question is not None and not answered:
            raise InvalidRequest(
                "the loaded bundle asks nothing about requests; leave the question out", param="question"
            )
        readings = await asyncio.gather(*(self._read(row) for row in rows))
        asked_h = readings[1].asked_h if len(readings) > 1 else None
        return {
            "h": engine.bank.request_h(readings[0], asked_h),
            "rho": readings[0].rho,
            "answer_h": readings[0].answer_h,
            "bundle": engine.bank.digest,
            "prompt_tokens": sum(len(row.token_ids) for row in rows),
        }

    async def _read(self, conversation: Conversation) -> Reading:
        reading = self._engine.bank.reading(conversation)
        plan = RowPlan(prompt_length=len(conversation.token_ids), taps=reading.taps)
        row = await self._engine.open(conversation.token_ids, plan, max_new_tokens=1, streaming=False)
        await self._first(row)
        row.close()
        return reading.reading(plan.values)

    async def _first(self, row: Row) -> Tokens:
        try:
            return await row.next()
        except BaseException:
            row.close()
            raise

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._engine.served.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _check_model(self, name: str) -> None:
        if name not in self._engine.served.names:
            raise UnknownModel(f"model {name!r} is not served here; it is {self._engine.served.id!r}", param="model")

    def _steering(self, fields: SteerFields) -> Steering:
        return self._engine.bank.steering(
            fields.vector,
            fields.strength,
            layers=fields.layers,
            form=None if fields.form is None else SteeringForm(fields.form),
            span=None if fields.span is None else SteeringSpan(fields.span),
        )


def _request(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the conversation up to its last user turn."""
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    return messages[: last + 1]

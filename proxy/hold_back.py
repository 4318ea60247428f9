"""Holding back the head of a stream until it is known whether it refuses, and keeping a refused one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Set
from contextlib import aclosing

from detectors.verdict import RefusalVerdict
from proxy.answers import DONE, RefusalForm, StreamReader, json_object
from proxy.errors import UpstreamError
from proxy.exchange import ChatRequest
from proxy.settings.recovery import StreamSettings
from proxy.stream import KEEP_ALIVE, SseEvent, split_events, without_data
from proxy.upstream.protocol import UpstreamResponse

Feed = Callable[[str], RefusalVerdict | None]
"""An incremental detector: it takes in the next text of an answer and returns its verdict once it is sure."""

_KEPT_OF_HEAD = 65_536


class HeldStream:
    """An upstream's event stream whose bytes are kept until they are replayed or dropped.

    Nothing is lost: what was taken in comes first on replay, then what the upstream still sends.
    """

    def __init__(self, request: ChatRequest, response: UpstreamResponse) -> None:
        self._request = request
        self._response = response
        self._chunks: list[bytes] = []
        self._new_text: dict[int, str] = {}
        self.reader = StreamReader(request.wire.gather(request.payload))
        self.size = 0
        """Bytes that were taken in."""
        self.kept = 0
        """Bytes of them that were not let go."""
        self.released = b""
        """The beginning of what was let go before the head was decided."""
        self.ended = False
        self.error: UpstreamError | None = None

    @property
    def whole(self) -> bool:
        """Whether the upstream's stream came to its end and all of it that was not let go is here."""
        # A server that ends its streams by closing can break off without an error: the stream's own end tells.
        return self.ended and self.error is None and not self.reader.failed and self.reader.done

    @property
    def raw(self) -> bytes:
        """The bytes that are kept."""
        return b"".join(self._chunks)

    async def take(self) -> None:
        """Take in the next bytes; at the end and on failure, say so."""
        try:
            chunk = await self._response.next_chunk()
        except UpstreamError as error:
            self.error, self.ended = error, True
            return
        if not chunk:
            self.ended = True
            return
        self._chunks.append(chunk)
        self.size += len(chunk)
        self.kept += len(chunk)
        for index, text in self.reader.feed(chunk).items():
            self._new_text[index] = self._new_text.get(index, "") + text

    def new_text(self) -> dict[int, str]:
        """Return the text of each choice that was taken in since the last call."""
        added, self._new_text = self._new_text, {}
        return added

    async def drain(self, limit_bytes: int) -> None:
        """Take in until the end or until more than ``limit_bytes`` are kept."""
        while not self.ended and self.kept <= limit_bytes:
            await self.take()

    async def release_before_content(self, limit_bytes: int, keepalive_s: float) -> AsyncGenerator[bytes, None]:
        """Yield whole events and comments as they arrive, as long as they add nothing to the answer: roles, reasoning.

        A comment of our own keeps the connection alive after every ``keepalive_s`` in which nothing came. Ends with the
        first event that is part of the answer, and where one is longer than ``limit_bytes``.
        """
        while True:
            held = self.raw
            free = self._free_of_content(held)
            if free:
                self._chunks, self.kept = [held[free:]], len(held) - free
                self.released = (self.released + held[:free])[:_KEPT_OF_HEAD]
                yield held[:free]
            if self.ended or self.kept > limit_bytes or self._answers(held[free:]):
                return
            async with aclosing(self._taking(keepalive_s)) as waits:
                async for comment in waits:
                    yield comment

    async def _taking(self, keepalive_s: float) -> AsyncGenerator[bytes, None]:
        """Take in the next bytes, and yield a comment after every ``keepalive_s`` that they are waited for.

        It is one wait throughout: begun anew after each comment, it would never reach the upstream's time limits.
        """
        taken = asyncio.create_task(self.take())
        try:
            while not (await asyncio.wait({taken}, timeout=keepalive_s))[0]:
                yield KEEP_ALIVE
            taken.result()
        finally:
            if taken.cancel():
                await asyncio.wait({taken})

    def _free_of_content(self, held: bytes) -> int:
        """Return how many bytes of ``held`` are whole events and comments that hold nothing of the answer."""
        free = 0
        for raw, event in split_events(held):
            if event is None or self._is_content(event):
                free += without_data(raw)
                break
            free += len(raw)
        return free

    def _answers(self, held: bytes) -> bool:
        return any(event is not None and self._is_content(event) for _, event in split_events(held))

    def _is_content(self, event: SseEvent) -> bool:
        payload = None if event.data == DONE else json_object(event.data)
        if payload is None:
            return True
        gathered = self._request.wire.gather({})
        if gathered.add_event(payload) or gathered.failed or gathered.finished:
            return True
        return any(choice.called_tools or choice.form is not RefusalForm.TEXT for choice in gathered.choices().values())

    async def replay(self, judged_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield what was kept, then the rest as it arrives; a failure becomes an error event at the end.

        The reader goes on gathering until ``judged_bytes`` were seen.
        """
        last = self.released
        for last in self._chunks:
            yield last
        self._chunks.clear()
        while not self.ended:
            try:
                chunk = await self._response.next_chunk()
            except UpstreamError as error:
                self.error, self.ended = error, True
                break
            if not chunk:
                self.ended = True
                break
            self.size += len(chunk)
            if self.size <= judged_bytes:
                self.reader.feed(chunk)
            last = chunk
            yield chunk
        if self.error is not None:
            yield self._request.wire.error_event(self.error.body(), last)


async def hold_head(
    held: HeldStream,
    new_feed: Callable[[], Feed],
    judge: Feed,
    settings: StreamSettings,
    *,
    choices: int,
    recovered_forms: Set[RefusalForm],
    content_within_s: float | None,
) -> frozenset[int] | None:
    """Take in the head of each choice until it is decided, and return which ones refuse.

    An undecided head is judged as it stands after ``head_chars`` characters, ``head_ms`` milliseconds from the first
    content, or ``buffer_bytes`` bytes. A tool call decides at once, and so does a typed refusal or a filter, which
    counts as a refusal where ``recovered_forms`` name it. Returns ``None`` where there is no content yet, but
    reasoning, or nothing for ``content_within_s`` seconds (``None``: both are waited out). Raises the
    ``UpstreamError`` of a stream that fails before its head was
    decided.
    """
    clock = asyncio.get_running_loop().time
    feeds: dict[int, Feed] = {}
    texts: dict[int, str] = {}
    refuses: dict[int, bool] = {}
    patience = None if content_within_s is None else clock() + content_within_s
    deadline: float | None = None

    def as_it_stands(index: int) -> bool:
        verdict = judge(texts.get(index, ""))
        return verdict is not None and verdict.refused

    while True:
        for index, text in held.new_text().items():
            texts[index] = texts.get(index, "") + text
            if index in refuses:
                continue
            if index not in feeds:
                feeds[index] = new_feed()
            verdict = feeds[index](text)
            if verdict is not None:
                refuses[index] = verdict.refused
            elif len(texts[index]) > settings.head_chars:
                refuses[index] = as_it_stands(index)
        for index, choice in held.reader.choices().items():
            if choice.called_tools:
                refuses[index] = False
            elif choice.form is not RefusalForm.TEXT:
                refuses[index] = choice.form in recovered_forms
        if held.error is not None:
            raise held.error
        if held.ended or len(refuses) >= choices or held.kept > settings.buffer_bytes:
            break
        if texts and deadline is None:
            deadline = clock() + settings.head_ms / 1000
        elif not texts and patience is not None and held.reader.reasoned:
            return None
        try:
            async with asyncio.timeout_at(deadline if texts else patience):
                await held.take()
        except TimeoutError:
            if not texts:
                return None
            break
    for index in texts:
        if index not in refuses:
            refuses[index] = as_it_stands(index)
    return frozenset(index for index, refused in refuses.items() if refused)

"""Holding back the head of a stream until it is known whether it refuses, and keeping a refused one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Set

from detectors.verdict import RefusalVerdict
from proxy.answers import RefusalForm, StreamReader
from proxy.errors import UpstreamError, error_event
from proxy.settings import StreamSettings
from proxy.upstream.protocol import UpstreamResponse


class HeldStream:
    """An upstream's event stream whose bytes are kept until they are replayed or dropped.

    Nothing is lost: what was taken in comes first on replay, then what the upstream still sends.
    """

    def __init__(self, response: UpstreamResponse) -> None:
        self._response = response
        self._chunks: list[bytes] = []
        self.reader = StreamReader()
        self.size = 0
        self.ended = False
        self.error: UpstreamError | None = None

    @property
    def whole(self) -> bool:
        """Whether the upstream's stream came to its end and all of it is here."""
        # A server that ends its streams by closing can break off without an error: the stream's own end tells.
        return self.ended and self.error is None and not self.reader.failed and self.reader.done

    async def take(self) -> str:
        """Take in the next bytes and return the text that they added; at the end or on failure, ``""``."""
        try:
            chunk = await self._response.next_chunk()
        except UpstreamError as error:
            self.error, self.ended = error, True
            return ""
        if not chunk:
            self.ended = True
            return ""
        self._chunks.append(chunk)
        self.size += len(chunk)
        return self.reader.feed(chunk)

    async def drain(self, limit_bytes: int) -> None:
        """Take in until the end or until more than ``limit_bytes`` are held."""
        while not self.ended and self.size <= limit_bytes:
            await self.take()

    async def replay(self, judged_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield what was kept, then the rest as it arrives; a failure becomes an error event at the end.

        The reader goes on gathering until ``judged_bytes`` were seen.
        """
        last = b""
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
            yield error_event(self.error.body(), last)


async def hold_head(
    held: HeldStream,
    feed: Callable[[str], RefusalVerdict | None],
    judge: Callable[[str], RefusalVerdict | None],
    settings: StreamSettings,
    recovered_forms: Set[RefusalForm],
) -> bool:
    """Take in the head of a stream until it is decided, and return whether it refuses.

    ``feed`` is an incremental detector: it takes in the next text and returns its verdict once it is sure. An undecided
    head is judged as it stands after ``head_chars`` characters, ``head_ms`` milliseconds from its first content, or
    ``buffer_bytes`` bytes. A tool call ends it at once, and so does a typed refusal or a filter, which counts as a
    refusal where ``recovered_forms`` name it. Raises the ``UpstreamError`` of a stream that fails before its head was
    decided.
    """
    text = ""
    deadline: float | None = None
    while held.size <= settings.buffer_bytes and len(text) <= settings.head_chars:
        try:
            async with asyncio.timeout_at(deadline):
                added = await held.take()
        except TimeoutError:
            break
        if held.error is not None:
            raise held.error
        if held.ended:
            break
        answer = held.reader.answer()
        if answer.called_tools:
            return False
        if answer.form is not RefusalForm.TEXT:
            return answer.form in recovered_forms
        if not added:
            continue
        text += added
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + settings.head_ms / 1000
        verdict = feed(added)
        if verdict is not None:
            return verdict.refused
    as_it_stands = judge(text)
    return as_it_stands is not None and as_it_stands.refused

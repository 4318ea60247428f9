"""Server-sent events: an incremental parser that gives the same events however the bytes are split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

KEEP_ALIVE = b": working\n\n"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its data lines joined by newlines, and its name where it has one."""

    data: str
    name: str | None = None

    def encode(self) -> bytes:
        """Return the event as it is written on the wire."""
        head = f"event: {self.name}\n" if self.name is not None else ""
        return (head + "".join(f"data: {line}\n" for line in self.data.split("\n")) + "\n").encode()


class SseParser:
    """Parses a stream of server-sent events (WHATWG HTML, section 9.2.6).

    Lines end with LF, CR LF or CR; comments, ``id`` and ``retry`` are passed over, since nothing here reconnects. An
    event that the stream's end cuts off is never reported.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._at_start = True
        self._data: list[str] = []
        self._name: str | None = None

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take in the next bytes and return the events that they completed."""
        return [event for line in self._lines(chunk) if (event := self._take(line)) is not None]

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if not chunk:
            return
        if self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")  # a CR at the end of the last chunk already ended its line
        for piece in chunk.splitlines(keepends=True):
            content = piece.rstrip(b"\r\n")
            self._line += content
            if len(content) == len(piece):
                return
            yield bytes(self._line)
            self._line.clear()
        self._after_cr = chunk.endswith(b"\r")

    def _take(self, line: bytes) -> SseEvent | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            event = SseEvent("\n".join(self._data), self._name) if self._data else None
            self._data, self._name = [], None
            return event
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._data.append(text)
        elif field == b"event":
            self._name = text
        return None


def without_data(raw: bytes) -> int:
    """Return how many bytes at the beginning are whole blocks that bring no event: comments, fields without data."""
    seen = free = 0
    for line in raw.splitlines(keepends=True):
        seen += len(line)
        content = line.rstrip(b"\r\n")
        if len(content) == len(line) or content.removeprefix(_BOM).partition(b":")[0] == b"data":
            break
        if not content:
            free = seen
    return free


def split_events(body: bytes) -> Iterator[tuple[bytes, SseEvent | None]]:
    """Yield the bytes of each event, comments before it included, with the event; what is left at the end has none.

    The pieces put together are ``body`` again.
    """
    parser = SseParser()
    raw = b""
    for line in body.splitlines(keepends=True):
        raw += line
        for event in parser.feed(line):
            yield raw, event
            raw = b""
    if raw:
        yield raw, None

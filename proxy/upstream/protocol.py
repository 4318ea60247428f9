"""What the gate needs of an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class UpstreamResponse(Protocol):
    """An answer whose headers have arrived."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, names in lower case; values are decoded as UTF-8, with ``surrogateescape``."""
        ...

    async def next_chunk(self) -> bytes:
        """Return the next bytes of the body as they arrive, ``b""`` at its end.

        May be cancelled and called again without losing bytes. Raises ``UpstreamTimedOut`` or ``UpstreamBroke``.
        """
        ...

    async def close(self) -> None:
        """Give the connection back, or end it where bytes are left: the upstream's work is then cancelled."""
        ...


class Upstream(Protocol):
    """A served model behind an OpenAI-compatible address."""

    @property
    def address(self) -> str:
        """The address, for messages."""
        ...

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> UpstreamResponse:
        """Send a request and return once the answer's headers have arrived.

        ``purpose`` (``client``, ``relay``, ``attempt``, ``reading``, ``judge``, ``canary`` or ``check``) labels its
        metrics and says how it is protected (`proxy.upstream.resilient`). Raises an ``UpstreamError``.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


async def read_up_to(response: UpstreamResponse, limit: int) -> tuple[bytes, bool]:
    """Read a body until its end or until it exceeds ``limit`` bytes; return it and whether it is whole."""
    chunks: list[bytes] = []
    size = 0
    while size <= limit:
        chunk = await response.next_chunk()
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks), False

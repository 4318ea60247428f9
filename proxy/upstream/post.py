"""Posting a detector's question over one of the proxy's pooled upstreams."""

from __future__ import annotations

from detectors.judge_transport import PostResponse
from proxy.headers import bearer
from proxy.upstream.protocol import Upstream, read_up_to

__all__ = ["READ_PATH", "PostOverUpstream"]

READ_PATH = "/v1/rass/read"
"""Where `rass serve-model` gives a conversation's coordinates."""

_MAX_BYTES = 1_048_576


class PostOverUpstream:
    """A ``PostTransport`` to one path of ``upstream``; ``purpose`` labels its metrics, ``max_bytes`` bounds answers."""

    def __init__(
        self, upstream: Upstream, path: str, api_key: str | None, *, purpose: str, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._upstream = upstream
        self._path = path
        self._purpose = purpose
        self._max_bytes = max_bytes
        self._headers = {"content-type": "application/json", **bearer(api_key)}

    async def __call__(self, body: bytes) -> PostResponse:
        """Send ``body``; raises an ``UpstreamError`` when there is no answer, ``ValueError`` for one too long."""
        response = await self._upstream.send(
            "POST", self._path, headers=self._headers, body=body, purpose=self._purpose
        )
        try:
            answer, whole = await read_up_to(response, self._max_bytes)
        finally:
            await response.close()
        if not whole:
            raise ValueError(f"{self._path} answered with more than {self._max_bytes} bytes")
        return PostResponse(response.status, answer)

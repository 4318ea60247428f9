"""How detectors reach a server: a narrow seam, and the standard library's HTTP client behind it.

The proxy supplies its own (pooled, asynchronous) transport; command lines use `UrllibTransport`.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Protocol

__all__ = ["PostResponse", "PostTransport", "UrllibTransport"]

_MAX_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class PostResponse:
    """What a server sent back: the status and the body's bytes."""

    status: int
    body: bytes


class PostTransport(Protocol):
    """Posts one JSON body to one address."""

    async def __call__(self, body: bytes) -> PostResponse:
        """Send ``body`` and return the response, whatever its status; may raise anything."""
        ...


class UrllibTransport:
    """A ``PostTransport`` that posts to one URL; ``timeout_s`` bounds each wait on the socket."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not an http or https address")
        self._url = url
        self._timeout_s = timeout_s
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"

    async def __call__(self, body: bytes) -> PostResponse:
        """Send ``body``; raises ``OSError`` when there is no answer, and returns every status that there is."""
        return await asyncio.to_thread(self._post, body)

    def _post(self, body: bytes) -> PostResponse:
        request = urllib.request.Request(self._url, data=body, headers=self._headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                return PostResponse(response.status, response.read(_MAX_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                return PostResponse(error.code, error.read(_MAX_BYTES))

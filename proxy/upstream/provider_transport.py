"""The connection under litellm: ours, shared by all requests of one upstream, and read along with.

Imported only where an upstream is of kind litellm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from proxy.upstream.provider_wire import ProviderWire


class WatchedTransport(httpx.AsyncBaseTransport):
    """Sends one exchange's requests over a shared transport and shows the answer's bytes to ``wire``.

    litellm's client sends a request again after a connection error, and then closes the transport that it was given.
    Neither happens here: what has failed once fails again without being sent, and closing is left to the owner. Nor do
    its time limits hold, which are for each read: only the connection has one here, the others are the upstream's own.
    """

    def __init__(self, shared: httpx.AsyncBaseTransport, wire: ProviderWire, *, connect_timeout_s: float) -> None:
        self._shared = shared
        self._wire = wire
        self._timeout = httpx.Timeout(None, connect=connect_timeout_s).as_dict()
        self._answer: httpx.AsyncByteStream | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what the shared transport raises."""
        if self._wire.failure is not None:
            raise self._wire.failure
        request.headers["accept-encoding"] = "identity"  # so that the bytes can be read here
        request.extensions["timeout"] = self._timeout
        self._wire.sent = True
        try:
            response = await self._shared.handle_async_request(request)
        except httpx.TransportError as error:
            self._wire.failure = error
            raise
        # Not httpx's own text of the values, whose encoding is a guess for all of them together.
        headers = {
            name.decode("latin-1").lower(): value.decode("utf-8", "surrogateescape")
            for name, value in response.headers.raw
        }
        self._wire.begin(response.status_code, headers)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._answer = response.stream = _WatchedStream(response.stream, self._wire)
        return response

    async def end(self) -> None:
        """Give the answer's connection back, or end it where bytes are left: the provider's work is then cancelled."""
        if self._answer is not None:
            await self._answer.aclose()

    async def aclose(self) -> None:
        """Leave the shared transport open."""


class _WatchedStream(httpx.AsyncByteStream):
    """A body that is shown to ``wire`` as it is read."""

    def __init__(self, stream: httpx.AsyncByteStream, wire: ProviderWire) -> None:
        self._stream = stream
        self._wire = wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._wire.feed(chunk)
                yield chunk
        except httpx.TransportError as error:
            self._wire.failure = error
            raise
        self._wire.end()

    async def aclose(self) -> None:
        await self._stream.aclose()

"""The circuit breaker around an upstream: what counts as a failure, and what a client is told while it is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from proxy.errors import UpstreamCircuitOpen, UpstreamError
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.breaker import Breaker, BreakerState, Ticket
from proxy.upstream.protocol import Upstream, UpstreamResponse

__all__ = ["Circuit"]


class Circuit:
    """An ``Upstream`` that is not asked while its breaker is open.

    Failures are: no connection, time-outs, answers that break off or are no HTTP, and 5xx; 4xx is the client's. Only
    requests of the purpose ``counted`` are counted and probe: failing detectors or attempts must not close the way for
    ordinary requests. They, too, are not sent unless the breaker is closed. Readiness checks always are, and tell
    nothing: a server can list its models and fail at every completion. The canary always is, too: while it fails no
    attempts are made, and at a steered server only those could close the breaker again.
    """

    def __init__(
        self,
        upstream: Upstream,
        settings: UpstreamSettings,
        metrics: Metrics,
        *,
        name: str,
        counted: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._name = name
        self._counted = counted
        self._breaker = Breaker(settings.circuit_failures, settings.circuit_open_s, clock)
        self._last_failure = ""
        self._show()

    @property
    def address(self) -> str:
        """The upstream's base address."""
        return self._upstream.address

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> UpstreamResponse:
        """Send a request, or raise ``UpstreamCircuitOpen``."""
        if purpose != self._counted:
            if purpose not in ("check", "canary") and self._breaker.state is not BreakerState.CLOSED:
                raise self._open(purpose)
            return await self._upstream.send(method, path, headers=headers, body=body, purpose=purpose)
        ticket = self._breaker.enter()
        if ticket is None:
            raise self._open(purpose)
        if ticket.probe:
            self._show()
        try:
            response = await self._upstream.send(method, path, headers=headers, body=body, purpose=purpose)
        except UpstreamError as error:
            self.failed(ticket, error.code)
            raise
        except BaseException:
            self.abandoned(ticket)
            raise
        if response.status >= 500:
            self.failed(ticket, f"status {response.status}")
        elif response.status >= 400:
            self.succeeded(ticket)
        else:
            return _Judged(response, self, ticket)
        return response

    async def close(self) -> None:
        """Close all connections."""
        await self._upstream.close()

    def succeeded(self, ticket: Ticket) -> None:
        """Take in that a request was answered."""
        self._breaker.succeeded(ticket)
        if ticket.probe:
            self._show()

    def failed(self, ticket: Ticket, why: str) -> None:
        """Take in that a request failed; ``why`` is told to other clients, so it is a code or status and no message."""
        self._last_failure = why
        self._breaker.failed(ticket)
        self._show()

    def abandoned(self, ticket: Ticket) -> None:
        """Take in that a request ended without an outcome."""
        self._breaker.abandoned(ticket)

    def _open(self, purpose: str) -> UpstreamCircuitOpen:
        self._metrics.rejected.labels(purpose, "circuit_open").inc()
        return UpstreamCircuitOpen(
            f"the upstream {self.address} kept failing (the last time: {self._last_failure}) and is left alone for a "
            "while; try again later, or look at the served model",
            retry_after_s=self._breaker.retry_after_s,
        )

    def _show(self) -> None:
        for state in BreakerState:
            self._metrics.circuit.labels(self._name, state).set(state is self._breaker.state)


class _Judged:
    """An answer that has begun: its end is a success, and for a probe its first byte already is."""

    def __init__(self, response: UpstreamResponse, circuit: Circuit, ticket: Ticket) -> None:
        self._response = response
        self._circuit = circuit
        self._ticket = ticket
        self.status = response.status
        self.headers = response.headers

    async def next_chunk(self) -> bytes:
        try:
            chunk = await self._response.next_chunk()
        except UpstreamError as error:
            self._circuit.failed(self._ticket, error.code)
            raise
        if not chunk or self._ticket.probe:
            self._circuit.succeeded(self._ticket)
        return chunk

    async def close(self) -> None:
        self._circuit.abandoned(self._ticket)
        await self._response.close()

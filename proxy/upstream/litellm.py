"""Providers that do not speak OpenAI's wire, through litellm.

Imported only where an upstream is of kind litellm. Requests are translated, so no byte identity is promised; what a
provider says about a refusal is, and so is its status (docs/providers.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from time import perf_counter

import httpx

from proxy.errors import UpstreamError, error_body
from proxy.metrics import Metrics
from proxy.readiness import MODELS_PATH
from proxy.settings.upstream import Provider, UpstreamSettings
from proxy.upstream.litellm_errors import about_credentials, described, status_of
from proxy.upstream.litellm_failures import Failures
from proxy.upstream.litellm_library import Library
from proxy.upstream.litellm_stream import StreamedResponse
from proxy.upstream.protocol import UpstreamResponse
from proxy.upstream.provider_transport import WatchedTransport
from proxy.upstream.provider_wire import ProviderWire
from proxy.upstream.translation import Untranslatable, completion, completion_arguments, provider_error
from proxy.wires.chat import CHAT

logger = logging.getLogger(__name__)

# These take their credentials from the environment (AWS, Google Cloud), never from a client.
_SIGNED = frozenset({Provider.BEDROCK, Provider.VERTEX_AI})


class WholeResponse:
    """Implements ``UpstreamResponse`` over bytes that are all there."""

    def __init__(self, status: int, payload: Mapping[str, object], headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": "application/json", **(headers or {})}
        self._rest = json.dumps(payload).encode()  # ASCII, as in `proxy.choice_bytes`

    async def next_chunk(self) -> bytes:
        """Return the body, then ``b""``."""
        chunk, self._rest = self._rest, b""
        return chunk

    async def close(self) -> None:
        """Do nothing: there is no connection left."""


class LitellmUpstream:
    """Implements ``Upstream``. Must be made inside a running event loop and closed in the same one."""

    def __init__(self, settings: UpstreamSettings, metrics: Metrics) -> None:
        assert settings.provider is not None
        self._settings = settings
        self._provider = settings.provider
        self._metrics = metrics
        self._failures = Failures(settings, metrics)
        self._library = Library(settings.provider)
        self._shared = httpx.AsyncHTTPTransport(
            # No limit of its own, as in `proxy.upstream.http`: `proxy.upstream.admission` has one.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=settings.keepalive_s)
        )

    @property
    def address(self) -> str:
        """The provider and, where it was given, its address."""
        return self._failures.address

    async def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", purpose: str
    ) -> UpstreamResponse:
        """Ask the provider for a completion, or answer a list of models from the settings; other paths are a 404."""
        if (method, path) == ("GET", MODELS_PATH):
            return WholeResponse(
                200, {"object": "list", "data": [_model(name, self._provider) for name in self._settings.models]}
            )
        if method == "GET" and (name := path.removeprefix(f"{MODELS_PATH}/")) in self._settings.models:
            return WholeResponse(200, _model(name, self._provider))
        if (method, path) != ("POST", CHAT.path):
            message = f"{method} {path} is not translated for {self.address}; POST {CHAT.path} is"
            return WholeResponse(404, error_body(message, "invalid_request_error", "path_not_translated"))
        try:
            arguments = completion_arguments(body)
        except Untranslatable as error:
            return WholeResponse(400, error.body)
        api_key = self._api_key(headers)
        if api_key is None and self._provider not in _SIGNED:
            message = f"no key for {self.address}; send one as `Authorization: Bearer …`, or set upstream.api_key"
            return WholeResponse(401, error_body(message, "authentication_error", "missing_api_key"))
        started = perf_counter()
        try:
            response = await self._complete(arguments, api_key)
        except UpstreamError as error:
            self._failures.count(error)
            raise
        self._metrics.upstream_seconds.labels(purpose).observe(perf_counter() - started)
        return response

    async def close(self) -> None:
        """Close all connections."""
        await self._shared.aclose()

    def _api_key(self, headers: Mapping[str, str]) -> str | None:
        """Return the settings' key, or the client's; litellm would otherwise take one from the environment."""
        if self._settings.api_key is not None:
            return self._settings.api_key.get_secret_value()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else ""
        return given if given and self._provider not in _SIGNED else None

    async def _complete(self, arguments: Mapping[str, object], api_key: str | None) -> UpstreamResponse:
        wire = ProviderWire()
        transport = WatchedTransport(self._shared, wire, connect_timeout_s=self._settings.connect_timeout_s)
        deadline = asyncio.get_running_loop().time() + self._settings.total_timeout_s
        streamed = arguments.get("stream") is True
        limit, limit_s = "total_timeout_s", self._settings.total_timeout_s
        if streamed and self._settings.first_byte_timeout_s < limit_s:
            limit, limit_s = "first_byte_timeout_s", self._settings.first_byte_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                if streamed:
                    stream = await self._library.stream(arguments, self._settings, api_key, transport)
                    return await StreamedResponse.begun(
                        stream, wire, transport, self._settings, self._failures, deadline
                    )
                answer = await self._library.complete(arguments, self._settings, api_key, transport)
            payload = completion(answer.model_dump(exclude_none=True), wire)
            return WholeResponse(200, payload, wire.relayed_headers)
        except TimeoutError as error:
            await transport.end()
            raise self._failures.late(f"sent no answer within {limit_s:g} s (upstream.{limit})") from error
        except asyncio.CancelledError:
            await transport.end()
            raise
        except Exception as error:
            # litellm's errors have no root of their own, and what its translations raise besides is not bounded.
            await transport.end()
            return self._refused(error, wire)

    def _refused(self, error: Exception, wire: ProviderWire) -> WholeResponse:
        """Return the error answer of a provider, or of litellm where it would not translate; raises otherwise.

        What is not sent can only be the request's fault or that of credentials, whatever status litellm gives it. Of
        the first, only what litellm says on purpose is passed on (its 400): the rest is traces of its own code.
        """
        if wire.failure is None and wire.status is not None and wire.status != 200:
            status = wire.status if wire.status >= 400 else 502
            return WholeResponse(status, provider_error(wire, described(error)), wire.relayed_headers)
        if wire.sent:
            self._failures.raise_for(error, wire)
        if about_credentials(error):
            logger.warning("the provider %s cannot be asked: %s", self.address, described(error))
            self._failures.raise_for(error, wire)
        why = described(error) if status_of(error) == 400 else "check the form of its messages and other fields"
        message = f"the request cannot be translated for {self.address}: {why}"
        return WholeResponse(400, error_body(message, "invalid_request_error", "untranslatable_request"))


def _model(name: str, provider: Provider) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": str(provider)}

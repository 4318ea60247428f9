"""litellm itself: imported only when asked, quietly, and handed connections of ours.

litellm does work when it is imported: it reads a ``.env`` file and fetches a price list. Two environment variables
turn that off; they are set for the import alone. Its logs may quote prompts and are switched off: what goes wrong is
told by `proxy.upstream.litellm_failures`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, assert_never

import httpx

from proxy.errors import StartupError
from proxy.settings.upstream import Provider, UpstreamSettings
from proxy.upstream.provider_transport import WatchedTransport

_QUIET_IMPORT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
_LOGGERS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")
_OPENAI_URL = "https://api.openai.com/v1"


class Answer(Protocol):
    """litellm's pydantic models, as far as they are used."""

    def model_dump(self, *, exclude_none: bool) -> dict[str, Any]:
        """Return the fields."""
        ...


class AnswerStream(Protocol):
    """litellm's stream of chunks."""

    def __aiter__(self) -> AsyncIterator[Answer]:
        """Return the chunks one after the other."""
        ...

    async def aclose(self) -> None:
        """End it."""
        ...


class Library:
    """litellm, loaded. Raises ``StartupError`` where it, or what the provider needs beside it, is not installed."""

    def __init__(self, provider: Provider) -> None:
        if provider is Provider.VERTEX_AI and importlib.util.find_spec("google.auth") is None:
            raise StartupError(
                "upstream.provider vertex_ai signs with the package google-auth; pip install google-auth"
            )
        self._provider = provider
        self._litellm = _imported()
        self._handlers = importlib.import_module("litellm.llms.custom_httpx.http_handler")

    async def complete(
        self,
        arguments: Mapping[str, object],
        settings: UpstreamSettings,
        api_key: str | None,
        transport: WatchedTransport,
    ) -> Answer:
        """Ask for a whole completion; raises whatever litellm raises."""
        answer: Answer = await self._litellm.acompletion(
            **{**arguments, **self._orders(arguments, settings, api_key, transport)}
        )
        return answer

    async def stream(
        self,
        arguments: Mapping[str, object],
        settings: UpstreamSettings,
        api_key: str | None,
        transport: WatchedTransport,
    ) -> AnswerStream:
        """Ask for a stream; raises whatever litellm raises, and so do its chunks."""
        stream: AnswerStream = await self._litellm.acompletion(
            **{**arguments, **self._orders(arguments, settings, api_key, transport)}
        )
        return stream

    def _orders(
        self,
        arguments: Mapping[str, object],
        settings: UpstreamSettings,
        api_key: str | None,
        transport: WatchedTransport,
    ) -> dict[str, object]:
        """Return what litellm is told beside the request.

        No retries and no fallbacks, no callbacks, no cache: those are the proxy's own business or nobody's.
        """
        # For the connection alone: how long an answer and its pauses may take is for those to say who read it.
        timeout = httpx.Timeout(None, connect=settings.connect_timeout_s)
        return {
            "model": f"{self._provider}/{settings.model_prefix}{arguments['model']}",
            "custom_llm_provider": str(self._provider),
            "api_base": settings.provider_url,
            "api_key": api_key,
            "api_version": settings.api_version if self._provider is Provider.AZURE else None,
            "client": self._client(settings, api_key, transport, timeout),
            "timeout": timeout,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": False,
            "no-log": True,
            "_skip_mcp_handler": True,
        }

    def _client(
        self, settings: UpstreamSettings, api_key: str | None, transport: WatchedTransport, timeout: httpx.Timeout
    ) -> object:
        """Return what litellm sends with: a client of one request's own over the shared connections."""
        match self._provider:
            case Provider.OPENAI | Provider.AZURE:
                return self._sdk_client(settings, api_key, transport, timeout)
            case Provider.ANTHROPIC | Provider.BEDROCK | Provider.GEMINI | Provider.VERTEX_AI:
                return self._handlers.AsyncHTTPHandler(timeout=timeout, transport=transport, follow_redirects=False)
            case _:
                assert_never(self._provider)

    def _sdk_client(
        self, settings: UpstreamSettings, api_key: str | None, transport: WatchedTransport, timeout: httpx.Timeout
    ) -> object:
        import openai

        http_client = httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)
        if self._provider is Provider.AZURE:
            return openai.AsyncAzureOpenAI(
                api_key=api_key,
                azure_endpoint=settings.provider_url or "",
                api_version=settings.api_version,
                http_client=http_client,
                max_retries=0,
            )
        return openai.AsyncOpenAI(
            api_key=api_key, base_url=settings.provider_url or _OPENAI_URL, http_client=http_client, max_retries=0
        )


def _imported() -> Any:
    try:
        with _environment(_QUIET_IMPORT):
            litellm: Any = importlib.import_module("litellm")
    except ImportError as error:
        raise StartupError(
            f"upstream.kind litellm needs the package litellm, which cannot be imported ({error}); install it with "
            "pip install --no-deps --require-hashes -r requirements-litellm.lock"
        ) from error
    litellm.suppress_debug_info = True  # it prints to the terminal otherwise
    for name in _LOGGERS:
        logging.getLogger(name).disabled = True
    return litellm


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

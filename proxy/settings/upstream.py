"""The served model behind the proxy: where it is, and how long and how often it is asked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

from proxy.settings.group import Group, http_url, listed

__all__ = ["Provider", "UpstreamKind", "UpstreamSettings"]


def _provider_url(value: str) -> str:
    http_url(value)
    return value.rstrip("/")  # what follows the host, /v1 included, is the provider's


class UpstreamKind(StrEnum):
    """How the proxy speaks to an upstream."""

    OPENAI = "openai"
    LITELLM = "litellm"


class Provider(StrEnum):
    """The providers whose own wire is read beside litellm."""

    ANTHROPIC = "anthropic"
    AZURE = "azure"
    BEDROCK = "bedrock"
    GEMINI = "gemini"
    OPENAI = "openai"
    VERTEX_AI = "vertex_ai"


class UpstreamSettings(Group):
    """The served model behind the proxy."""

    kind: UpstreamKind = Field(
        default=UpstreamKind.OPENAI,
        description="openai: a server at url that speaks OpenAI's wire, relayed byte for byte. litellm: a provider "
        "that needs translating.",
    )
    provider: Provider | None = Field(
        default=None,
        description="Kind litellm: anthropic, azure, bedrock, gemini, openai (Azure's v1 address too) or vertex_ai.",
    )
    provider_url: Annotated[str, AfterValidator(_provider_url)] | None = Field(
        default=None, description="Kind litellm: the provider's address where it is not its public one; azure needs it."
    )
    model_prefix: str = Field(
        default="", description="Kind litellm: put before a model's name on its way to the provider."
    )
    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)] = Field(
        default=(), description="Kind litellm: the names that /v1/models lists; any other may be asked for as well."
    )
    api_version: str = Field(default="2024-10-21", min_length=1, description="Kind litellm: Azure's API version.")
    url: Annotated[str, AfterValidator(http_url)] = Field(
        default="http://127.0.0.1:8081", description="Address of the OpenAI-compatible server, with or without /v1."
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Sent upstream instead of the client's Authorization header; unset relays the client's.",
    )
    connect_timeout_s: PositiveFloat = Field(
        default=5.0, description="Longest wait for a connection (name, TCP and TLS), in seconds."
    )
    first_byte_timeout_s: PositiveFloat = Field(
        default=120.0, description="Longest wait from sending a request to the answer's headers, in seconds."
    )
    first_token_timeout_s: PositiveFloat = Field(
        default=120.0, description="Longest wait from the headers to the first byte of the body, in seconds."
    )
    idle_timeout_s: PositiveFloat = Field(
        default=60.0, description="Longest silence inside an answer that has begun, in seconds."
    )
    total_timeout_s: PositiveFloat = Field(default=600.0, description="Longest whole answer, in seconds.")
    retries: NonNegativeInt = Field(
        default=2,
        description="How often a request is sent again after no connection or status 429, 500, 502, 503 or 504.",
    )
    retry_time_limit_s: PositiveFloat = Field(
        default=10.0,
        description="Nothing is sent again later than this after the first time; a longer Retry-After is not waited "
        "for: the answer goes back as it came.",
    )
    retry_backoff_s: PositiveFloat = Field(
        default=0.25, description="Longest random wait before the first retry, in seconds; it doubles with each."
    )
    circuit_failures: NonNegativeInt = Field(
        default=10,
        description="Failures in a row (no connection, time-outs, broken answers, 5xx) after which the upstream is "
        "left alone; 0: never.",
    )
    circuit_open_s: PositiveFloat = Field(
        default=10.0, description="How long it is left alone before one request tries it again, in seconds."
    )
    connections: PositiveInt = Field(default=1000, description="Most requests of clients at the upstream at once.")
    side_connections: PositiveInt = Field(
        default=100, description="Most readings, verdicts and attempts at the upstream at once, beside those."
    )
    queue_length: NonNegativeInt = Field(
        default=1000, description="Most requests that wait for one of those places, for each of both kinds."
    )
    queue_time_limit_s: PositiveFloat = Field(default=10.0, description="Longest wait for a place, in seconds.")
    keepalive_s: PositiveFloat = Field(
        default=60.0, description="How long an idle connection is kept for reuse, in seconds."
    )

    @model_validator(mode="after")
    def _names_a_provider(self) -> UpstreamSettings:
        if self.kind is UpstreamKind.LITELLM and self.provider is None:
            raise ValueError(f"kind litellm needs a provider; set upstream.provider to one of {', '.join(Provider)}")
        if self.kind is UpstreamKind.OPENAI and self.provider is not None:
            raise ValueError("a provider is for kind litellm only; set upstream.kind to litellm, or leave provider out")
        if self.provider is Provider.AZURE and self.provider_url is None:
            raise ValueError("provider azure needs provider_url, such as https://NAME.openai.azure.com")
        return self

    def towards(self, url: str) -> UpstreamSettings:
        """Return the same limits towards another server, which speaks OpenAI's wire."""
        return self.model_copy(update={"kind": UpstreamKind.OPENAI, "provider": None, "url": url})

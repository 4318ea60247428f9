"""What operators decide: sizes, relayed paths, keys and rights, reload, traces and audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt
from pydantic_settings import NoDecode

from proxy.relayed_path import RelayedPath
from proxy.settings.group import Group, listed

__all__ = [
    "AuditSettings",
    "KeySettings",
    "LimitSettings",
    "RelaySettings",
    "ReloadSettings",
    "RightSettings",
    "TelemetrySettings",
]


def _relayed_path(value: str) -> str:
    return str(RelayedPath.parse(value))


def _otlp_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:4318/v1/traces")
    return value


class LimitSettings(Group):
    """Sizes."""

    max_request_bytes: PositiveInt = Field(default=4_194_304, description="Largest request body.")
    max_json_depth: PositiveInt = Field(
        default=64, le=500, description="Deepest nesting of a request's JSON; tools with large schemas need about 20."
    )
    max_messages: PositiveInt = Field(
        default=2048,
        description="Most messages of one conversation, input items of a response, or prompts of a completion.",
    )
    max_headers: PositiveInt = Field(default=100, description="Most headers of a request.")
    max_header_bytes: PositiveInt = Field(
        default=32_768, le=65_536, description="Longest headers of a request together."
    )
    body_timeout_s: PositiveFloat = Field(
        default=60.0, description="Longest wait for a request's whole body, in seconds."
    )
    max_judged_bytes: PositiveInt = Field(
        default=4_194_304,
        description="Largest answer that is held whole to be judged; a longer one is relayed unjudged.",
    )


class RelaySettings(Group):
    """Paths that are relayed byte for byte and not judged; nothing that is not listed is relayed."""

    paths: Annotated[tuple[Annotated[str, AfterValidator(_relayed_path)], ...], NoDecode, BeforeValidator(listed)] = (
        Field(
            default=(
                "GET /v1/models",
                "GET /v1/models/*",
                "POST /v1/embeddings",
                "POST /v1/moderations",
                "POST /v1/rerank",
                "POST /v1/score",
                "POST /v1/audio/speech",
                "POST /v1/audio/transcriptions",
                "POST /v1/audio/translations",
                "POST /v1/images/generations",
                "POST /v1/images/edits",
                "POST /v1/images/variations",
                "POST /tokenize",
                "POST /detokenize",
            ),
            description="Method and path of each; a last segment * stands for whatever comes below. Keep paths out "
            "that change or reveal the engine.",
        )
    )
    max_request_bytes: PositiveInt = Field(
        default=33_554_432, description="Largest body; it is held whole, since it is looked through for engine fields."
    )
    max_answer_bytes: PositiveInt = Field(default=268_435_456, description="Largest answer; it is never held.")


class RightSettings(Group):
    """What every client may do; a key may have the right by itself."""

    allow_client_steering: bool = Field(
        default=False,
        description="Relay clients' steering and engine-internal fields (rass, vllm_xargs and so on).",
    )


_OPERATION_PATHS = ("/healthz", "/readyz", "/metrics")


def _open_paths(value: str) -> str:
    for path in (part.strip() for part in value.split(",")):
        if path and path not in _OPERATION_PATHS:
            raise ValueError(f"{path!r} cannot be open; only {', '.join(_OPERATION_PATHS)} can be")
    return value


class KeySettings(Group):
    """API keys of clients."""

    file: Path | None = Field(
        default=None, description="Key file that `rass-proxy keys add` writes; unset: nobody is asked for a key."
    )
    open_paths: Annotated[str, AfterValidator(_open_paths)] = Field(
        default=",".join(_OPERATION_PATHS),
        description="Paths that need no key, separated by commas; /healthz, /readyz and /metrics can be open.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Listen on a public address without a key file: whoever reaches the port is served.",
    )

    @property
    def opened(self) -> frozenset[str]:
        """The paths that need no key."""
        return frozenset(part.strip() for part in self.open_paths.split(",") if part.strip())


class ReloadSettings(Group):
    """Reading settings, keys and bundle again while running; SIGHUP always does."""

    watch: bool = Field(default=True, description="Also reload when one of their files changes.")
    poll_s: float = Field(default=5.0, gt=0, le=3600, description="Seconds between looks at these files.")


class TelemetrySettings(Group):
    """OpenTelemetry traces; needs the extra otel."""

    otlp_endpoint: Annotated[str, AfterValidator(_otlp_url)] | None = Field(
        default=None,
        description="Where spans go (OTLP over HTTP), such as http://127.0.0.1:4318/v1/traces; unset: no traces.",
    )


class AuditSettings(Group):
    """A JSONL row for each refused or recovered exchange."""

    path: Path | None = Field(default=None, description="File to append rows to; unset writes none.")
    include_text: bool = Field(
        default=False, description="Also write the conversation and the answers; mind who can read it."
    )

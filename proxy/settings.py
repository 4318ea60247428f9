"""The proxy's settings: flags over environment over file over default.

Environment variables are ``RASS_PROXY_`` and the key in capitals, groups joined by two underscores
(``RASS_PROXY_RECOVERY__MAX_ATTEMPTS=1``). Files are TOML or YAML. The commented default file that ``rass-proxy config``
prints is generated from these models, so a field's description is its documentation.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxy.exchange import Mode
from proxy.log_format import LogFormat
from proxy.steering import DialectName

ENVIRONMENT_PREFIX = "RASS_PROXY_"
FIXED_WHILE_RUNNING = ("host", "port", "drain_timeout_s", "log_level", "log_format", "log_text")
"""Keys that a reload cannot change, because what they set up is there before and after the application."""


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:8081")
    if parts.query or parts.fragment:
        raise ValueError(f"{value!r} must not have a query or a fragment")
    return value.rstrip("/").removesuffix("/v1")


def _otlp_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:4318/v1/traces")
    return value


class Group(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UpstreamSettings(Group):
    """The served model behind the proxy."""

    url: Annotated[str, AfterValidator(_http_url)] = Field(
        default="http://127.0.0.1:8081", description="Address of the OpenAI-compatible server, with or without /v1."
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Sent upstream instead of the client's Authorization header; unset relays the client's.",
    )
    connect_timeout_s: PositiveFloat = Field(default=5.0, description="Longest wait for a connection, in seconds.")
    first_byte_timeout_s: PositiveFloat = Field(
        default=120.0, description="Longest wait from sending a request to the answer's headers, in seconds."
    )
    idle_timeout_s: PositiveFloat = Field(default=60.0, description="Longest silence inside an answer, in seconds.")
    total_timeout_s: PositiveFloat = Field(default=600.0, description="Longest whole answer, in seconds.")
    connections: PositiveInt = Field(default=1000, description="Most connections open to the upstream at once.")
    keepalive_s: PositiveFloat = Field(
        default=60.0, description="How long an idle connection is kept for reuse, in seconds."
    )


class SteeringSettings(Group):
    """How the served model is told to steer."""

    dialect: DialectName = Field(
        default=DialectName.NATIVE,
        description="native: `rass serve-model`. none: an engine that cannot steer.",
    )


class RecoverySettings(Group):
    """Budgets of recovery; each is a hard bound."""

    max_attempts: PositiveInt = Field(default=2, description="Most attempts for one request.")
    time_limit_s: PositiveFloat = Field(default=30.0, description="Longest recovery of one request, in seconds.")
    max_upstream_share: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Attempts earned by each ordinary request: 1.0 at most doubles the upstream's traffic.",
    )
    burst: PositiveInt = Field(
        default=50, description="Attempts that may be saved up, and that are there at the start."
    )


class StreamSettings(Group):
    """Streams in mode recover: how much of the head is held back, and for how long."""

    head_chars: PositiveInt = Field(
        default=240, description="Characters after which an undecided head is judged as it is."
    )
    head_ms: PositiveInt = Field(default=1500, description="Milliseconds from the first content to the same.")
    buffer_bytes: PositiveInt = Field(
        default=262_144,
        description="Bytes of a refused original, and of an attempt, that are kept; a longer one is relayed.",
    )
    headers_within_s: PositiveFloat = Field(
        default=2.0,
        description="Headers leave after this long even while recovery runs, so that they cannot name its outcome.",
    )
    keepalive_s: PositiveFloat = Field(default=5.0, description="Seconds between SSE comments while recovery runs.")


class BoundaryKind(StrEnum):
    """What judges requests, and what judges recovered answers."""

    ACTIVATION = "activation"
    JUDGE = "judge"
    ONNX = "onnx"


class DetectorSettings(Group):
    """Detectors."""

    deadline_s: PositiveFloat = Field(
        default=10.0, description="Longest wait for one reading of the boundary or of an answer."
    )
    boundary: BoundaryKind = Field(
        default=BoundaryKind.ACTIVATION,
        description="Who judges requests. activation: the served model's own coordinates, through the bundle. judge: a "
        "guard model. onnx: a text classifier.",
    )
    answer_harm: BoundaryKind = Field(
        default=BoundaryKind.ACTIVATION, description="Who judges recovered answers; the same kinds."
    )
    boundary_onnx: Path | None = Field(default=None, description="Folder of the classifier of requests.")
    answer_harm_onnx: Path | None = Field(default=None, description="Folder of the classifier of answers.")
    onnx_threads: PositiveInt = Field(default=1, description="CPU threads of one inference.")


class JudgeSettings(Group):
    """A guard model that is asked a yes-or-no question, for detectors of kind judge."""

    url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        default=None, description="Address of its OpenAI-compatible server; unset asks the served model itself."
    )
    api_key: SecretStr | None = Field(default=None, description="Key of its server.")
    model: str | None = Field(default=None, description="Its name there; unset takes the name in the request.")
    yes: str = Field(default="yes", min_length=1, description="Answers that mean harmful, separated by commas.")
    no: str = Field(default="no", min_length=1, description="Answers that mean harmless, separated by commas.")
    timeout_s: PositiveFloat = Field(default=5.0, description="Longest wait for its answer, in seconds.")
    benign_below: float | None = Field(
        default=None, description="A request below this logit (log-odds of yes) is benign; unset: none is."
    )
    harmful_above: float | None = Field(
        default=None, description="A request above this logit is harmful; unset: none is."
    )
    answer_benign_below: float | None = Field(
        default=None, description="A recovered answer below this logit is harmless; unset: none is."
    )
    answer_harmful_above: float | None = Field(
        default=None, description="A recovered answer above this logit is harmful; unset: none is."
    )


class LimitSettings(Group):
    """Sizes."""

    max_request_bytes: PositiveInt = Field(default=4_194_304, description="Largest request body.")
    max_json_depth: PositiveInt = Field(
        default=64, le=500, description="Deepest nesting of a request's JSON; tools with large schemas need about 20."
    )
    max_messages: PositiveInt = Field(default=2048, description="Most messages of one conversation.")
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


class RightSettings(Group):
    """What every client may do; a key may have the right by itself."""

    allow_client_steering: bool = Field(
        default=False,
        description="Relay clients' steering fields (rass, vllm_xargs, kv_transfer_params).",
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


class Settings(BaseSettings):
    """All settings of the proxy."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    mode: Mode = Field(
        default=Mode.OBSERVE,
        description="off: relay. observe: count refusals. recover: also recover over-refusals.",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    bundle: str | None = Field(
        default=None,
        description='Folder of the bundle that build-vectors exported, or "reference"; mode recover needs one.',
    )
    drain_timeout_s: NonNegativeFloat = Field(
        default=30.0, description="How long exchanges may still run after SIGTERM, in seconds."
    )
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error."
    )
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="text: for people. json: one object a line.")
    log_text: bool = Field(
        default=False, description="Let prompts and answers into the log; without it none of their text is."
    )
    upstream: UpstreamSettings = Field(default_factory=UpstreamSettings)
    steering: SteeringSettings = Field(default_factory=SteeringSettings)
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    detectors: DetectorSettings = Field(default_factory=DetectorSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    rights: RightSettings = Field(default_factory=RightSettings)
    keys: KeySettings = Field(default_factory=KeySettings)
    reload: ReloadSettings = Field(default_factory=ReloadSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)

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
from proxy.steering import DialectName

ENVIRONMENT_PREFIX = "RASS_PROXY_"


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:8081")
    if parts.query or parts.fragment:
        raise ValueError(f"{value!r} must not have a query or a fragment")
    return value.rstrip("/").removesuffix("/v1")


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
        description="native: `rass serve-model`. vllm-lens, hotwire: vLLM with that plugin. pair: a plain and a "
        "steered server, such as llama.cpp's. none: an engine that cannot steer.",
    )
    hotwire_slots: PositiveInt = Field(
        default=16, description="HOTWIRE_SLOTS of the vLLM server: what the proxy may use for as long as that lives."
    )
    pair_url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        default=None, description="Address of the steered server of a pair; upstream.url is the plain one."
    )
    pair_model: str | None = Field(
        default=None, description="Name of the model at the steered server; unset keeps the request's."
    )
    pair_vector: str | None = Field(
        default=None, description="Name of the bundle's vector that the steered server was started with."
    )
    pair_strength: float | None = Field(default=None, description="Strength that the steered server was started with.")


class CanarySettings(Group):
    """A probe that shows again and again whether the engine steers what it is asked to, and nothing else."""

    enabled: bool = Field(default=True, description="Run it where the mode steers; modes off and observe never do.")
    interval_s: PositiveFloat = Field(default=60.0, description="Seconds from the end of one probe to the next.")
    jitter: float = Field(
        default=0.2, ge=0, le=1, description="Share of the interval by which it varies, so that workers spread out."
    )
    time_limit_s: PositiveFloat = Field(default=30.0, description="Longest probe, all its requests together.")
    failures: PositiveInt = Field(
        default=3, description="Failed probes in a row after which the mode falls back to observe, until one passes."
    )
    max_tokens: PositiveInt = Field(default=12, description="Tokens of each answer to the probe.")
    prompt: str = Field(
        default="Please name three colours of the rainbow, and say in one short sentence for each of them where in "
        "nature it can be seen. Write plain sentences, without a list and without a heading.",
        min_length=1,
        description="What is asked: harmless, and long enough to fill a block of the engine's prefix cache.",
    )
    model: str | None = Field(default=None, description="Model to ask; unset asks the first that the upstream lists.")


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
    max_judged_bytes: PositiveInt = Field(
        default=4_194_304,
        description="Largest answer that is held whole to be judged; a longer one is relayed unjudged.",
    )


class RightSettings(Group):
    """What clients may do."""

    allow_client_steering: bool = Field(
        default=False,
        description="Relay clients' steering fields (rass, vllm_xargs, kv_transfer_params).",
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
    upstream: UpstreamSettings = Field(default_factory=UpstreamSettings)
    steering: SteeringSettings = Field(default_factory=SteeringSettings)
    canary: CanarySettings = Field(default_factory=CanarySettings)
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    detectors: DetectorSettings = Field(default_factory=DetectorSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    rights: RightSettings = Field(default_factory=RightSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)

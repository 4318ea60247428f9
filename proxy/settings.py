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
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from proxy.exchange import Mode
from proxy.ladder import ClarifyWhen, Rules, Step
from proxy.log_format import LogFormat
from proxy.relayed_path import RelayedPath
from proxy.steering import DialectName
from proxy.wires.protocol import Surface

ENVIRONMENT_PREFIX = "RASS_PROXY_"
DEFAULT_ROUTE = "default"
FIXED_WHILE_RUNNING = ("host", "port", "workers", "drain_timeout_s", "log_level", "log_format", "log_text")
"""Keys that a reload cannot change, because what they set up is there before and after the application."""


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:8081")
    if parts.query or parts.fragment:
        raise ValueError(f"{value!r} must not have a query or a fragment")
    return value.rstrip("/").removesuffix("/v1")


def _provider_url(value: str) -> str:
    _http_url(value)
    return value.rstrip("/")  # what follows the host, /v1 included, is the provider's


def _listed(value: object) -> object:
    """Take a list as words joined by commas too, as flags and environment variables give it."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _each_once(ladder: tuple[Step, ...]) -> tuple[Step, ...]:
    if len(set(ladder)) != len(ladder):
        raise ValueError("a step may stand in the ladder only once")
    return ladder


def _relayed_path(value: str) -> str:
    return str(RelayedPath.parse(value))


def _otlp_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:4318/v1/traces")
    return value


class Group(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    models: tuple[str, ...] = Field(
        default=(), description="Kind litellm: the names that /v1/models lists; any other may be asked for as well."
    )
    api_version: str = Field(default="2024-10-21", min_length=1, description="Kind litellm: Azure's API version.")
    url: Annotated[str, AfterValidator(_http_url)] = Field(
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

    enabled: bool = Field(default=True, description="Run it where the mode steers, and before another bundle is taken.")
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


class FallbackSettings(Group):
    """Step fallback: another model, asked where the served one refuses."""

    model: str | None = Field(default=None, min_length=1, description="Name of the model; unset has no such step.")
    url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        default=None, description="Address of its server; unset asks the upstream."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key for it; unset sends the client's to the upstream, and none to another url."
    )
    allow_band: bool = Field(
        default=False,
        description="The model is at least as safe as the served one (its rate of refused harmful requests is no "
        "lower): ask it near the boundary too.",
    )


class RecoverySettings(Group):
    """The ladder of recovery and its budgets; each budget is a hard bound of one process."""

    ladder: Annotated[tuple[Step, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_each_once)] = Field(
        default=(Step.STEER, Step.CLARIFY, Step.FALLBACK),
        description="Steps in the order in which they are tried; one that is left out is never taken. steer: the same "
        "request, steered. clarify: with a note that it was judged harmless. fallback: to another model.",
    )
    surfaces: Annotated[tuple[Surface, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=(Surface.CHAT,),
        description="APIs whose refusals are recovered (chat, completions, responses); the others are observed. The "
        "served engine must steer what is listed here: `rass serve-model` has chat alone.",
    )
    clarify: ClarifyWhen = Field(
        default=ClarifyWhen.VALIDATED,
        description="validated: step clarify where the bundle's validation covered it. always: for any model. never.",
    )
    typed_refusals: bool = Field(
        default=False, description="Also recover refusals by type (message.refusal), in the benign zone."
    )
    filters: bool = Field(
        default=False, description="Also recover what a provider's filter refused, in the benign zone."
    )
    partial: bool = Field(
        default=False, description="Also recover partial answers, in the benign zone and never in streams."
    )
    max_attempts: PositiveInt = Field(default=3, description="Most attempts for one request, all choices together.")
    time_limit_s: PositiveFloat = Field(default=30.0, description="Longest recovery of one request, in seconds.")
    max_tokens: PositiveInt = Field(
        default=65_536,
        description="No attempt starts that would bring a request's attempts above this many tokens with its prompt.",
    )
    max_upstream_share: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Attempts earned by each ordinary request: 1.0 at most doubles the upstream's traffic.",
    )
    burst: PositiveInt = Field(
        default=50, description="Attempts that may be saved up, and that are there at the start."
    )
    max_key_share: float = Field(default=1.0, gt=0, le=10, description="The same for each key: earned by its requests.")
    key_burst: PositiveInt = Field(default=50, description="The same for each key: saved up, and there at the start.")
    tracked_keys: PositiveInt = Field(
        default=10_000, description="Keys whose budgets are kept; beyond, the one used longest ago starts anew."
    )
    shadow_tasks: PositiveInt = Field(
        default=16, description="Mode shadow: most recoveries in the background at once; beyond, none is begun."
    )
    fallback: FallbackSettings = Field(default_factory=FallbackSettings)

    @property
    def rules(self) -> Rules:
        """What these settings add to the decision table."""
        return Rules(
            typed_refusals=self.typed_refusals,
            filters=self.filters,
            partial=self.partial,
            fallback_in_band=self.fallback.allow_band,
        )


class StreamSettings(Group):
    """Streams in mode recover: how much of the head is held back, and for how long."""

    head_chars: PositiveInt = Field(
        default=240, description="Characters after which an undecided head is judged as it is."
    )
    hold_reasoning: bool = Field(
        default=False,
        description="Hold reasoning (reasoning_content, reasoning) back with the head; false relays it at once.",
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


class RelaySettings(Group):
    """Paths that are relayed byte for byte and not judged; nothing that is not listed is relayed."""

    paths: Annotated[tuple[Annotated[str, AfterValidator(_relayed_path)], ...], NoDecode, BeforeValidator(_listed)] = (
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


class RouteSettings(Group):
    """Models that are served in their own way. A table given here takes the place of the whole one above."""

    name: str = Field(
        pattern="^[a-z0-9][a-z0-9_-]{0,39}$", description="What /readyz and the metrics call it; default is taken."
    )
    models: tuple[str, ...] = Field(
        min_length=1, description='Shell patterns of model names, such as "gpt-*"; the first route that fits serves.'
    )
    mode: Mode | None = Field(default=None, description="Unset: as above.")
    bundle: str | None = Field(
        default=None, description="Unset: as above, but none where the route has an upstream of its own."
    )
    upstream: UpstreamSettings | None = Field(default=None, description="Unset: as above, and so are the others.")
    steering: SteeringSettings | None = Field(default=None, description="How its served model is told to steer.")
    recovery: RecoverySettings | None = Field(default=None, description="Its budgets of recovery.")
    canary: CanarySettings | None = Field(default=None, description="The probe of its steering.")
    stream: StreamSettings | None = Field(default=None, description="How much of its streams' heads is held back.")
    detectors: DetectorSettings | None = Field(default=None, description="Its detectors.")
    judge: JudgeSettings | None = Field(default=None, description="Its guard model.")

    def overrides(self) -> dict[str, object]:
        """Return the settings that it replaces, by name."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in ("name", "models")}
        given = {name: value for name, value in given.items() if value is not None}
        # A bundle was measured on one served model: it does not go with another upstream.
        return {"bundle": None, **given} if self.upstream is not None else given


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
        description="off: relay. observe: count refusals. shadow: try to recover over-refusals in the background, "
        "deliver the original. recover: recover them. steer: also steer what would be over-refused at once.",
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that serve the port together. Figures are summed over them; limits that are not of one "
        "request (upstream.connections, recovery.burst) hold for each.",
    )
    bundle: str | None = Field(
        default=None,
        description='Folder of the bundle that build-vectors exported, or "reference"; steering needs one.',
    )
    drain_timeout_s: NonNegativeFloat = Field(
        default=30.0, description="How long exchanges may still run after SIGTERM, in seconds."
    )
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error."
    )
    routes: tuple[RouteSettings, ...] = Field(
        default=(),
        description="Tables of models that are served in their own way ([[routes]]; docs/providers.md). All others are "
        "served as this file says otherwise.",
    )
    default_route: bool = Field(
        default=True, description="false: a model that no route names is answered with 404 model_not_found."
    )
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="text: for people. json: one object a line.")
    log_text: bool = Field(
        default=False, description="Let prompts and answers into the log; without it none of their text is."
    )
    upstream: UpstreamSettings = Field(default_factory=UpstreamSettings)
    steering: SteeringSettings = Field(default_factory=SteeringSettings)
    canary: CanarySettings = Field(default_factory=CanarySettings)
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    detectors: DetectorSettings = Field(default_factory=DetectorSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    relay: RelaySettings = Field(default_factory=RelaySettings)
    rights: RightSettings = Field(default_factory=RightSettings)
    keys: KeySettings = Field(default_factory=KeySettings)
    reload: ReloadSettings = Field(default_factory=ReloadSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)

    @model_validator(mode="after")
    def _routes_are_told_apart(self) -> Settings:
        names = [DEFAULT_ROUTE, *(route.name for route in self.routes)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the route name {name!r} is taken twice; give each route a name of its own")
        if not self.default_route and not self.routes:
            raise ValueError("without the default route and without routes no model is served; add one to routes")
        return self

    @property
    def dialect(self) -> DialectName:
        """The dialect that the upstream understands: a provider behind litellm is never steered."""
        return DialectName.NONE if self.upstream.kind is UpstreamKind.LITELLM else self.steering.dialect

    def of_route(self, route: RouteSettings) -> Settings:
        """Return the settings by which a route's models are served."""
        return self.model_copy(update={**route.overrides(), "routes": (), "default_route": True})

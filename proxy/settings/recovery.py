"""Recovery: how the engine steers and is watched, the ladder and its budgets, and what is held of a stream."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, SecretStr, model_validator
from pydantic_settings import NoDecode

from proxy.ladder import ClarifyWhen, Rules, Step
from proxy.settings.group import Group, http_url, listed
from proxy.steering import DialectName
from proxy.wires.protocol import Surface

__all__ = ["CanarySettings", "FallbackSettings", "RecoverySettings", "SteeringSettings", "StreamSettings"]


def _each_once(ladder: tuple[Step, ...]) -> tuple[Step, ...]:
    if len(set(ladder)) != len(ladder):
        raise ValueError("a step may stand in the ladder only once")
    return ladder


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
    pair_url: Annotated[str, AfterValidator(http_url)] | None = Field(
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
    route: str | None = Field(
        default=None,
        min_length=1,
        description="Name of the route whose upstream is asked, with that route's key and limits; unset: see url.",
    )
    url: Annotated[str, AfterValidator(http_url)] | None = Field(
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

    @model_validator(mode="after")
    def _names_one_place(self) -> FallbackSettings:
        if self.route is None:
            return self
        if self.model is None:
            raise ValueError("a fallback's route needs a model to ask for there; set recovery.fallback.model")
        if self.url is not None or self.api_key is not None:
            raise ValueError("a fallback's route has an address and a key of its own; leave out url and api_key")
        return self


class RecoverySettings(Group):
    """The ladder of recovery and its budgets; each budget is a hard bound of one process."""

    ladder: Annotated[tuple[Step, ...], NoDecode, BeforeValidator(listed), AfterValidator(_each_once)] = Field(
        default=(Step.STEER, Step.CLARIFY, Step.FALLBACK),
        description="Steps in the order in which they are tried; one that is left out is never taken. steer: the same "
        "request, steered. clarify: with a note that it was judged harmless. fallback: to another model.",
    )
    surfaces: Annotated[tuple[Surface, ...], NoDecode, BeforeValidator(listed)] = Field(
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
        default=700, description="Characters after which an undecided head is judged as it is."
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
    keepalive_s: PositiveFloat = Field(
        default=5.0,
        description="Seconds between SSE comments while recovery runs, or a stream's content is waited for.",
    )

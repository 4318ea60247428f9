"""The proxy's settings: flags over environment over file over default.

Environment variables are ``RASS_PROXY_`` and the key in capitals, groups joined by two underscores
(``RASS_PROXY_RECOVERY__MAX_ATTEMPTS=1``). Files are TOML or YAML. The commented default file that ``rass-proxy config``
prints is generated from these models, so a field's description is its documentation.
"""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from proxy.exchange import Mode
from proxy.log_format import LogFormat
from proxy.settings.detectors import DetectorSettings, JudgeSettings
from proxy.settings.group import Group
from proxy.settings.operation import (
    AuditSettings,
    KeySettings,
    LimitSettings,
    RelaySettings,
    ReloadSettings,
    RightSettings,
    TelemetrySettings,
)
from proxy.settings.recovery import CanarySettings, FallbackSettings, RecoverySettings, SteeringSettings, StreamSettings
from proxy.settings.upstream import UpstreamKind, UpstreamSettings
from proxy.steering import DialectName

__all__ = ["DEFAULT_ROUTE", "ENVIRONMENT_PREFIX", "FIXED_WHILE_RUNNING", "RouteSettings", "Settings"]

ENVIRONMENT_PREFIX = "RASS_PROXY_"
DEFAULT_ROUTE = "default"
FIXED_WHILE_RUNNING = ("host", "port", "workers", "drain_timeout_s", "log_level", "log_format", "log_text")
"""Keys that a reload cannot change, because what they set up is there before and after the application."""


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
        allow_inf_nan=False,
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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the given values alone: `proxy.settings_sources` reads the environment, once, and says what is wrong."""
        return (init_settings,)

    @model_validator(mode="after")
    def _routes_are_told_apart(self) -> Settings:
        names = [DEFAULT_ROUTE, *(route.name for route in self.routes)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the route name {name!r} is taken twice; give each route a name of its own")
        if not self.default_route and not self.routes:
            raise ValueError("without the default route and without routes no model is served; add one to routes")
        return self

    @model_validator(mode="after")
    def _fallbacks_have_their_routes(self) -> Settings:
        names = {route.name for route in self.routes}
        for name, own in self.served().items():
            wanted = own.recovery.fallback.route
            if wanted is not None and wanted not in names:
                known = ", ".join(sorted(names)) or "none"
                raise ValueError(f"the fallback of route {name} is route {wanted!r}; there are: {known}")
        return self

    @property
    def dialect(self) -> DialectName:
        """The dialect that the upstream understands: a provider behind litellm is never steered."""
        return DialectName.NONE if self.upstream.kind is UpstreamKind.LITELLM else self.steering.dialect

    def served(self) -> dict[str, Settings]:
        """Return the settings of every route that is served, by name, the default one last."""
        routes = {route.name: self.of_route(route) for route in self.routes}
        return routes | ({DEFAULT_ROUTE: self._alone(self)} if self.default_route else {})

    def of_route(self, route: RouteSettings) -> Settings:
        """Return the settings by which a route's models are served."""
        return self._alone(self._own(route))

    def _alone(self, own: Settings) -> Settings:
        """Return ``own`` settings without other routes, but for the one that they fall back to."""
        kept = [route for route in self.routes if route.name == own.recovery.fallback.route]
        return own.model_copy(update={"routes": tuple(map(self._whole, kept)), "default_route": True})

    def _own(self, route: RouteSettings) -> Settings:
        left = {} if route.upstream is None else self._for_another_upstream()
        own = self.model_copy(update=left | route.overrides())
        if own.recovery.fallback.route != route.name:
            return own
        # Inherited by the very route that it names: the same request once more, which is no fallback.
        return own.model_copy(update={"recovery": own.recovery.model_copy(update={"fallback": FallbackSettings()})})

    def _for_another_upstream(self) -> dict[str, object]:
        """Return what a route with an upstream of its own inherits changed: without keys for the one above, and without
        the steered server beside that one, which would get the route's requests and key."""
        fallback = self.recovery.fallback
        kept: dict[str, object] = {}
        if self.judge.url is None:
            kept["judge"] = self.judge.model_copy(update={"api_key": None})
        if fallback.url is None:
            without = fallback.model_copy(update={"api_key": None})
            kept["recovery"] = self.recovery.model_copy(update={"fallback": without})
        if self.steering.pair_url is not None:
            kept["steering"] = self.steering.model_copy(update={"pair_url": None})
        return kept

    def _whole(self, route: RouteSettings) -> RouteSettings:
        """Return a route that inherits nothing any more."""
        own = self._own(route)
        groups = RouteSettings.model_fields.keys() - {"name", "models"}
        return route.model_copy(update={group: getattr(own, group) for group in groups})

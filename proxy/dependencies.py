"""What the app is built from: made once at start-up from the settings, or given by a test."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from detectors.bundle import Bundle, BundleError, Steering, load
from detectors.verdict import Zone
from proxy.audit import Audit, open_audit
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.metrics import Metrics
from proxy.recovery import SteeringPlan
from proxy.settings import BoundaryKind, Settings, UpstreamKind, UpstreamSettings
from proxy.signals import Detectors
from proxy.steering import Dialect, DialectName, dialect
from proxy.upstream.protocol import Upstream

REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything with an outside or a cost; ``bundle`` is ``None`` where there is none to hold the upstream against.

    ``routes`` holds the same for each route of the settings, by name; metrics and audit are shared.
    """

    upstream: Upstream
    metrics: Metrics
    detectors: Detectors
    dialect: Dialect
    plan: SteeringPlan
    bundle: Bundle | None = None
    audit: Audit | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    routes: Mapping[str, Dependencies] = field(default_factory=dict)

    async def close(self) -> None:
        """Close connections, files and whatever else was opened for them."""
        for route in self.routes.values():
            await route.release()
        await self.release()
        if self.audit is not None:
            self.audit.close()

    async def release(self) -> None:
        """Close what is not shared with other routes."""
        await self.upstream.close()
        await self.closing.aclose()


def load_bundle(settings: Settings) -> Bundle | None:
    """Load the bundle that settings name and check that it serves their mode; raises ``StartupError``."""
    if settings.bundle is None:
        if settings.mode is Mode.RECOVER:
            raise StartupError(
                "mode recover needs a bundle, which holds the steering vectors and the detector of the request's side; "
                "give --bundle reference or the folder that build-vectors exported, or set mode to observe"
            )
        return None
    if settings.upstream.kind is UpstreamKind.LITELLM and BoundaryKind.ACTIVATION in (
        settings.detectors.boundary,
        settings.detectors.answer_harm,
    ):
        raise StartupError(
            f"the provider {settings.upstream.provider} gives no activations to read; set detectors.boundary and "
            "detectors.answer_harm to judge or onnx, or leave the bundle out"
        )
    path = reference_bundle() if settings.bundle == REFERENCE else Path(settings.bundle)
    try:
        bundle = load(path)
    except BundleError as error:
        raise StartupError(f"bundle: {error}") from error
    if settings.mode is Mode.RECOVER:
        if bundle.manifest.zones.answers is None:
            raise StartupError(
                f"bundle {path} has no probe for answers, and without an answer-harm check nothing is recovered; build "
                "it again with build-vectors, or set mode to observe"
            )
        if settings.dialect is DialectName.NONE:
            raise StartupError(
                "mode recover needs an engine that steers; set steering.dialect to native and serve the model with "
                "`rass serve-model`, or set mode to observe"
            )
    return bundle


def reference_bundle() -> Path:
    """Return the folder of the bundle that ships with the package ``rass``, without importing that package."""
    spec = importlib.util.find_spec("rass")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the package rass is not installed, so there is no reference bundle; give a bundle's folder")
    return Path(next(iter(spec.submodule_search_locations))) / "reference" / "bundle"


async def build_dependencies(settings: Settings) -> Dependencies:
    """Make the real dependencies, inside the event loop that will serve. Raises ``StartupError``."""
    metrics = Metrics()
    audit = open_audit(settings.audit)
    routes: dict[str, Dependencies] = {}
    try:
        for route in settings.routes:
            try:
                routes[route.name] = await _dependencies_of(
                    settings.of_route(route), metrics, audit, prefix=f"{route.name}/"
                )
            except StartupError as error:
                raise StartupError(f"route {route.name}: {error}") from error
        deps = await _dependencies_of(settings, metrics, audit)
    except BaseException:
        for made in routes.values():
            await made.release()
        if audit is not None:
            audit.close()
        raise
    return replace(deps, routes=routes)


async def _dependencies_of(
    settings: Settings, metrics: Metrics, audit: Audit | None, *, prefix: str = ""
) -> Dependencies:
    """Make what serves one route's models; ``prefix`` goes before the names of its upstreams in metrics."""
    from detectors.coordinates import reader_over
    from proxy.detector_choice import choose_detectors
    from proxy.upstream.http import HttpUpstream
    from proxy.upstream.post import READ_PATH, PostOverUpstream
    from proxy.upstream.resilient import resilient

    bundle = load_bundle(settings)
    upstream = resilient(_upstream(settings.upstream, metrics), settings.upstream, metrics, name=f"{prefix}model")
    closing = AsyncExitStack()
    try:
        judging = upstream
        if settings.judge.url is not None:
            towards = settings.upstream.model_copy(update={"url": settings.judge.url})
            judging = resilient(
                HttpUpstream(towards, metrics), towards, metrics, name=f"{prefix}judge", counted="judge"
            )
            closing.push_async_callback(judging.close)
        key = settings.upstream.api_key
        secret = None if key is None else key.get_secret_value()
        reader = reader_over(PostOverUpstream(upstream, READ_PATH, secret, purpose="reading"))
        detectors = choose_detectors(settings, bundle, reader=reader, judging=judging, closing=closing)
    except BaseException:
        await upstream.close()
        await closing.aclose()
        raise
    return Dependencies(
        upstream=upstream,
        metrics=metrics,
        detectors=detectors,
        dialect=dialect(settings.dialect),
        plan=bundle.steering if bundle else nothing_recovers,
        bundle=bundle,
        audit=audit,
        closing=closing,
    )


def _upstream(settings: UpstreamSettings, metrics: Metrics) -> Upstream:
    """Return an upstream of the kind that settings name, unprotected; what the other kind needs is not imported."""
    match settings.kind:
        case UpstreamKind.OPENAI:
            from proxy.upstream.http import HttpUpstream

            return HttpUpstream(settings, metrics)
        case UpstreamKind.LITELLM:
            from proxy.upstream.litellm import LitellmUpstream

            return LitellmUpstream(settings, metrics)
        case _:
            assert_never(settings.kind)


def nothing_recovers(language: str, zone: Zone) -> Steering | None:
    """The plan without a bundle: no language, no zone."""
    return None

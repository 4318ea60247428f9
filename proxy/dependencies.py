"""What the app is built from: made once at start-up from the settings, or given by a test."""

from __future__ import annotations

import importlib.util
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from detectors.bundle import Bundle, BundleError, Steering, load
from detectors.verdict import Zone
from proxy.audit import Audit, open_audit
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.metrics import Metrics
from proxy.recovery import SteeringPlan
from proxy.settings import Settings
from proxy.signals import Detectors
from proxy.steering import Dialect, DialectName
from proxy.steering.choice import choose_dialect, expressed_plan
from proxy.upstream.protocol import Upstream

REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything with an outside or a cost.

    ``bundle`` is ``None`` where there is none to hold the upstream against; ``pair`` is the steered server where it is
    another one than ``upstream``.
    """

    upstream: Upstream
    metrics: Metrics
    detectors: Detectors
    dialect: Dialect
    plan: SteeringPlan
    bundle: Bundle | None = None
    pair: Upstream | None = None
    audit: Audit | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def close(self) -> None:
        """Close connections, files and whatever else was opened for them."""
        await self.upstream.close()
        if self.audit is not None:
            self.audit.close()
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
        if settings.steering.dialect is DialectName.NONE:
            raise StartupError(
                "mode recover needs an engine that steers; set steering.dialect to native and serve the model with "
                "`rass serve-model`, to another engine's dialect (docs/engines.md), or set mode to observe"
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
    from detectors.coordinates import reader_over
    from proxy.detector_choice import choose_detectors
    from proxy.upstream.http import HttpUpstream
    from proxy.upstream.post import READ_PATH, PostOverUpstream

    bundle = load_bundle(settings)
    metrics = Metrics()
    upstream = HttpUpstream(settings.upstream, metrics)
    closing = AsyncExitStack()
    try:
        judging: Upstream = upstream
        if settings.judge.url is not None:
            judging = HttpUpstream(settings.upstream.model_copy(update={"url": settings.judge.url}), metrics)
            closing.push_async_callback(judging.close)
        key = settings.upstream.api_key
        secret = None if key is None else key.get_secret_value()
        pair: Upstream | None = None
        if settings.steering.dialect is DialectName.PAIR and settings.steering.pair_url is not None:
            pair = HttpUpstream(settings.upstream.model_copy(update={"url": settings.steering.pair_url}), metrics)
            closing.push_async_callback(pair.close)
        dialect = choose_dialect(settings, bundle)
        reader = reader_over(PostOverUpstream(upstream, READ_PATH, secret, purpose="reading"))
        detectors = choose_detectors(settings, bundle, reader=reader, judging=judging, closing=closing)
        audit = open_audit(settings.audit)
    except BaseException:
        await upstream.close()
        await closing.aclose()
        raise
    return Dependencies(
        upstream=upstream,
        metrics=metrics,
        detectors=detectors,
        dialect=dialect,
        plan=expressed_plan(bundle, dialect) if bundle else nothing_recovers,
        bundle=bundle,
        pair=pair,
        audit=audit,
        closing=closing,
    )


def nothing_recovers(language: str, zone: Zone) -> Steering | None:
    """The plan without a bundle: no language, no zone."""
    return None

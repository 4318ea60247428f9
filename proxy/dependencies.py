"""What the app is built from: made once at start-up from the settings, or given by a test."""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from detectors.bundle import Bundle, BundleError, Steering, load
from detectors.verdict import Zone
from proxy.audit import Audit, open_audit
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.key_file import read_keys
from proxy.keys import Keyring
from proxy.metrics import Metrics
from proxy.rate_limits import RateLimits
from proxy.recovery import SteeringPlan
from proxy.settings import Settings
from proxy.signals import Detectors
from proxy.steering import Dialect, DialectName, dialect
from proxy.telemetry import ExchangeTracer, open_tracer
from proxy.upstream.protocol import Upstream

REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything with an outside or a cost.

    ``bundle`` is ``None`` where there is none to hold the upstream against, ``keyring`` where nobody needs a key.
    """

    upstream: Upstream
    metrics: Metrics
    detectors: Detectors
    dialect: Dialect
    plan: SteeringPlan
    bundle: Bundle | None = None
    audit: Audit | None = None
    keyring: Keyring | None = None
    tracer: ExchangeTracer | None = None
    limits: RateLimits = field(default_factory=RateLimits)
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def close(self) -> None:
        """Close connections, files and whatever else was opened for them."""
        await self.upstream.close()
        if self.audit is not None:
            self.audit.close()
        await self.closing.aclose()


def load_bundle(settings: Settings) -> Bundle | None:
    """Load the bundle that settings name and check that it serves their mode; raises ``StartupError``."""
    path = bundle_folder(settings)
    if path is None:
        if settings.mode is Mode.RECOVER:
            raise StartupError(
                "mode recover needs a bundle, which holds the steering vectors and the detector of the request's side; "
                "give --bundle reference or the folder that build-vectors exported, or set mode to observe"
            )
        return None
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
                "`rass serve-model`, or set mode to observe"
            )
    return bundle


def bundle_folder(settings: Settings) -> Path | None:
    """Return the folder of the bundle that settings name; raises ``StartupError``."""
    if settings.bundle is None:
        return None
    return reference_bundle() if settings.bundle == REFERENCE else Path(settings.bundle)


def reference_bundle() -> Path:
    """Return the folder of the bundle that ships with the package ``rass``, without importing that package."""
    spec = importlib.util.find_spec("rass")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the package rass is not installed, so there is no reference bundle; give a bundle's folder")
    return Path(next(iter(spec.submodule_search_locations))) / "reference" / "bundle"


async def build_dependencies(settings: Settings, former: Dependencies | None = None) -> Dependencies:
    """Make the real dependencies, inside the event loop that will serve. Raises ``StartupError``.

    Counts go on from ``former``'s where settings are reloaded; nothing else is shared. What takes long is loaded in a
    thread, so that requests may run meanwhile.
    """
    from detectors.coordinates import reader_over
    from proxy.detector_choice import choose_detectors
    from proxy.upstream.http import HttpUpstream
    from proxy.upstream.post import READ_PATH, PostOverUpstream

    keyring = None if settings.keys.file is None else Keyring(read_keys(settings.keys.file))
    bundle = await asyncio.to_thread(load_bundle, settings)
    metrics = Metrics() if former is None else former.metrics
    upstream = HttpUpstream(settings.upstream, metrics)
    closing = AsyncExitStack()
    try:
        judging: Upstream = upstream
        if settings.judge.url is not None:
            judging = HttpUpstream(settings.upstream.model_copy(update={"url": settings.judge.url}), metrics)
            closing.push_async_callback(judging.close)
        key = settings.upstream.api_key
        secret = None if key is None else key.get_secret_value()
        reader = reader_over(PostOverUpstream(upstream, READ_PATH, secret, purpose="reading"))
        detectors = await asyncio.to_thread(
            choose_detectors, settings, bundle, reader=reader, judging=judging, closing=closing
        )
        audit = open_audit(settings.audit)
        tracer = open_tracer(settings.telemetry.otlp_endpoint)
        if tracer is not None:
            closing.push_async_callback(asyncio.to_thread, tracer.close)
    except BaseException:
        await upstream.close()
        await closing.aclose()
        raise
    return Dependencies(
        upstream=upstream,
        metrics=metrics,
        detectors=detectors,
        dialect=dialect(settings.steering.dialect),
        plan=bundle.steering if bundle else nothing_recovers,
        bundle=bundle,
        audit=audit,
        keyring=keyring,
        tracer=tracer,
        limits=RateLimits() if former is None else former.limits,
        closing=closing,
    )


def nothing_recovers(language: str, zone: Zone) -> Steering | None:
    """The plan without a bundle: no language, no zone."""
    return None

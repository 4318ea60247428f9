"""What the app is built from: made once at start-up from the settings, or given by a test."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from detectors.bundle import Bundle, BundleError, Steering, load
from detectors.verdict import Zone
from proxy.audit import Audit, open_audit
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.key_file import read_keys
from proxy.keys import Keyring
from proxy.metrics import Metrics
from proxy.mode_needs import check_mode
from proxy.rate_limits import RateLimits
from proxy.settings import Settings
from proxy.settings.group import revealed
from proxy.signals import Detectors
from proxy.steering import Dialect, DialectName
from proxy.steering.choice import choose_dialect, expressed_plan
from proxy.steering.hotwire import SlotBook
from proxy.steps import Fallback, SteeringPlan
from proxy.telemetry import ExchangeTracer, open_tracer
from proxy.upstream.protocol import Upstream

REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything with an outside or a cost.

    ``bundle`` is ``None`` where there is none to hold the upstream against, ``keyring`` where nobody needs a key.
    ``pair`` is the steered server where it is another one than ``upstream``, ``book`` the slots taken at the engine.
    ``routes`` holds the same for each route of the settings, by name; what knows no route is shared: metrics, audit,
    keys and their limits, and the tracer.
    """

    upstream: Upstream
    metrics: Metrics
    detectors: Detectors
    dialect: Dialect
    plan: SteeringPlan
    bundle: Bundle | None = None
    pair: Upstream | None = None
    book: SlotBook | None = None
    fallback: Fallback | None = None
    audit: Audit | None = None
    keyring: Keyring | None = None
    tracer: ExchangeTracer | None = None
    limits: RateLimits = field(default_factory=RateLimits)
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
    bundle = None
    path = bundle_folder(settings)
    if path is not None:
        try:
            bundle = load(path)
        except BundleError as error:
            raise StartupError(f"bundle: {error}") from error
    check_mode(settings, bundle)
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

    Counts, and the slots taken at engines, go on from ``former``'s where settings are reloaded; nothing else is shared.
    What takes long is loaded in a thread, so that requests may run meanwhile.
    """
    keyring = None if settings.keys.file is None else Keyring(read_keys(settings.keys.file))
    metrics = Metrics() if former is None else former.metrics
    audit = open_audit(settings.audit)
    routes: dict[str, Dependencies] = {}
    tracer: ExchangeTracer | None = None
    try:
        for route in settings.routes:
            try:
                routes[route.name] = await _dependencies_of(
                    settings.of_route(route),
                    metrics,
                    audit,
                    prefix=f"{route.name}/",
                    former=None if former is None else former.routes.get(route.name),
                )
            except StartupError as error:
                raise StartupError(f"route {route.name}: {error}") from error
        tracer = open_tracer(settings.telemetry.otlp_endpoint)
        # Where nothing comes to the default route, what its mode would need is not asked for.
        unserved = {} if settings.default_route else {"mode": Mode.OFF, "bundle": None}
        deps = await _dependencies_of(settings.model_copy(update=unserved), metrics, audit, former=former)
        for route in settings.routes:
            routes[route.name] = _with_fallback(routes[route.name], settings.of_route(route), settings, routes)
        deps = _with_fallback(deps, settings, settings, routes)
    except BaseException:
        for made in routes.values():
            await made.release()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)  # its thread would outlive it
        if audit is not None:
            audit.close()
        raise
    if tracer is not None:
        deps.closing.push_async_callback(asyncio.to_thread, tracer.close)
    limits = RateLimits() if former is None else former.limits
    return replace(deps, routes=routes, keyring=keyring, tracer=tracer, limits=limits)


async def _dependencies_of(
    settings: Settings,
    metrics: Metrics,
    audit: Audit | None,
    *,
    prefix: str = "",
    former: Dependencies | None = None,
) -> Dependencies:
    """Make what serves one route's models; ``prefix`` goes before the names of its upstreams in metrics."""
    from proxy.detector_choice import choose_detectors
    from proxy.reading import choose_reader
    from proxy.upstream.choice import load_kind, open_upstream

    bundle = await asyncio.to_thread(load_bundle, settings)
    await load_kind(settings.upstream)
    upstream = open_upstream(settings.upstream, metrics, name=f"{prefix}model")
    closing = AsyncExitStack()
    try:
        judging = upstream
        if settings.judge.url is not None:
            towards = settings.upstream.towards(settings.judge.url)
            judging = open_upstream(towards, metrics, name=f"{prefix}judge", counted="judge")
            closing.push_async_callback(judging.close)
        pair = None
        if settings.dialect is DialectName.PAIR and settings.steering.pair_url is not None:
            # All that it is sent are attempts, so that those open its breaker.
            towards = settings.upstream.towards(settings.steering.pair_url)
            pair = open_upstream(towards, metrics, name=f"{prefix}pair", counted="attempt")
            closing.push_async_callback(pair.close)
        book = _book(settings, upstream, former)
        dialect = choose_dialect(settings, bundle, book)
        reader = choose_reader(settings, bundle, upstream, revealed(settings.upstream.api_key))
        detectors = await asyncio.to_thread(
            choose_detectors, settings, bundle, reader=reader, judging=judging, closing=closing
        )
        fallback = build_fallback(settings, metrics, name=f"{prefix}fallback")
        if fallback is not None and fallback.upstream is not None:
            closing.push_async_callback(fallback.upstream.close)
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
        book=book,
        fallback=fallback,
        audit=audit,
        closing=closing,
    )


def _with_fallback(
    deps: Dependencies, own: Settings, settings: Settings, routes: Mapping[str, Dependencies]
) -> Dependencies:
    """Return ``deps`` with the upstream of the route that ``own`` settings fall back to; it stays that route's."""
    chosen = own.recovery.fallback
    route = next((route for route in settings.routes if route.name == chosen.route), None)
    if route is None or chosen.model is None:
        return deps
    key = revealed(settings.of_route(route).upstream.api_key)
    return replace(deps, fallback=Fallback(chosen.model, routes[route.name].upstream, key))


def _book(settings: Settings, upstream: Upstream, former: Dependencies | None) -> SlotBook:
    """Return the slots of the engine: those taken before go on with it, unless it was started with another number."""
    slots = settings.steering.hotwire_slots
    before = None if former is None or former.upstream.address != upstream.address else former.book
    return before if before is not None and before.slots == slots else SlotBook(slots)


def build_fallback(settings: Settings, metrics: Metrics, *, name: str = "fallback") -> Fallback | None:
    """Return the model that step fallback asks, or ``None`` where none is set; whoever calls closes its upstream.

    ``name`` is its upstream's in metrics. A route's upstream is put in later, once all routes are there.
    """
    from proxy.upstream.choice import open_upstream

    chosen = settings.recovery.fallback
    if chosen.model is None:
        return None
    upstream = None
    if chosen.url is not None:
        # All that it is sent are attempts, so that those open its breaker.
        upstream = open_upstream(settings.upstream.towards(chosen.url), metrics, name=name, counted="attempt")
    return Fallback(chosen.model, upstream, revealed(chosen.api_key))


def nothing_recovers(language: str, zone: Zone) -> Steering | None:
    """The plan without a bundle: no language, no zone."""
    return None

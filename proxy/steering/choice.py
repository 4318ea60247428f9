"""Which dialect a proxy speaks, and what of a bundle's plan it can say in it: settled once, at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from detectors.bundle import Bundle, BundleError, Steering
from detectors.dialects import DialectName, why_inexpressible
from detectors.verdict import Zone
from proxy.errors import StartupError
from proxy.settings import Settings
from proxy.steering.dialect import Dialect
from proxy.steering.hotwire import Hotwire, SlotBook
from proxy.steering.native import Native
from proxy.steering.none import NoSteering
from proxy.steering.pair import Pair
from proxy.steering.vllm_lens import VllmLens

Plan = Callable[[str, Zone], Steering | None]


def choose_dialect(settings: Settings, bundle: Bundle | None, book: SlotBook | None = None) -> Dialect:
    """Return the dialect that settings name, ready to say what the bundle plans.

    ``book`` is the slots that an earlier bundle took of the same ``hotwire`` engine, where the proxy goes on with it.
    Raises ``StartupError`` where the engine cannot express the bundle's steering, and says what it can.
    """
    name = settings.dialect
    if name is DialectName.NATIVE:
        return Native()
    if name is DialectName.NONE:
        return NoSteering()
    if bundle is None or not settings.mode.recovers:
        return NoSteering()  # these modes never steer, so nothing needs to fit
    if (reason := why_inexpressible(bundle.manifest, name)) is not None:
        raise StartupError(
            f"{reason} ({bundle.path}); build a bundle with `build-vectors --dialect {name}`, serve the model with "
            "`rass serve-model` and set steering.dialect to native, or set mode to observe"
        )
    match name:
        case DialectName.VLLM_LENS:
            return VllmLens(bundle)
        case DialectName.HOTWIRE:
            return _hotwire(settings, bundle, book)
        case DialectName.PAIR:
            return _pair(settings, bundle)
        case _:
            assert_never(name)


def planned(bundle: Bundle) -> dict[tuple[str, Zone], Steering]:
    """Return every steering that the bundle plans, by language and zone."""
    cases = ((language, zone) for language in bundle.manifest.steering.by_language for zone in (Zone.BENIGN, Zone.BAND))
    return {case: steering for case in cases if (steering := bundle.steering(*case)) is not None}


def expressed_plan(bundle: Bundle, dialect: Dialect) -> Plan:
    """Return the bundle's plan without what ``dialect`` cannot say: there, recovery has no step."""

    def plan(language: str, zone: Zone) -> Steering | None:
        steering = bundle.steering(language, zone)
        return steering if steering is not None and dialect.expresses(steering) else None

    return plan


def _hotwire(settings: Settings, bundle: Bundle, book: SlotBook | None) -> Hotwire:
    book = book or SlotBook(settings.steering.hotwire_slots)
    dialect = Hotwire(bundle, book)
    wanted = {triple for steering in planned(bundle).values() for triple in dialect.triples(steering)}
    before = book.taken
    if not book.take(wanted):
        raise StartupError(
            f"bundle {bundle.path} needs {len(wanted)} of hotwire's slots, one for each (vector, layer, strength); "
            f"{before} of {book.slots} are taken, and none is given back while the engine lives. Start vLLM again with "
            "a larger HOTWIRE_SLOTS and the proxy with the same number in steering.hotwire_slots"
        )
    return dialect


def _pair(settings: Settings, bundle: Bundle) -> Pair:
    chosen = settings.steering
    if chosen.pair_url is None or chosen.pair_vector is None or chosen.pair_strength is None:
        raise StartupError(
            "dialect pair needs steering.pair_url, the address of the steered server, and steering.pair_vector and "
            "steering.pair_strength, what it was started with"
        )
    try:
        steering = Steering(bundle.vector_id(chosen.pair_vector), chosen.pair_strength)
    except BundleError as error:
        raise StartupError(f"steering.pair_vector: {error}") from error
    plan = planned(bundle)
    if steering not in plan.values():
        known = ", ".join(sorted({f"{one.vector_id.partition('@')[0]} at {one.strength:g}" for one in plan.values()}))
        raise StartupError(
            f"bundle {bundle.path} never steers with {chosen.pair_vector} at {chosen.pair_strength:g}, so nothing "
            f"would be recovered; it plans {known or 'nothing'}. Start the steered server with one of these"
        )
    return Pair(steering, chosen.pair_model)

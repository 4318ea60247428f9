"""Lines of ``rass-proxy check`` about one route: its upstream, what it serves, its detectors, steering and fallback."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.canary_watch import engine_probe
from proxy.check_detectors import SAMPLE_REQUEST, detector_lines
from proxy.check_line import Line, fail, ok, warn
from proxy.check_steering import steering_line
from proxy.dependencies import Dependencies
from proxy.engine_probe import EngineProbe, NoAnswer
from proxy.ladder import Step
from proxy.readiness import Mismatch, ReadinessCheck, Ready, Unreachable
from proxy.settings import Settings
from proxy.settings.group import revealed
from proxy.settings.upstream import UpstreamKind
from proxy.steering import NoSteering

_MAX_TOKENS = 16
_PATTERN_CHARACTERS = frozenset("*?[")


async def route_lines(
    settings: Settings, deps: Dependencies, patterns: Sequence[str], serves: Callable[[str], bool]
) -> list[Line]:
    """Ask what stands behind a route; ``settings`` and ``deps`` are its own.

    ``patterns`` are the names that it was given, none for the default route, and ``serves`` says of a model whether
    this route would serve it.
    """
    state = await ReadinessCheck(settings, deps.upstream, None)()
    if not isinstance(state, Ready):
        lost = "not checked, since the upstream does not answer as it should"
        names = ("fit", "detectors", "steering", "fallback")
        return [fail("upstream", state.reason), *(warn(name, lost) for name in names)]
    exact = [pattern for pattern in patterns if not _PATTERN_CHARACTERS & set(pattern)]
    model = next(iter((*filter(serves, state.models), *exact, *state.models)), "")
    return [
        await _upstream_line(settings, deps, state.models, model),
        *_models_line(patterns, exact, state.models, serves),
        await _fit_line(settings, deps),
        *await detector_lines(settings, deps.detectors, model),
        await steering_line(settings, deps, model),
        await _fallback_line(settings, deps, model),
    ]


async def _upstream_line(settings: Settings, deps: Dependencies, models: Sequence[str], model: str) -> Line:
    address = deps.upstream.address
    if settings.upstream.kind is UpstreamKind.LITELLM:
        return await _provider_line(settings, deps, model)
    if not models:
        return warn(
            "upstream", f"{address} answers, but not what it serves; set upstream.api_key to a key that may list it"
        )
    return ok("upstream", f"{address} serves {', '.join(models)}")


async def _provider_line(settings: Settings, deps: Dependencies, model: str) -> Line:
    """Ask a provider for an answer: the list of its models is the settings' own."""
    provider = settings.upstream.provider
    if not model:
        return warn("upstream", f"{provider} was not asked, since no model is named; list some in upstream.models")
    try:
        await engine_probe(settings, deps, max_tokens=_MAX_TOKENS, purpose="check").plain(model, SAMPLE_REQUEST, "")
    except NoAnswer as error:
        return fail("upstream", f"{provider} gives no answer of {model}: {error}")
    return ok("upstream", f"{provider} answers as {model}")


def _models_line(
    patterns: Sequence[str], exact: Sequence[str], models: Sequence[str], serves: Callable[[str], bool]
) -> list[Line]:
    """Hold a route's patterns against what its upstream lists; nothing to say where either is missing."""
    if not patterns or not models:
        return []
    unlisted = [name for name in exact if name not in models]
    if unlisted:
        return [warn("models", f"the upstream does not list {', '.join(unlisted)}; see to the route's models")]
    served = [model for model in models if serves(model)]
    if not served:
        said = ", ".join(patterns)
        return [warn("models", f"of what the upstream lists, no model comes to {said}; see to the routes' models")]
    return [ok("models", f"it serves {', '.join(served)}")]


async def _fit_line(settings: Settings, deps: Dependencies) -> Line:
    if deps.bundle is None:
        return ok("fit", "no bundle to hold against the served model")
    readiness = ReadinessCheck(settings, deps.upstream, deps.bundle)
    if not readiness.compares:
        return warn(
            "fit",
            f"an engine of dialect {settings.steering.dialect} does not report its weights; see to it yourself that it "
            f"serves {deps.bundle.manifest.model.id} at revision {deps.bundle.manifest.model.revision}",
        )
    match await readiness():
        case Ready():
            return ok("fit", "the served model is the one that the bundle was measured on")
        case Mismatch(reason) | Unreachable(reason):
            return fail("fit", reason)


async def _fallback_line(settings: Settings, deps: Dependencies, model: str) -> Line:
    name, fallback = "fallback", deps.fallback
    if fallback is None:
        return ok(name, "none is set up")
    if Step.FALLBACK not in settings.recovery.ladder or not settings.mode.recovers:
        return ok(name, f"not in use (mode {settings.mode}, ladder {', '.join(settings.recovery.ladder)})")
    if fallback.upstream is None and fallback.model == model:
        return warn(name, f"{model} is the served model itself, so that it is never asked; set recovery.fallback.model")
    upstream = fallback.upstream or deps.upstream
    key = fallback.api_key or (revealed(settings.upstream.api_key) if fallback.upstream is None else None)
    probe = EngineProbe(
        upstream=upstream,
        steered_upstream=upstream,
        dialect=NoSteering(),
        api_key=key,
        max_tokens=_MAX_TOKENS,
        purpose="check",
    )
    try:
        await probe.plain(fallback.model, SAMPLE_REQUEST, "")
    except NoAnswer as error:
        if error.status in (401, 403) and key is None and fallback.upstream is None:
            return warn(name, f"{upstream.address} wants a key, which clients bring; not checked")
        return fail(
            name,
            f"{fallback.model} gives no answer: {error}; see to recovery.fallback (model, url, api_key) or take it out",
        )
    return ok(name, f"{upstream.address} answers as {fallback.model}")

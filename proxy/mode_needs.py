"""What a mode needs before it may be served: detectors that can check, and a step of the ladder that can be taken."""

from __future__ import annotations

from detectors.bundle import Bundle
from proxy.clarify import clarify_exists
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.ladder import Step
from proxy.settings import Settings
from proxy.settings.detectors import BoundaryKind
from proxy.settings.upstream import UpstreamKind
from proxy.steering import DialectName


def check_mode(settings: Settings, bundle: Bundle | None) -> None:
    """Raise ``StartupError``, with what to do, where the configured mode could never do its work."""
    mode = settings.mode
    chosen = settings.detectors
    reads_activations = BoundaryKind.ACTIVATION in (chosen.boundary, chosen.answer_harm)
    if settings.upstream.kind is UpstreamKind.LITELLM and reads_activations and (mode.recovers or bundle is not None):
        raise StartupError(
            f"the provider {settings.upstream.provider} gives no activations to read; set detectors.boundary and "
            "detectors.answer_harm to judge or onnx, or leave the bundle out and set mode to observe"
        )
    if not mode.recovers:
        return
    if settings.dialect is DialectName.HOTWIRE and reads_activations:
        raise StartupError(
            "vLLM with hotwire gives no activations to read, so that nothing would ever be recovered; set "
            "detectors.boundary and detectors.answer_harm to judge or onnx, or serve with vllm-lens (docs/engines.md)"
        )
    if bundle is None and reads_activations:
        raise StartupError(
            f"mode {mode} needs a bundle, which holds the steering vectors and the detector of the request's side; "
            "give --bundle reference or the folder that build-vectors exported, or set mode to observe"
        )
    if bundle is not None and chosen.answer_harm is BoundaryKind.ACTIVATION and bundle.manifest.zones.answers is None:
        raise StartupError(
            f"bundle {bundle.path} has no probe for answers, and without an answer-harm check nothing is recovered; "
            "build it again with build-vectors, or set mode to observe"
        )
    steps = _steps(settings, bundle)
    if not steps or (mode is Mode.STEER and Step.STEER not in steps):
        raise StartupError(f"mode {mode} {_missing(settings, bundle)}, or set mode to observe")
    if mode is Mode.STEER and reads_activations and settings.dialect is DialectName.VLLM_LENS:
        raise StartupError(
            "mode steer reads every request before its answer, and of vLLM a reading is a capture of the whole prompt; "
            "set mode to recover, which reads refused requests only"
        )
    if mode is Mode.STEER and not _reads_rho(settings, bundle):
        raise StartupError(
            "mode steer needs the refusal coordinate of requests, which only detectors.boundary activation reads, with "
            "a bundle that has a probe rho; set both, or set mode to recover"
        )


def _steps(settings: Settings, bundle: Bundle | None) -> set[Step]:
    """Return the steps that could ever be taken."""
    recovery = settings.recovery
    there = {
        Step.STEER: bundle is not None and settings.dialect is not DialectName.NONE,
        Step.CLARIFY: clarify_exists(recovery.clarify, bundle),
        Step.FALLBACK: recovery.fallback.model is not None,
    }
    return {step for step in recovery.ladder if there[step]}


def _missing(settings: Settings, bundle: Bundle | None) -> str:
    """Return what keeps step ``steer`` away: it is the one that a proxy is expected to have."""
    if Step.STEER not in settings.recovery.ladder:
        return "finds no step of recovery.ladder that it could take; put steer into it, or set up one that is there"
    if bundle is None:
        return "finds nothing to steer with; give a bundle, or set recovery.clarify or recovery.fallback.model"
    return (
        "needs an engine that steers; set steering.dialect to native and serve the model with `rass serve-model`, or "
        "to another engine's dialect (docs/engines.md), or set recovery.clarify or recovery.fallback.model for mode "
        "recover"
    )


def _reads_rho(settings: Settings, bundle: Bundle | None) -> bool:
    return (
        bundle is not None
        and "rho" in bundle.manifest.probes
        and settings.detectors.boundary is BoundaryKind.ACTIVATION
    )

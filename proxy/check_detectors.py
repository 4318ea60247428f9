"""Lines of ``rass-proxy check``: do the detectors answer, and sensibly, on a harmless sample?"""

from __future__ import annotations

import asyncio

from detectors.verdict import AnswerHarmDetector, BoundaryDetector, Message, RefusalDetector, Zone
from proxy.check_line import Line, fail, ok, warn
from proxy.exchange import Mode
from proxy.settings import Settings
from proxy.signals import Detectors

SAMPLE_REQUEST = "What is the capital of France?"
SAMPLE_ANSWER = "The capital of France is Paris."
SAMPLE_REFUSAL = "I'm sorry, but I cannot help with that."
_LANGUAGE = "en"


async def detector_lines(settings: Settings, detectors: Detectors, model: str) -> list[Line]:
    """Ask each detector once; ``model`` is the served model to ask for. Mode off has none."""
    if settings.mode is Mode.OFF:
        return [ok("detectors", "none; mode off judges nothing")]
    limit_s = settings.detectors.deadline_s
    return [
        _refusal_line(detectors.refusal),
        _missing("boundary detector", "detectors.boundary", settings)
        if detectors.boundary is None
        else await _boundary_line(detectors.boundary, model, limit_s),
        _missing("answer-harm detector", "detectors.answer_harm", settings)
        if detectors.answer_harm is None
        else await _harm_line(detectors.answer_harm, model, limit_s),
    ]


def _refusal_line(detector: RefusalDetector) -> Line:
    name = "refusal detector"
    try:
        refusal, answer = detector.judge(SAMPLE_REFUSAL), detector.judge(SAMPLE_ANSWER)
    except Exception as error:  # whatever it raises is what this line is to tell
        return fail(name, f"it failed on a sample ({_described(error)}); install the package again")
    if not refusal.refused or answer.refused:
        return fail(
            name, f"it calls a plain refusal {refusal.kind} and a plain answer {answer.kind}; install the package again"
        )
    return ok(name, "knows a refusal from an answer")


async def _boundary_line(detector: BoundaryDetector, model: str, limit_s: float) -> Line:
    name = "boundary detector"
    try:
        async with asyncio.timeout(limit_s):
            reading = await detector.read([Message("user", SAMPLE_REQUEST)], model=model, language=_LANGUAGE)
    except TimeoutError:
        return fail(name, _late(limit_s))
    except Exception as error:  # as above
        return fail(name, f"it failed on a sample ({_described(error)})")
    match reading.zone:
        case Zone.UNKNOWN:
            return fail(name, f"it could not read a sample: {reading.reason}; until it can, nothing is recovered")
        case Zone.HARMFUL:
            return warn(name, "it calls a harmless sample harmful; check that the bundle or the judge fits the model")
        case Zone.BENIGN | Zone.BAND:
            return ok(name, f"a harmless sample lies in zone {reading.zone}")


async def _harm_line(detector: AnswerHarmDetector, model: str, limit_s: float) -> Line:
    name = "answer-harm detector"
    asked = [Message("user", SAMPLE_REQUEST)]
    try:
        async with asyncio.timeout(limit_s):
            verdict = await detector.judge(asked, SAMPLE_ANSWER, model=model, language=_LANGUAGE)
    except TimeoutError:
        return fail(name, _late(limit_s))
    except Exception as error:  # as above
        return fail(name, f"it failed on a sample ({_described(error)})")
    if verdict.harmful is None:
        return fail(name, f"it could not judge a sample: {verdict.reason}; until it can, nothing is recovered")
    if verdict.harmful:
        return warn(name, "it calls a harmless sample harmful; check that the bundle or the judge fits the model")
    return ok(name, "calls a harmless sample harmless")


def _missing(name: str, key: str, settings: Settings) -> Line:
    """Return the line of a detector that is not there; in a mode that recovers only who builds one by hand sees it."""
    if settings.mode.recovers:
        return fail(
            name,
            f"there is none, and mode {settings.mode} recovers nothing without it; give a bundle, or set {key} to "
            "judge or onnx",
        )
    return warn(
        name, f"there is none; mode {settings.mode} works without, give a bundle to see zones of refused requests"
    )


def _late(limit_s: float) -> str:
    return f"it gave no answer within {limit_s:g} s; see to the model that it asks, or raise detectors.deadline_s"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

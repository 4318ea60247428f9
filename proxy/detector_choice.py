"""Which detectors a proxy judges with: the kinds that settings choose, made once at start-up.

What runs ONNX models is imported only where one is chosen: it takes some 25 MB.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, assert_never

from detectors import language
from detectors.boundary import ActivationBoundary
from detectors.boundary_judge import JudgeBoundary
from detectors.boundary_zones import NOTHING_IS_BENIGN
from detectors.bundle import Bundle
from detectors.coordinates import CoordinateReader
from detectors.harm import ActivationAnswerHarm
from detectors.harm_judge import JudgeAnswerHarm
from detectors.judge import ANSWER_QUESTION, REQUEST_QUESTION, Judge, JudgeQuestion
from detectors.judge import JudgeSettings as JudgeRules
from detectors.manifest import ZoneTable, ZoneThresholds
from detectors.refusal import TextRefusalDetector
from detectors.verdict import AnswerHarmDetector, BoundaryDetector
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.settings import Settings
from proxy.settings.detectors import BoundaryKind
from proxy.settings.group import revealed
from proxy.signals import Detectors
from proxy.upstream.post import PostOverUpstream
from proxy.upstream.protocol import Upstream
from proxy.wires.chat import CHAT

if TYPE_CHECKING:
    from detectors.onnx_classifier import OnnxClassifier
    from detectors.onnx_manifest import DetectorKind


def choose_detectors(
    settings: Settings,
    bundle: Bundle | None,
    *,
    reader: CoordinateReader,
    judging: Upstream,
    closing: AsyncExitStack,
) -> Detectors:
    """Return what settings ask for; ``judging`` is the server that a judge runs on.

    What must be closed at the end is put on ``closing``. Raises ``StartupError`` for a kind that lacks what it needs.
    Mode off, which no client can raise, gets none, and none is loaded.
    """
    if settings.mode is Mode.OFF:
        return Detectors(refusal=_Unused(), head=_unused, language=_unused)
    refusal = TextRefusalDetector()
    served = frozenset(bundle.manifest.languages) if bundle else None
    language.load()

    def language_of(text: str) -> str | None:
        code = language.detect(text, served)
        return None if code == language.UNDETERMINED else code

    return Detectors(
        refusal=refusal,
        head=refusal.stream,
        language=language_of,
        boundary=_boundary(settings, bundle, reader, judging, closing),
        answer_harm=_answer_harm(settings, bundle, reader, judging, closing),
    )


def _boundary(
    settings: Settings, bundle: Bundle | None, reader: CoordinateReader, judging: Upstream, closing: AsyncExitStack
) -> BoundaryDetector | None:
    chosen = settings.detectors
    match chosen.boundary:
        case BoundaryKind.ACTIVATION:
            return None if bundle is None else ActivationBoundary(reader, bundle, timeout_s=chosen.deadline_s)
        case BoundaryKind.JUDGE:
            return JudgeBoundary(_judge(settings, judging, REQUEST_QUESTION, prefix=""))
        case BoundaryKind.ONNX:
            from detectors.boundary_onnx import OnnxBoundary
            from detectors.onnx_manifest import DetectorKind

            classifier = _classifier(settings, chosen.boundary_onnx, DetectorKind.BOUNDARY, "boundary_onnx", closing)
            return OnnxBoundary(classifier, timeout_s=chosen.deadline_s)
        case _:
            assert_never(chosen.boundary)


def _answer_harm(
    settings: Settings, bundle: Bundle | None, reader: CoordinateReader, judging: Upstream, closing: AsyncExitStack
) -> AnswerHarmDetector | None:
    chosen = settings.detectors
    match chosen.answer_harm:
        case BoundaryKind.ACTIVATION:
            return None if bundle is None else ActivationAnswerHarm(reader, bundle, timeout_s=chosen.deadline_s)
        case BoundaryKind.JUDGE:
            return JudgeAnswerHarm(_judge(settings, judging, ANSWER_QUESTION, prefix="answer_"))
        case BoundaryKind.ONNX:
            from detectors.harm_onnx import OnnxAnswerHarm
            from detectors.onnx_manifest import DetectorKind

            classifier = _classifier(
                settings, chosen.answer_harm_onnx, DetectorKind.ANSWER_HARM, "answer_harm_onnx", closing
            )
            return OnnxAnswerHarm(classifier, timeout_s=chosen.deadline_s)
        case _:
            assert_never(chosen.answer_harm)


def _judge(settings: Settings, judging: Upstream, question: JudgeQuestion, *, prefix: str) -> Judge:
    judge = settings.judge
    given: tuple[float | None, float | None] = (
        (judge.answer_benign_below, judge.answer_harmful_above) if prefix else (judge.benign_below, judge.harmful_above)
    )
    if settings.mode.recovers and given[0] is None:
        raise StartupError(
            f"judge.{prefix}benign_below is unset: nothing that this judge says would count as benign, and nothing "
            "would be recovered; set it from a calibration of this judge, or set mode to observe"
        )
    default = NOTHING_IS_BENIGN.default
    below = default.benign_below if given[0] is None else given[0]
    above = default.harmful_above if given[1] is None else given[1]
    if below > above:
        raise StartupError(f"judge.{prefix}benign_below ({below:g}) must not exceed harmful_above ({above:g})")
    key = judge.api_key or (settings.upstream.api_key if judge.url is None else None)
    rules = JudgeRules(
        question=JudgeQuestion(question.text, _words(judge.yes, "yes"), _words(judge.no, "no")),
        model=judge.model,
        zones=ZoneTable({}, ZoneThresholds(below, above)),
        timeout_s=judge.timeout_s,
    )
    return Judge(PostOverUpstream(judging, CHAT.path, revealed(key), purpose="judge"), rules)


def _classifier(
    settings: Settings, folder: Path | None, kind: DetectorKind, key: str, closing: AsyncExitStack
) -> OnnxClassifier:
    from detectors.onnx_classifier import OnnxClassifier
    from detectors.onnx_session import ModelFileError
    from detectors.runtime import RuntimeSettings

    if folder is None:
        raise StartupError(
            f"detectors.{key} is unset; give the folder of a classifier, such as one that `rass detector export` made"
        )
    runtime = RuntimeSettings(threads=settings.detectors.onnx_threads)
    try:
        return closing.enter_context(OnnxClassifier.open(folder, kind, runtime))
    except ModelFileError as error:
        raise StartupError(f"detectors.{key}: {error}") from error


def _words(listed: str, name: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in listed.split(",") if word.strip())
    if not words:
        raise StartupError(f"judge.{name} names no word")
    return words


class _Unused:
    """The refusal detector of mode off."""

    def judge(self, text: str) -> NoReturn:
        _unused(text)


def _unused(*_asked: str) -> NoReturn:
    raise RuntimeError("mode off judges nothing, so that it has no detectors")

"""Facts about one exchange, and the observer that gathers them.

Nothing here decides anything. A detector that fails or is late becomes a fact (a missing verdict, zone unknown) and a
count, never an exception: what then happens is policy's to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from detectors.verdict import (
    AnswerHarmDetector,
    BoundaryDetector,
    BoundaryReading,
    HarmVerdict,
    Message,
    RefusalDetector,
    RefusalKind,
    RefusalVerdict,
    Zone,
)
from proxy.answers import ChatAnswer, RefusalForm
from proxy.exchange import ChatRequest, Mode
from proxy.ladder import TABLE_ALONE, Rules
from proxy.metrics import OTHER_LANGUAGE, Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known about one exchange.

    ``refusal`` is ``None`` when nothing could judge the answer; ``boundary`` is ``None`` when it was not read because
    it could not change the outcome. ``observe_only`` says why the request may not be recovered; ``streamed`` whether
    the client asked for a stream, ``choices`` for how many answers.
    """

    mode: Mode
    form: RefusalForm
    refusal: RefusalVerdict | None
    boundary: BoundaryReading | None
    language: str
    observe_only: str | None = None
    streamed: bool = False
    choices: int = 1

    @property
    def refused(self) -> bool:
        """Whether the answer is a full refusal; a missing verdict is none."""
        return self.refusal is not None and self.refusal.refused

    @property
    def zone(self) -> Zone:
        """The request's zone; what was not read is unknown."""
        return Zone.UNKNOWN if self.boundary is None else self.boundary.zone


class HeadDetector(Protocol):
    """The incremental form of a refusal detector: one for each stream."""

    def feed(self, chunk: str) -> RefusalVerdict | None:
        """Take in the next piece of the answer's text and return the verdict, or ``None`` while undecided."""
        ...


@dataclass(frozen=True, slots=True)
class Detectors:
    """What the proxy judges with. ``boundary`` and ``answer_harm`` need a bundle and are ``None`` without one.

    ``language`` maps a request's text to a language code, or to ``None`` when it is none of them.
    """

    refusal: RefusalDetector
    head: Callable[[], HeadDetector]
    language: Callable[[str], str | None]
    boundary: BoundaryDetector | None = None
    answer_harm: AnswerHarmDetector | None = None


def zone_matters(signals: Signals, rules: Rules) -> bool:
    """Whether the boundary detector's answer can change the outcome or a count: only for what may be recovered."""
    if signals.mode is Mode.OFF or signals.refusal is None:
        return False
    return rules.kept_because(signals.form, signals.refusal.kind, streamed=signals.streamed) is None


class Observer:
    """Asks the detectors, within a deadline, and counts their time and failures."""

    def __init__(self, detectors: Detectors, metrics: Metrics, deadline_s: float, rules: Rules = TABLE_ALONE) -> None:
        self._detectors = detectors
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._rules = rules
        self._refusal_seconds = metrics.detector_seconds.labels("refusal")

    def refusal(self, answer: ChatAnswer) -> RefusalVerdict | None:
        """Judge an answer: refused if any choice is; a tool call is an answer."""
        if answer.called_tools:
            return RefusalVerdict(RefusalKind.ANSWER, 0.0, "the answer calls a tool")
        if answer.form is not RefusalForm.TEXT:
            return RefusalVerdict(RefusalKind.FULL, 1.0, f"the refusal is {answer.form}")
        verdicts = [self.judge(text) for text in answer.texts or ("",)]
        judged = [verdict for verdict in verdicts if verdict is not None]
        if len(judged) < len(verdicts):
            return None
        refused = next((verdict for verdict in judged if verdict.refused), None)
        return refused or min(judged, key=lambda verdict: verdict.score)

    def judge(self, text: str) -> RefusalVerdict | None:
        """Judge one text; ``None`` when the detector failed."""
        started = perf_counter()
        try:
            return self._detectors.refusal.judge(text)
        except Exception:
            # Any failure at all of a detector must leave the client's answer alone.
            self._failed("refusal")
            return None
        finally:
            self._refusal_seconds.observe(perf_counter() - started)

    def head(self) -> Callable[[str], RefusalVerdict | None]:
        """Return a new incremental detector's ``feed``; one that fails calls the head an answer, and is counted."""
        detector = self._detectors.head()

        def feed(text: str) -> RefusalVerdict | None:
            try:
                return detector.feed(text)
            except Exception:
                # As for whole answers: a detector's failure is counted, and the stream goes out as it is.
                self._failed("refusal")
                return RefusalVerdict(RefusalKind.ANSWER, 0.0, "the detector failed")

        return feed

    @property
    def can_recover(self) -> bool:
        """Whether a recovered answer could be checked at all."""
        return self._detectors.boundary is not None and self._detectors.answer_harm is not None

    def language(self, request: ChatRequest) -> str:
        """Return the language of the last user turn, or ``other``."""
        text = next((turn.content for turn in reversed(request.messages) if turn.role == "user"), "")
        started = perf_counter()
        try:
            return self._detectors.language(text) or OTHER_LANGUAGE
        except Exception:
            self._failed("language")
            return OTHER_LANGUAGE
        finally:
            self._metrics.detector_seconds.labels("language").observe(perf_counter() - started)

    async def signals(
        self, request: ChatRequest, answer: ChatAnswer, boundary: BoundaryReading | None = None
    ) -> Signals:
        """Gather the facts about an exchange; language and zone are found out only where they can matter.

        ``boundary`` is the zone where it was read before. The language of an answered request is ``other``: it labels
        refusals and readings, and chooses how refusals are recovered.
        """
        signals = Signals(
            request.mode,
            answer.form,
            self.refusal(answer),
            boundary,
            OTHER_LANGUAGE,
            request.observe_only,
            streamed=request.stream,
            choices=request.choices,
        )
        matters = zone_matters(signals, self._rules)
        if boundary is None and not (signals.refused or matters):
            return signals
        signals = replace(signals, language=self.language(request))
        if boundary is not None or not matters:
            return signals
        return replace(signals, boundary=await self.boundary(request, signals.language))

    async def boundary(self, request: ChatRequest, language: str) -> BoundaryReading:
        """Read on which side of the boundary the whole conversation lies."""
        detector = self._detectors.boundary
        if detector is None:
            return BoundaryReading(Zone.UNKNOWN, None, None, "no boundary detector is loaded (a bundle brings one)")
        if not request.text_only:
            return BoundaryReading(Zone.UNKNOWN, None, None, "the conversation holds more than text")
        started = perf_counter()
        try:
            async with asyncio.timeout(self._deadline_s):
                reading = await detector.read(request.messages, model=request.model, language=language)
        except TimeoutError:
            self._failed("boundary")
            reading = BoundaryReading(Zone.UNKNOWN, None, None, f"no reading within {self._deadline_s} s")
        except Exception as error:
            self._failed("boundary")
            reading = BoundaryReading(Zone.UNKNOWN, None, None, f"the detector failed: {type(error).__name__}")
        else:
            if reading.zone is Zone.UNKNOWN:
                self._metrics.detector_failures.labels("boundary").inc()
        self._metrics.detector_seconds.labels("boundary").observe(perf_counter() - started)
        return reading

    async def harm(self, messages: Sequence[Message], answer: str, *, model: str, language: str) -> HarmVerdict:
        """Judge whether a recovered answer gives what a harmful request asked for."""
        detector = self._detectors.answer_harm
        if detector is None:
            return HarmVerdict(None, "no answer-harm detector is loaded")
        started = perf_counter()
        try:
            async with asyncio.timeout(self._deadline_s):
                verdict = await detector.judge(messages, answer, model=model, language=language)
        except TimeoutError:
            self._failed("answer_harm")
            verdict = HarmVerdict(None, f"no verdict within {self._deadline_s} s")
        except Exception as error:
            self._failed("answer_harm")
            verdict = HarmVerdict(None, f"the detector failed: {type(error).__name__}")
        else:
            if verdict.harmful is None:
                self._metrics.detector_failures.labels("answer_harm").inc()
        self._metrics.detector_seconds.labels("answer_harm").observe(perf_counter() - started)
        return verdict

    def _failed(self, detector: str) -> None:
        self._metrics.detector_failures.labels(detector).inc()
        logger.warning("the %s detector failed", detector, exc_info=True)

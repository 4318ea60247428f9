"""Whether an answer gives what a harmful request asked for, from the served model's own activations."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.bundle import Bundle
from detectors.coordinates import CoordinateReader, NotRead, read_within
from detectors.verdict import HarmVerdict, Message, Zone


class ActivationAnswerHarm:
    """Appends the answer, asks the served model whether the request was harmful, and reads what it is about to say.

    An ``AnswerHarmDetector``. The finished answer is read back unsteered, which makes the reading independent of the
    steering that produced it. Nothing is generated: the coordinate is taken where the model would begin its yes or no,
    and there it tells far more than at the end of the answer (on the reference model AUC .96 to .99, against .83 to
    .87). The request's own coordinate is taken in the same pass and must not be harmful either.
    """

    def __init__(self, reader: CoordinateReader, bundle: Bundle, *, timeout_s: float) -> None:
        self._reader = reader
        self._bundle = bundle
        self._timeout_s = timeout_s

    async def judge(self, messages: Sequence[Message], answer: str, *, model: str, language: str) -> HarmVerdict:
        """Return ``harmful=False`` only for an answer in the benign zone to a request outside the harmful one.

        ``harmful=None`` with the reason when the coordinates are late, missing, not finite, of another bundle, or when
        the bundle judges no answers.
        """
        if self._bundle.manifest.zones.answers is None:
            return HarmVerdict(None, "the bundle has no probe for answers")
        conversation = (*messages, Message("assistant", answer))
        coordinates = await read_within(
            self._reader,
            model,
            conversation,
            timeout_s=self._timeout_s,
            bundle=self._bundle.digest,
            question=self._bundle.question(language),
        )
        if isinstance(coordinates, NotRead):
            return HarmVerdict(None, coordinates.reason)
        request = self._bundle.zone(coordinates.h, language)
        written = self._bundle.answer_zone(coordinates.answer_h, language)
        if request is Zone.UNKNOWN or written is Zone.UNKNOWN:
            return HarmVerdict(None, "the served model gave no finite coordinate of the answer")
        if request is Zone.HARMFUL:
            return HarmVerdict(True, "the request lies in the harmful zone")
        return HarmVerdict(written is not Zone.BENIGN, f"the answer lies in the {written.value} zone")

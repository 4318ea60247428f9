"""Whether an answer gives what a harmful request asked for, by a text classifier of answers."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.boundary_zones import zone_of
from detectors.onnx_classifier import OnnxClassifier
from detectors.runtime import RuntimeBusy
from detectors.verdict import HarmVerdict, Message, Zone

__all__ = ["OnnxAnswerHarm"]


class OnnxAnswerHarm:
    """An ``AnswerHarmDetector``: the classifier's sliding windows over the whole answer; the highest logit counts."""

    def __init__(self, classifier: OnnxClassifier, *, timeout_s: float) -> None:
        self._classifier = classifier
        self._timeout_s = timeout_s

    async def judge(self, messages: Sequence[Message], answer: str, *, model: str, language: str) -> HarmVerdict:
        """Return ``harmful=False`` only for an answer that was read whole and lies in the benign zone.

        ``harmful=None`` with the reason when it is late, too long to be read whole, or the model fails.
        """
        try:
            [found] = await self._classifier.logits([answer], timeout_s=self._timeout_s)
        except TimeoutError:
            return HarmVerdict(None, f"no verdict within {self._timeout_s:g} s")
        except RuntimeBusy:
            return HarmVerdict(None, "the text classifier's queue is full")
        except Exception as error:  # a detector must never fail a request, whatever its model does
            return HarmVerdict(None, f"the text classifier failed: {type(error).__name__}")
        zone = zone_of(self._classifier.manifest.zones, found.h, language)
        if zone is Zone.UNKNOWN:
            return HarmVerdict(None, "the text classifier gave no finite logit")
        if zone is Zone.BENIGN and not found.complete:
            return HarmVerdict(None, f"the answer is too long to be read whole ({len(answer)} characters)")
        return HarmVerdict(zone is not Zone.BENIGN, f"text classifier: the answer lies in the {zone.value} zone")

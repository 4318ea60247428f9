"""On which side of the safety boundary a request lies, by a text classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.boundary_text import transcript, user_turns
from detectors.boundary_zones import unknown, zone_reading
from detectors.onnx_classifier import OnnxClassifier
from detectors.runtime import RuntimeBusy
from detectors.verdict import BoundaryReading, Message

__all__ = ["OnnxBoundary"]

_MOST_TURNS = 16


class OnnxBoundary:
    """A ``BoundaryDetector``: every user turn by itself and the whole conversation with its roles; the highest counts.

    One harmful turn so makes the conversation harmful, and what only the whole shows (a system prompt, a tool call, a
    request in pieces) is read too. ``rho`` is never known. The thresholds were measured on single requests; more texts
    can only raise the highest logit, so a longer conversation is judged more carefully, never less.
    """

    def __init__(self, classifier: OnnxClassifier, *, timeout_s: float) -> None:
        self._classifier = classifier
        self._timeout_s = timeout_s

    async def read(self, messages: Sequence[Message], *, model: str, language: str) -> BoundaryReading:
        """Return the reading; zone ``UNKNOWN`` with the reason when it is late, unqueued or the model fails."""
        turns = user_turns(messages)
        if not messages:
            return unknown("the conversation is empty")
        if len(turns) > _MOST_TURNS:
            return unknown(f"more than {_MOST_TURNS} user turns")
        texts = list(dict.fromkeys((*turns, transcript(messages))))
        try:
            found = await self._classifier.logits(texts, timeout_s=self._timeout_s)
        except TimeoutError:
            return unknown(f"no reading within {self._timeout_s:g} s")
        except RuntimeBusy:
            return unknown("the text classifier's queue is full")
        except Exception as error:  # a detector must never fail a request, whatever its model does
            return unknown(f"the text classifier failed: {type(error).__name__}")
        h = float(np.max([one.h for one in found]))  # unlike max, it passes on what is no number
        complete = all(one.complete for one in found)
        return zone_reading(self._classifier.manifest.zones, h, language, complete=complete, how="text classifier")

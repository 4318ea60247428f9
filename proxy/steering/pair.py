"""The dialect of two servers: a plain one, and one that steers every request in one and the same way.

llama.cpp takes a control vector when it starts, not with a request. So the proxy chooses by choosing the server: the
client's request goes to ``upstream.url``, a steered attempt to ``steering.pair_url``.
"""

from __future__ import annotations

from collections.abc import Mapping

from detectors.bundle import Steering
from proxy.answers import ChatAnswer
from proxy.steering.dialect import SteeredRequest


class Pair:
    """The second server was started with ``steering``, and can do nothing else; ``model`` is its name there."""

    can_steer = True
    reports = False
    shares_prefixes = False

    def __init__(self, steering: Steering, model: str | None) -> None:
        self._steering = steering
        self._model = model

    def expresses(self, steering: Steering) -> bool:
        """Whether this is what the second server was started with."""
        return steering == self._steering

    def steered(self, payload: Mapping[str, object], steering: Steering) -> SteeredRequest | None:
        """Return the request for the second server, or ``None`` for a steering that it was not started with."""
        if not self.expresses(steering):
            return None
        return SteeredRequest({**payload} if self._model is None else {**payload, "model": self._model})

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return True: the server cannot help steering, and the canary shows that it was started so."""
        return True

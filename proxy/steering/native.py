"""The dialect of ``rass serve-model``: the ``rass`` object of a request, and a report in every answer."""

from __future__ import annotations

from collections.abc import Mapping

from detectors.bundle import Steering
from proxy.answers import ChatAnswer
from proxy.steering.dialect import SteeredRequest


class Native:
    """What an order leaves out (layers, form, span) comes from the served model's own copy of the bundle."""

    can_steer = True
    reports = True
    shares_prefixes = False

    def expresses(self, steering: Steering) -> bool:
        """Return True: a served model without this vector answers with an error, never unsteered."""
        return True

    def steered(self, payload: Mapping[str, object], steering: Steering) -> SteeredRequest:
        """Return the request with a ``rass.steer`` order."""
        order = {"steer": {"vector": steering.vector_id, "strength": steering.strength}}
        return SteeredRequest({**payload, "rass": order})

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return what the report at the head of the answer says."""
        return answer.steered is True

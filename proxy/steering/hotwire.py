"""The dialect of the vLLM plugin ``hotwire-vllm``: vectors lie at the engine, a request names one by id.

An order is ``{"id", "layer", "scale"}``, or a list of them, and adds ``scale`` times the named row. Each distinct
triple takes one of a fixed number of slots for as long as the engine lives, and what finds no slot, like everything
that the plugin does not understand, is answered with status 200 and unsteered. So the proxy counts the slots itself and
asks for nothing beyond them, and the canary shows whether the rest was understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from detectors.bundle import Bundle, Steering
from proxy.answers import ChatAnswer
from proxy.steering.dialect import SteeredRequest
from proxy.steering.vllm import HOTWIRE_KEY, client_salt, steered_salt, vllm_request

Triple = tuple[str, int, float]
"""Vector id, layer and scale: what takes a slot."""


class SlotBook:
    """The slots of one engine, which outlive a bundle: a reload hands the book on, as the engine goes on too."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._taken: set[Triple] = set()

    @property
    def taken(self) -> int:
        """How many slots the proxy has used."""
        return len(self._taken)

    def has_room(self, triples: Iterable[Triple]) -> bool:
        """Whether all of ``triples`` have a slot or would find one."""
        return len(self._taken | set(triples)) <= self.slots

    def take(self, triples: Iterable[Triple]) -> bool:
        """Take a slot for each of ``triples`` that has none; all of them or, where there is no room, nothing."""
        wanted = set(triples)
        if not self.has_room(wanted):
            return False
        self._taken |= wanted
        return True


class Hotwire:
    """Steers by id; a vector with several layers takes a slot for each."""

    can_steer = True
    reports = False
    shares_prefixes = True

    def __init__(self, bundle: Bundle, book: SlotBook) -> None:
        self._bundle = bundle
        self.book = book

    def triples(self, steering: Steering) -> list[Triple]:
        """Return what ``steering`` takes a slot for."""
        return [(steering.vector_id, layer, float(steering.strength)) for layer in self._layers(steering)]

    def expresses(self, steering: Steering) -> bool:
        """Whether there is a slot for each layer."""
        return self.book.has_room(self.triples(steering))

    def steered(self, payload: Mapping[str, object], steering: Steering) -> SteeredRequest | None:
        """Return the request with its orders, or ``None`` where the slots are used up."""
        triples = self.triples(steering)
        if not self.book.take(triples):
            return None
        order = [{"id": vector, "layer": layer, "scale": scale} for vector, layer, scale in triples]
        plan = self._bundle.manifest.steering
        salt = steered_salt(client_salt(payload), steering, self._layers(steering), plan.form, plan.span)
        return vllm_request(payload, HOTWIRE_KEY, order, salt)

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return True: the plugin reports nothing, and the canary watches it."""
        return True

    def _layers(self, steering: Steering) -> tuple[int, ...]:
        return self._bundle.vector_spec(self._bundle.vector_name(steering.vector_id)).layers

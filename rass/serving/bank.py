"""A bundle's directions and probes, as the tensors that the hooks index and the plans that refer to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.bundle import Bundle, BundleError
from detectors.manifest import SteeringForm, SteeringSpan
from rass.conversation import Conversation
from rass.serving.errors import InvalidRequest
from rass.serving.plans import Push, Tap

__all__ = ["MAX_STRENGTH", "Bank", "Reading", "ReadingPlan", "Steering"]

MAX_STRENGTH = 64.0
"""The largest strength either way: far beyond any useful one, and far from overflowing half precision."""


@dataclass(frozen=True, slots=True)
class Steering:
    """A request's steering, resolved against the bundle."""

    vector_id: str
    strength: float
    span: SteeringSpan
    pushes: tuple[Push, ...]

    @property
    def active(self) -> bool:
        """False for strength 0, which changes nothing."""
        return bool(self.pushes)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured of one row; ``None`` where the bundle has no such probe or the position was not reached.

    ``turns`` are the logits of probe ``h``, one for each user turn that was read.
    """

    turns: tuple[float, ...]
    rho: float | None
    answer_h: float | None
    asked_h: float | None


@dataclass(frozen=True, slots=True)
class _Slot:
    probe: str
    bias: float
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """Where a conversation is read, and how its coordinates follow from the dot products."""

    taps: tuple[Tap, ...]
    slots: tuple[_Slot, ...]

    def reading(self, values: Mapping[tuple[int, int], float]) -> Reading:
        """Return what the dot products of ``taps`` add up to."""
        turns: list[float] = []
        ends: dict[str, float] = {}
        for slot in self.slots:
            coordinate = slot.bias + math.fsum(values[key] for key in slot.keys)
            if slot.probe == "h":
                turns.append(coordinate)
            else:
                ends[slot.probe] = coordinate
        return Reading(tuple(turns), ends.get("rho"), ends.get("answer_h"), ends.get("asked_h"))


class Bank:
    """All directions and probe weights of a bundle (or of none), one row each.

    ``directions`` is ``[n, d]``, ``weights`` ``[m, d]``, both on ``device``.
    """

    def __init__(self, bundle: Bundle | None, *, hidden_size: int, device: torch.device | str) -> None:
        self._bundle = bundle
        self._direction_row: dict[tuple[str, int], int] = {}
        self._weight_row: dict[tuple[str, int], int] = {}
        directions: list[Tensor] = []
        weights: list[Tensor] = []
        if bundle is not None:
            for name, spec in bundle.manifest.vectors.items():
                for layer, unit in zip(spec.layers, bundle.vector_array(name), strict=True):
                    self._direction_row[name, layer] = len(directions)
                    directions.append(torch.tensor(unit))
            for name, probe in bundle.manifest.probes.items():
                rows = bundle.probe(name)[0].reshape(len(probe.layers), hidden_size)
                for layer, row in zip(probe.layers, rows, strict=True):
                    self._weight_row[name, layer] = len(weights)
                    weights.append(torch.tensor(row))
        empty = torch.zeros(0, hidden_size)
        self.directions = (torch.stack(directions) if directions else empty).to(device)
        self.weights = (torch.stack(weights) if weights else empty).to(device)

    @property
    def digest(self) -> str | None:
        """The bundle's digest, ``None`` without a bundle."""
        return None if self._bundle is None else self._bundle.digest

    @property
    def asks_about_requests(self) -> bool:
        """True where h of a request needs the question whether it was harmful."""
        return self._bundle is not None and self._bundle.asks_about_requests

    def request_h(self, reading: Reading, asked_h: float | None = None) -> float | None:
        """Return h of a request as the bundle makes it up, ``None`` where a part of it was not measured."""
        return None if self._bundle is None else self._bundle.request_h(reading.turns, asked_h)

    def steering(
        self,
        vector_id: str,
        strength: float,
        *,
        layers: Sequence[int] | None = None,
        form: SteeringForm | None = None,
        span: SteeringSpan | None = None,
    ) -> Steering:
        """Resolve a request's steering; what it leaves out is the bundle's.

        Raises ``InvalidRequest`` naming the field that is wrong.
        """
        bundle = self._bundle
        if bundle is None:
            raise InvalidRequest(
                "no bundle is loaded, so nothing can be steered; start with --bundle", param="rass.steer"
            )
        if not math.isfinite(strength) or abs(strength) > MAX_STRENGTH:
            raise InvalidRequest(
                f"strength must be a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}", param="rass.steer.strength"
            )
        try:
            name = bundle.vector_name(vector_id)
        except BundleError as error:
            raise InvalidRequest(str(error), param="rass.steer.vector") from error
        spec = bundle.vector_spec(name)
        chosen = spec.layers if layers is None else tuple(layers)
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(spec.layers):
            known = ", ".join(str(layer) for layer in spec.layers)
            raise InvalidRequest(
                f"layers must be distinct layers of vector {name!r}, which has {known}", param="rass.steer.layers"
            )
        plan = bundle.manifest.steering
        if (form or plan.form) is SteeringForm.ADD:
            constant, slope = strength * spec.scale, 0.0
        else:
            constant, slope = -strength * spec.mean_projection, strength
        pushes = tuple(Push(layer, self._direction_row[name, layer], constant, slope) for layer in chosen)
        return Steering(vector_id, strength, span or plan.span, pushes if strength else ())

    def reading(self, conversation: Conversation, steering: Steering | None = None) -> ReadingPlan:
        """Plan the reading of a conversation; raises ``InvalidRequest`` without a bundle.

        A coordinate that the row's own steering would change is left out, of all turns where one is: what is left of a
        highest over turns would pass for the conversation's.
        """
        bundle = self._bundle
        if bundle is None:
            raise InvalidRequest("no bundle is loaded, so nothing can be read; start with --bundle", param="rass.read")
        end, asked, answered = (conversation.end,), conversation.asked, conversation.answered
        positions = {
            # A question takes the place of the generation prompt where h would be read.
            "h": () if asked and not answered else conversation.answer_starts,
            "rho": () if asked or answered else end,
            "answer_h": end if asked and answered else (),
            "asked_h": end if asked and not answered else (),
        }
        first_steered_layer = min((push.layer for push in steering.pushes), default=None) if steering else None
        everywhere = steering is not None and steering.span is SteeringSpan.EVERY_TOKEN
        taps: list[Tap] = []
        slots: list[_Slot] = []
        for name, probe in bundle.manifest.probes.items():
            changed = first_steered_layer is not None and max(probe.layers) > first_steered_layer
            if changed and any(everywhere or position >= conversation.end for position in positions[name]):
                continue
            for position in positions[name]:
                slot = len(slots)
                taps += [Tap(layer, position, self._weight_row[name, layer], slot) for layer in probe.layers]
                slots.append(_Slot(name, bundle.probe(name)[1], tuple((slot, layer) for layer in probe.layers)))
        return ReadingPlan(tuple(taps), tuple(slots))

"""What recovery and the canary need of an engine's steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from detectors.bundle import Steering
from proxy.answers import ChatAnswer


@dataclass(frozen=True, slots=True)
class SteeredRequest:
    """A request that asks for steering: its payload, and the headers that it carries in place of the client's."""

    payload: dict[str, object] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """What one engine understands."""

    @property
    def can_steer(self) -> bool:
        """Whether any request can be steered at all."""
        ...

    @property
    def reports(self) -> bool:
        """Whether the engine says of each answer if it was steered; where it does not, only the canary can tell."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Whether steered and plain requests meet in one prefix cache, so that a salt must keep them apart."""
        ...

    def expresses(self, steering: Steering) -> bool:
        """Whether this engine can be told to steer so, now."""
        ...

    def steered(self, payload: Mapping[str, object], steering: Steering) -> SteeredRequest | None:
        """Return a request that asks for ``steering``, in place of any steering that the client asked for.

        ``payload`` is left as it is. ``None``: the engine cannot be told, and would answer unsteered.
        """
        ...

    def did_steer(self, answer: ChatAnswer) -> bool:
        """Return whether an answer counts as steered: what the engine reports, or True where it never does."""
        ...

"""Who is asking: what authentication found out about a client, for the rest of its exchange."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from starlette.types import Scope

from proxy.exchange import ANONYMOUS, Mode

_SCOPE_KEY = "rass.caller"


class Right(StrEnum):
    """What a key may do beyond asking.

    ``CLIENT_STEERING``: send the engine's steering fields. ``DISTANCES``: see the exact distance from the boundary,
    which would be an oracle for whoever climbs it.
    """

    CLIENT_STEERING = "client-steering"
    DISTANCES = "distances"


@dataclass(frozen=True, slots=True)
class Caller:
    """A client: the name of its key, the highest mode it gets (``None``: the configured one) and its rights."""

    key_id: str = ANONYMOUS
    highest_mode: Mode | None = None
    rights: frozenset[Right] = frozenset()

    def mode(self, configured: Mode) -> Mode:
        """Return the mode that this caller gets where ``configured`` is the proxy's."""
        return configured if self.highest_mode is None else configured.lowered_to(self.highest_mode)

    def may(self, right: Right) -> bool:
        """Whether the caller's key has ``right``."""
        return right in self.rights


def identified(scope: Scope, caller: Caller) -> Scope:
    """Return ``scope`` with its caller, and without the key: whatever is relayed from it cannot carry it upstream."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    return {**scope, "headers": headers, _SCOPE_KEY: caller}


def caller_of(scope: Scope) -> Caller:
    """Return who asks; anybody where no keys are in use."""
    caller = scope.get(_SCOPE_KEY)
    return caller if isinstance(caller, Caller) else Caller()

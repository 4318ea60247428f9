"""Budgets that requests fill and attempts empty: of the whole proxy, and of each key.

Counted in requests, not in seconds: a flood of refusals earns no more attempts than its own share, however fast. Each
process keeps its own.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum


class Spent(StrEnum):
    """Which budget ended a recovery; label values of ``rass_recoveries_over_budget_total{budget}``."""

    UPSTREAM_SHARE = "upstream_share"
    KEY_SHARE = "key_share"
    TOKENS = "tokens"
    TIME = "time"
    SHADOW_TASKS = "shadow_tasks"


class ShareBudget:
    """Bounds attempts as a share of ordinary requests: a token bucket that starts full."""

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._left = float(burst)

    @property
    def full(self) -> bool:
        """Whether it is as it was at the start."""
        return self._left >= self._burst

    def earn(self) -> None:
        """Count one ordinary request."""
        self._left = min(self._burst, self._left + self._share)

    def take(self) -> bool:
        """Take one attempt; False when none is left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """Undo one ``take``: the attempt cost nothing more than the request that it stood for."""
        self._left = min(self._burst, self._left + 1.0)


class KeyBudgets:
    """A `ShareBudget` for each key, by its opaque id.

    Only keys that have used some of theirs are kept: a full budget is as good as a new one. Beyond ``tracked`` keys the
    one that was used longest ago is forgiven, which the budget of the whole proxy still bounds.
    """

    def __init__(self, share: float, burst: int, tracked: int) -> None:
        self._share = share
        self._burst = burst
        self._tracked = tracked
        self._used: OrderedDict[str, ShareBudget] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def earn(self, key_id: str) -> None:
        """Count one ordinary request of a key."""
        budget = self._used.get(key_id)
        if budget is not None:
            budget.earn()
            self._forget_if_full(key_id, budget)

    def take(self, key_id: str) -> bool:
        """Take one attempt for a key; False when it has none left."""
        budget = self._used.get(key_id)
        if budget is None:
            if len(self._used) >= self._tracked:
                self._used.popitem(last=False)
            budget = self._used[key_id] = ShareBudget(self._share, self._burst)
        self._used.move_to_end(key_id)
        return budget.take()

    def give_back(self, key_id: str) -> None:
        """Undo one ``take`` of a key."""
        budget = self._used.get(key_id)
        if budget is not None:
            budget.give_back()
            self._forget_if_full(key_id, budget)

    def _forget_if_full(self, key_id: str, budget: ShareBudget) -> None:
        if budget.full:
            del self._used[key_id]


class Budgets:
    """Both budgets together: an attempt is paid from each, or from none."""

    def __init__(self, *, whole: ShareBudget, keys: KeyBudgets) -> None:
        self._whole = whole
        self._keys = keys

    def earn(self, key_id: str) -> None:
        """Count one ordinary request."""
        self._whole.earn()
        self._keys.earn(key_id)

    def take(self, key_id: str) -> Spent | None:
        """Take one attempt; returns the budget that forbids it, or ``None`` where it is paid."""
        if not self._keys.take(key_id):
            return Spent.KEY_SHARE
        if not self._whole.take():
            self._keys.give_back(key_id)
            return Spent.UPSTREAM_SHARE
        return None

    def give_back(self, key_id: str) -> None:
        """Undo one ``take``."""
        self._whole.give_back()
        self._keys.give_back(key_id)

"""How much each key may ask for: requests per minute and requests at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import RateLimited
from proxy.keys import Key

_BUSY_RETRY_S = 1


@dataclass(slots=True)
class _Use:
    tokens: float
    filled_at: float
    running: int = 0


class RateLimits:
    """A token bucket and a count of running requests for each key.

    The bucket holds one minute's worth and fills evenly, so a key that was idle may use its minute at once. Counts are
    this process's own: with several workers, each grants the limit by itself. They outlive a reload of the settings.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def admit(self, key: Key) -> Callable[[], None]:
        """Count one request in and return what counts it out; raises ``RateLimited``."""
        now = self._clock()
        use = self._uses.get(key.name)
        if use is None:
            use = self._uses[key.name] = _Use(float(key.requests_per_minute or 0), now)
        most = key.concurrent_requests
        if most is not None and use.running >= most:
            raise RateLimited(
                f"key {key.name} has {use.running} requests running, its limit; wait for one of them to end",
                limit="concurrent_requests",
                retry_after_s=_BUSY_RETRY_S,
            )
        if key.requests_per_minute is not None:
            self._take(key.name, use, key.requests_per_minute, now)
        use.running += 1

        def leave() -> None:
            use.running -= 1

        return leave

    def _take(self, name: str, use: _Use, per_minute: int, now: float) -> None:
        per_second = per_minute / 60
        use.tokens = min(float(per_minute), use.tokens + (now - use.filled_at) * per_second)
        use.filled_at = now
        if use.tokens < 1:
            raise RateLimited(
                f"key {name} has used up its {per_minute} requests per minute",
                limit="requests_per_minute",
                retry_after_s=math.ceil((1 - use.tokens) / per_second),
            )
        use.tokens -= 1

"""Who may pass: a plain ASGI layer around everything else that the proxy serves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.asgi import header_map, send_error
from proxy.caller import identified
from proxy.errors import RateLimited, Unauthorized
from proxy.keys import Key, Keyring, Rejection
from proxy.metrics import Metrics
from proxy.notes import notes_of
from proxy.rate_limits import RateLimits

_CHALLENGE = 'Bearer realm="rass-proxy"'
_ASK = "send it as `Authorization: Bearer KEY`, or ask the operator of this proxy for one"
_REFUSALS = {
    Rejection.MISSING: f"no API key was given; {_ASK}",
    Rejection.UNKNOWN: f"the API key is not one of this proxy's; {_ASK}",
    Rejection.EXPIRED: "the API key has expired; ask the operator of this proxy for a new one",
}


def _now() -> datetime:
    return datetime.now(UTC)


class Authentication:
    """Lets requests with a valid key through, within the key's limits, and tells the rest who asks.

    ``open_paths`` need no key. The key itself stops here: what is relayed upstream never carries it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keyring: Keyring,
        limits: RateLimits,
        open_paths: frozenset[str],
        metrics: Metrics,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._limits = limits
        self._open_paths = open_paths
        self._metrics = metrics
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer 401 or 429 in OpenAI's shape."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        headers = header_map(scope)
        try:
            key = self._key(headers.get("authorization"))
            notes_of(scope).key_id = key.name
            leave = self._limits.admit(key)
        except Unauthorized as error:
            await send_error(error, notes_of(scope).request_id, send)
            return
        except RateLimited as error:
            self._metrics.rate_limited.labels(error.limit).inc()
            await send_error(error, notes_of(scope).request_id, send)
            return
        try:
            await self._app(identified(scope, key.caller()), receive, send)
        finally:
            leave()

    def _key(self, header: str | None) -> Key:
        scheme, _, presented = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            raise self._refused(Rejection.MISSING)
        found = self._keyring.find(presented.strip(), self._now())
        if isinstance(found, Rejection):
            raise self._refused(found)
        return found

    def _refused(self, why: Rejection) -> Unauthorized:
        self._metrics.unauthorized.labels(why).inc()
        challenge = _CHALLENGE if why is Rejection.MISSING else f'{_CHALLENGE}, error="invalid_token"'
        return Unauthorized(_REFUSALS[why], challenge)

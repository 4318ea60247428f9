"""How an exchange with a provider failed, in the proxy's own errors.

litellm's own words are in none of them: they quote requests, answers and files of ours.
"""

from __future__ import annotations

from typing import NoReturn

import httpx

from proxy.errors import UpstreamBroke, UpstreamConnectTimedOut, UpstreamError, UpstreamTimedOut, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.settings.upstream import UpstreamSettings
from proxy.upstream.litellm_errors import described, root_of
from proxy.upstream.provider_wire import ProviderWire

__all__ = ["Failures"]


class Failures:
    """Counts and describes one provider's failures."""

    def __init__(self, settings: UpstreamSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    @property
    def address(self) -> str:
        """The provider and, where it was given, its address."""
        provider, url = self._settings.provider, self._settings.provider_url
        return f"{provider} ({url})" if url else str(provider)

    def count(self, error: UpstreamError) -> None:
        """Count a failure."""
        self._metrics.upstream_errors.labels(error.code).inc()

    def late(self, what: str) -> UpstreamTimedOut:
        """Describe a time limit that passed."""
        return UpstreamTimedOut(f"the provider {self.address} {what}")

    def broke(self, wire: ProviderWire, what: str) -> UpstreamBroke:
        """Describe an answer that ended in the middle, by the provider's words or else by ``what``."""
        why = wire.error_message or what
        return UpstreamBroke(f"the provider {self.address} stopped in the middle of its answer ({why})")

    def raise_for(self, error: Exception, wire: ProviderWire) -> NoReturn:
        """Raise the ``UpstreamError`` of an exchange that has no answer, or only a part of one."""
        if isinstance(wire.failure, httpx.ConnectTimeout):
            raise UpstreamConnectTimedOut(
                f"no connection to the provider {self.address} within {self._settings.connect_timeout_s:g} s "
                "(upstream.connect_timeout_s); check upstream.provider_url"
            ) from error
        if isinstance(wire.failure, httpx.TimeoutException):
            raise self.late(f"did not answer in time ({type(wire.failure).__name__})") from error
        what = root_of(error) if wire.failure is None else described(wire.failure)
        if wire.status is not None:
            raise self.broke(wire, what) from error
        raise UpstreamUnreachable(
            f"the provider {self.address} cannot be asked ({what}); check upstream.provider_url and the provider's "
            "credentials"
        ) from error

"""What each step of the ladder sends: to whom, with which headers and which payload."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from detectors.bundle import Steering
from detectors.verdict import Zone
from proxy.clarify import CLARIFIED, Notes, clarified
from proxy.engine_fields import STEERING_FIELDS
from proxy.exchange import ChatRequest
from proxy.headers import bearer
from proxy.ladder import Rules, Step
from proxy.policy import permitted
from proxy.steering import Dialect
from proxy.upstream.protocol import Upstream

SteeringPlan: TypeAlias = Callable[[str, Zone], Steering | None]
"""From a language and a zone to how to steer there, or ``None`` where that is not recovered (`Bundle.steering`)."""

IDEMPOTENCY_HEADER = "idempotency-key"

# What another operator's server needs in order to answer, and nothing that would let it act for the client.
_SENT_ELSEWHERE = frozenset({"accept", "content-type", "user-agent", "x-request-id"})


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt, ready to be sent; ``steered`` means that its answer has to count as steered."""

    upstream: Upstream
    headers: Mapping[str, str] = field(repr=False)
    payload: Mapping[str, object] = field(repr=False)
    steered: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """Another model: its name and, where it runs elsewhere, its upstream and the key to send there.

    Without an ``upstream`` of its own it is asked where the client's request was, with the client's headers.
    """

    model: str
    upstream: Upstream | None = None
    api_key: str | None = field(default=None, repr=False)


class Steps:
    """The steps that a configuration and a bundle give, in the configured order."""

    def __init__(
        self,
        ladder: Sequence[Step],
        *,
        rules: Rules,
        upstream: Upstream,
        steered_upstream: Upstream,
        dialect: Dialect,
        plan: SteeringPlan,
        notes: Notes | None,
        fallback: Fallback | None,
    ) -> None:
        """Take ``notes`` as ``None`` where step ``clarify`` does not exist, ``fallback`` likewise.

        ``steered_upstream`` is where steered attempts go: the same as ``upstream``, but for a pair.
        """
        self._ladder = tuple(ladder)
        self._rules = rules
        self._upstream = upstream
        self._steered_upstream = steered_upstream
        self._dialect = dialect
        self._plan = plan
        self._notes = notes
        self._fallback = fallback

    def ladder(self, request: ChatRequest, language: str, zone: Zone) -> tuple[Step, ...]:
        """Return the steps for a request in ``language`` and ``zone``, in order of preference."""
        return tuple(
            step
            for step in self._ladder
            if permitted(step, zone, self._rules) and self._exists(step, request, language, zone)
        )

    def order(self, step: Step, request: ChatRequest, language: str, zone: Zone) -> Order | None:
        """Return what ``step`` sends for ``request``, or ``None`` where it cannot be taken after all."""
        match step:
            case Step.STEER:
                steering = self._plan(language, zone)
                if steering is None:
                    return None
                steered = self._dialect.steered(request.payload, steering)
                if steered is None:
                    return None
                headers = {**_own_headers(request), **steered.headers}
                return Order(self._steered_upstream, headers, steered.payload, steered=True)
            case Step.CLARIFY:
                if self._notes is None:
                    return None
                noted = clarified(request.wire.surface, request.payload, self._notes.note(language))
                return None if noted is None else Order(self._upstream, _own_headers(request), noted)
            case Step.FALLBACK:
                return None if self._fallback is None else self._to_fallback(self._fallback, request)
            case _:
                assert_never(step)

    def _exists(self, step: Step, request: ChatRequest, language: str, zone: Zone) -> bool:
        match step:
            case Step.STEER:
                return self._dialect.can_steer and self._plan(language, zone) is not None
            case Step.CLARIFY:
                return self._notes is not None and request.wire.surface in CLARIFIED
            case Step.FALLBACK:
                other = self._fallback
                # The same model at the same address would be the same request once more.
                return other is not None and (other.upstream is not None or other.model != request.model)
            case _:
                assert_never(step)

    def _to_fallback(self, fallback: Fallback, request: ChatRequest) -> Order:
        headers = _own_headers(request)
        if fallback.upstream is not None:
            # The client's key is for this upstream: it must not travel to another one.
            headers = {name: headers[name] for name in headers if name in _SENT_ELSEWHERE | {IDEMPOTENCY_HEADER}}
        headers |= bearer(fallback.api_key)
        # Another model's engine has no use for orders to this one's.
        payload = {name: value for name, value in request.payload.items() if name not in STEERING_FIELDS}
        return Order(fallback.upstream or self._upstream, headers, {**payload, "model": fallback.model})


def _own_headers(request: ChatRequest) -> dict[str, str]:
    """Return an attempt's headers: with the client's idempotency key the engine could replay the refusal."""
    headers = dict(request.headers)
    if IDEMPOTENCY_HEADER in headers:
        headers[IDEMPOTENCY_HEADER] = str(uuid.uuid4())
    return headers

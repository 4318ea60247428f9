"""Writing down what happened to an exchange: metrics, audit row, and the proxy's own response headers."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter

from detectors.verdict import RefusalKind, Zone
from proxy.answers import ChatAnswer
from proxy.audit import Audit
from proxy.exchange import Action, ChatRequest, Mode, ModeSource
from proxy.headers import (
    ACTION_HEADER,
    ATTEMPTS_HEADER,
    DISTANCE_HEADER,
    REFUSAL_HEADER,
    REQUEST_ID_HEADER,
    ZONE_HEADER,
)
from proxy.metrics import Metrics
from proxy.policy import Answer, action_of
from proxy.recovery import Recovered
from proxy.signals import Signals

UNREAD = "unread"
KINDS = {Zone.BENIGN: "over", Zone.HARMFUL: "warranted", Zone.BAND: "unknown", Zone.UNKNOWN: "unknown"}
"""What a refusal is called by its request's zone, which is read of a typed one only if it may be recovered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an exchange ended: the facts, the decision and what was tried."""

    signals: Signals
    recovered: Recovered

    @property
    def action(self) -> Action:
        """The word for it."""
        return action_of(self.signals, self.recovered.decision, self.recovered.attempts)


class Ledger:
    """Writes down what happened: metrics, audit row, and the proxy's own response headers."""

    def __init__(self, metrics: Metrics, audit: Audit | None) -> None:
        self._metrics = metrics
        self._audit = audit
        self._requests: dict[tuple[Action, Mode], Counter] = {}

    def headers(
        self,
        request: ChatRequest,
        action: Action,
        *,
        zone: str | None = None,
        refusal: RefusalKind | None = None,
        attempts: int | None = None,
    ) -> dict[str, str]:
        """Return the proxy's own headers; what is not known when the headers leave is left out."""
        headers = {ACTION_HEADER: str(action), REQUEST_ID_HEADER: request.request_id}
        if zone is not None:
            headers[ZONE_HEADER] = zone
        if refusal is not None:
            headers[REFUSAL_HEADER] = str(refusal)
        if attempts is not None:
            headers[ATTEMPTS_HEADER] = str(attempts)
        return headers

    def outcome_headers(self, request: ChatRequest, outcome: Outcome) -> dict[str, str]:
        """Return the headers of an exchange whose outcome is known.

        The exact distance stands among them only for a key with the right to see it.
        """
        signals = outcome.signals
        headers = self.headers(
            request,
            outcome.action,
            zone=UNREAD if signals.boundary is None else str(signals.zone),
            refusal=None if signals.refusal is None else signals.refusal.kind,
            attempts=outcome.recovered.attempts.sent,
        )
        if request.sees_distance and signals.boundary is not None and signals.boundary.h is not None:
            headers[DISTANCE_HEADER] = f"{signals.boundary.h:.6g}"
        return headers

    def count(self, request: ChatRequest, action: Action) -> None:
        """Count an exchange that was not judged, and note it for its log line.

        A client that turned judging off leaves an audit row that says so.
        """
        request.notes.action = action
        counter = self._requests.get((action, request.mode))
        if counter is None:  # the client's own look-up costs more than all else here
            counter = self._requests[action, request.mode] = self._metrics.requests.labels(action, request.mode)
        counter.inc()
        if request.mode is Mode.OFF and request.mode_by is ModeSource.CLIENT_HEADER and self._audit is not None:
            self._count_row(written=self._audit.write_unjudged(request, action))

    def record(self, request: ChatRequest, outcome: Outcome, original: ChatAnswer) -> None:
        """Count a judged exchange and write its audit row if it was flagged."""
        signals = outcome.signals
        action = outcome.action
        self.count(request, action)
        self._count_attempts(outcome)
        notes = request.notes
        notes.zone = UNREAD if signals.boundary is None else signals.zone
        notes.language = signals.language
        notes.attempts = outcome.recovered.attempts.sent
        text = "\n".join(original.texts)
        changed = outcome.recovered.decision.answer is not Answer.ORIGINAL
        delivered = notes.answer = outcome.recovered.text if changed else text
        if signals.boundary is not None:
            self._metrics.zones.labels(signals.zone).inc()
            if signals.boundary.h is not None:
                self._metrics.read_distance(signals.boundary.h, signals.language)
        if signals.refused:
            self._metrics.refused(KINDS[signals.zone], signals.form, signals.language)
        if self._audit is None or not (signals.refused or outcome.recovered.attempts.made):
            return
        written = self._audit.write(
            request,
            signals,
            outcome.recovered.decision,
            outcome.recovered.attempts,
            action,
            original=text,
            delivered=delivered,
        )
        self._count_row(written=written)

    def record_shadow(self, request: ChatRequest, outcome: Outcome, original: ChatAnswer) -> None:
        """Count a background recovery and write a second row for its exchange: the first says what was delivered."""
        self._metrics.shadows.labels(outcome.action).inc()
        self._count_attempts(outcome)
        if self._audit is None:
            return
        text = "\n".join(original.texts)
        written = self._audit.write(
            request,
            outcome.signals,
            outcome.recovered.decision,
            outcome.recovered.attempts,
            outcome.action,
            original=text,
            delivered=text,
            shadow=outcome.recovered.text,
        )
        self._count_row(written=written)

    def _count_row(self, *, written: bool) -> None:
        if not written:
            self._metrics.audit_failures.inc()

    def _count_attempts(self, outcome: Outcome) -> None:
        sent = outcome.recovered.attempts.sent
        if sent:
            self._metrics.recovery_attempts.observe(sent)

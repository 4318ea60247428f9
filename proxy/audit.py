"""The audit trail: a JSON line for each refused, recovered or opted-out exchange, in a file only its owner reads."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from proxy.errors import StartupError
from proxy.exchange import Action, ChatRequest
from proxy.policy import AttemptState, Deliver
from proxy.settings.operation import AuditSettings
from proxy.signals import Signals

logger = logging.getLogger(__name__)


class Audit:
    """Writes rows. Rows hold coordinates (the file is the operator's), and text only where settings say so.

    A row is written in one ``write`` to a file opened for appending, so that several processes may share it. A file
    that takes none, on a full disk, never ends an exchange: each write says whether its row is there, and the log when
    rows begin to be lost and when they are written again.
    """

    def __init__(self, path: Path, *, include_text: bool) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartupError(f"audit.path: {path} cannot be opened for appending: {error.strerror}") from error
        self._path = path
        self._include_text = include_text
        self._lost = 0
        """Rows that were lost one after the other, up to now."""
        self._cut_short = False
        """Whether the file ends inside of a row."""

    def write(
        self,
        request: ChatRequest,
        signals: Signals,
        decision: Deliver,
        attempts: AttemptState,
        action: Action,
        *,
        original: str,
        delivered: str,
        shadow: str | None = None,
    ) -> bool:
        """Append the row of one exchange and return whether it was written.

        ``original`` and ``delivered`` are answers' texts; ``shadow`` is the one that mode shadow found and kept back.
        """
        reading = signals.boundary
        row = self._about(request, action) | {
            "language": signals.language,
            "why": decision.why,
            "unsteered": request.unsteered,
            "refusal": None
            if signals.refusal is None
            else {"kind": signals.refusal.kind, "score": signals.refusal.score, "form": signals.form},
            "boundary": None
            if reading is None
            else {"zone": reading.zone, "h": reading.h, "rho": reading.rho, "reason": reading.reason},
            "attempts": [asdict(attempt) for attempt in attempts.made],
        }
        if self._include_text:
            row["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
            row["original"] = original
            row["delivered"] = delivered
            if shadow is not None:
                row["shadow"] = shadow
        return self._append(row)

    def write_unjudged(self, request: ChatRequest, action: Action) -> bool:
        """Append the row of an exchange that nothing was to judge and return whether it was written."""
        return self._append(self._about(request, action))

    def _about(self, request: ChatRequest, action: Action) -> dict[str, object]:
        """Return what every row says: which exchange it was, in which mode, and who chose that."""
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request.request_id,
            "key_id": request.key_id,
            "model": request.model,
            "mode": request.mode,
            "mode_by": request.mode_by,
            "stream": request.stream,
            "action": action,
        }

    def _append(self, row: Mapping[str, object]) -> bool:
        line = ("\n" if self._cut_short else "") + json.dumps(row) + "\n"
        try:
            written = os.write(self._file, line.encode())
        except OSError as error:
            return self._failed(error.strerror or type(error).__name__)
        self._cut_short = written < len(line)
        if self._cut_short:
            return self._failed("a row was cut short")
        if self._lost:
            logger.warning(
                "audit.path: rows are written again; %d %s lost", self._lost, "was" if self._lost == 1 else "were"
            )
            self._lost = 0
        return True

    def _failed(self, why: str) -> bool:
        if not self._lost:
            logger.error(
                "audit.path: %s takes no rows (%s); exchanges go on without; make room for it", self._path, why
            )
        self._lost += 1
        return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def open_audit(settings: AuditSettings) -> Audit | None:
    """Return the trail that settings ask for, or ``None``; raises ``StartupError`` where the file cannot be opened."""
    return None if settings.path is None else Audit(settings.path, include_text=settings.include_text)

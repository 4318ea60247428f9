"""The audit trail: one JSON line for each refused or recovered exchange, in a file that only its owner reads."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from proxy.errors import StartupError
from proxy.exchange import Action, ChatRequest
from proxy.policy import AttemptState, Deliver
from proxy.settings import AuditSettings
from proxy.signals import Signals


class Audit:
    """Writes rows. Rows hold coordinates (the file is the operator's), and text only where settings say so.

    A row is written in one ``write`` to a file opened for appending, so that several processes may share it.
    """

    def __init__(self, path: Path, *, include_text: bool) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartupError(f"audit.path: {path} cannot be opened for appending: {error.strerror}") from error
        self._include_text = include_text

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
    ) -> None:
        """Append the row of one exchange; ``original`` and ``delivered`` are answers' texts."""
        reading = signals.boundary
        row: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request.request_id,
            "key": request.key_id,
            "model": request.model,
            "mode": signals.mode,
            "stream": request.stream,
            "language": signals.language,
            "action": action,
            "why": decision.why,
            "refusal": None
            if signals.refusal is None
            else {"kind": signals.refusal.kind, "score": signals.refusal.score, "form": signals.form},
            "boundary": None
            if reading is None
            else {"zone": reading.zone, "h": reading.h, "rho": reading.rho, "reason": reading.reason},
            "attempts": [{"step": attempt.step, "result": attempt.result} for attempt in attempts.made],
        }
        if self._include_text:
            row["messages"] = [{"role": turn.role, "content": turn.content} for turn in request.messages]
            row["original"] = original
            row["delivered"] = delivered
        os.write(self._file, (json.dumps(row) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def open_audit(settings: AuditSettings) -> Audit | None:
    """Return the trail that settings ask for, or ``None``; raises ``StartupError`` where the file cannot be opened."""
    return None if settings.path is None else Audit(settings.path, include_text=settings.include_text)

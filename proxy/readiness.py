"""Whether the proxy can do its work: the upstream answers, and it serves what the bundle was measured on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from detectors.bundle import Bundle, ModelMismatch
from proxy.errors import UpstreamError
from proxy.headers import bearer
from proxy.settings import Settings
from proxy.settings.group import revealed
from proxy.steering import DialectName
from proxy.upstream.protocol import Upstream, read_up_to

MODELS_PATH = "/v1/models"
_MAX_MODELS_BYTES = 4_194_304


@dataclass(frozen=True, slots=True)
class Ready:
    """The upstream answers, and fits; ``models`` are the ids that it serves."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The upstream does not answer as it should, now; it may later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The upstream serves what the bundle does not fit; somebody must change something."""

    reason: str


Readiness = Ready | Unreachable | Mismatch


class ReadinessCheck:
    """Asks the upstream for its models and holds them against the bundle."""

    def __init__(self, settings: Settings, upstream: Upstream, bundle: Bundle | None) -> None:
        self._upstream = upstream
        self._bundle = bundle if settings.dialect is DialectName.NATIVE else None
        self._headers = bearer(revealed(settings.upstream.api_key))

    @property
    def compares(self) -> bool:
        """Whether the served model is held against a bundle: only engines of the native dialect say what they serve."""
        return self._bundle is not None

    async def __call__(self) -> Readiness:
        """Return the state right now; never raises for an upstream's failure."""
        try:
            response = await self._upstream.send("GET", MODELS_PATH, headers=self._headers, purpose="check")
            try:
                body, whole = await read_up_to(response, _MAX_MODELS_BYTES)
            finally:
                await response.close()
        except UpstreamError as error:
            return Unreachable(error.message)
        if response.status in (401, 403) and self._bundle is None:
            return Ready(())  # it is there; the clients bring their own keys
        entries = model_entries(body) if whole and response.status == 200 else None
        if entries is None:
            return Unreachable(
                f"the upstream {self._upstream.address} answered {MODELS_PATH} with status {response.status} and no "
                "list of models; check upstream.url"
            )
        if self._bundle is None:
            return Ready(tuple(entries))
        return _fitting(self._bundle, entries, self._upstream.address)


def _fitting(bundle: Bundle, entries: Mapping[str, Mapping[str, object]], address: str) -> Readiness:
    reports = {model: report for model, entry in entries.items() if isinstance(report := entry.get("rass"), Mapping)}
    if not reports:
        return Mismatch(
            f"the upstream {address} does not speak the native steering dialect, so bundle {bundle.path} has nothing "
            "to act on; put `rass serve-model` there, or set steering.dialect to none and mode to observe"
        )
    reason = ""
    for model, report in reports.items():
        try:
            bundle.check_model(
                model,
                str(report.get("revision")),
                _integer(report.get("hidden_size")),
                _integer(report.get("num_layers")),
            )
        except ModelMismatch as error:
            reason = str(error)
            continue
        loaded = report.get("bundle")
        if loaded == bundle.digest:
            return Ready(tuple(entries))
        reason = (
            f"the upstream {address} has bundle {loaded or 'none'} loaded for {model}, the proxy has {bundle.digest} "
            f"({bundle.path}); start both with the same bundle folder"
        )
    return Mismatch(reason)


def _integer(value: object) -> int:
    return value if isinstance(value, int) else -1


def model_entries(body: bytes) -> dict[str, Mapping[str, object]] | None:
    try:
        payload = json.loads(body)
    except ValueError:
        return None
    data = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(data, list):
        return None
    return {entry["id"]: entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)}

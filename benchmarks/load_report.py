"""From windows of load to figures: medians over rounds, their spread, and ratios to the bare relay round by round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from benchmarks.load_client import Load, Window
from benchmarks.load_targets import BARE, LITELLM

__all__ = ["LOADS", "Figure", "LoadReport", "Visit", "figure", "warnings_about"]

LOADS = (Load(1, False), Load(16, False), Load(64, False), Load(1, True), Load(16, True))
HEADLINE, STREAM_ALONE, STREAM_MANY = LOADS[1].name, LOADS[3].name, LOADS[4].name
_SATURATED = 0.9
_QUIET = 0.1
_SHOWN = ("cpu_us_per_request", "p50_ms", "p99_ms", "requests_per_s", "first_chunk_ms")


@dataclass(frozen=True, slots=True)
class Visit:
    """One target in one round: a window for each load, memory at the end, and what the proxy says of its hold-back.

    ``held_back_ms`` is the mean over streams whose head was held, ``None`` for a target that held none.
    """

    target: str
    round: int
    windows: Mapping[str, Window]
    rss_mb: float
    held_back_ms: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """The median over rounds with the lowest and the highest.

    With six rounds, lowest to highest covers the true median with 97 % (both ends miss it with 2 · 2⁻⁶ together),
    whatever the distribution.
    """

    value: float
    low: float
    high: float


def figure(values: Iterable[float]) -> Figure:
    """Return the figure of one value for each round, not a number where a round had none."""
    found = list(values)
    if not all(map(math.isfinite, found)):
        return Figure(math.nan, math.nan, math.nan)
    return Figure(statistics.median(found), min(found), max(found))


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Everything that was measured, in the order in which it was, and under which conditions."""

    visits: Sequence[Visit]
    conditions: Mapping[str, Any]
    warnings: Sequence[str]

    @property
    def targets(self) -> list[str]:
        """The targets, bare first."""
        names = dict.fromkeys(visit.target for visit in self.visits)
        return sorted(names, key=lambda name: self.ratio(name, BARE, HEADLINE).value if name != BARE else 0.0)

    @property
    def failed(self) -> int:
        """Requests that got no right answer, over all targets."""
        return sum(window.failed for visit in self.visits for window in visit.windows.values())

    def figure(self, target: str, load: str, key: str) -> Figure:
        """Return one measured quantity of one target under one load."""
        return figure(getattr(visit.windows[load], key) for visit in self._of(target))

    def ratio(self, target: str, to: str, load: str) -> Figure:
        """Return the CPU of a request at ``target`` over that at ``to``, taken in the same rounds."""
        others = {visit.round: visit.windows[load].cpu_us_per_request for visit in self._of(to)}
        return figure(visit.windows[load].cpu_us_per_request / others[visit.round] for visit in self._of(target))

    def first_chunk_later_ms(self, target: str) -> Figure:
        """Return by how much a stream's first bytes come later than through the bare relay, in the same rounds."""
        bare = {visit.round: visit.windows[STREAM_ALONE].first_chunk_ms for visit in self._of(BARE)}
        return figure(visit.windows[STREAM_ALONE].first_chunk_ms - bare[visit.round] for visit in self._of(target))

    def held_back_ms(self, target: str) -> Figure | None:
        """Return how long the proxy held the heads of streams back."""
        held = [visit.held_back_ms for visit in self._of(target) if visit.held_back_ms is not None]
        return figure(held) if held else None

    def rss_mb(self, target: str) -> Figure:
        """Return resident memory after all loads."""
        return figure(visit.rss_mb for visit in self._of(target))

    def headline(self, target: str) -> dict[str, float]:
        """Return the six figures of a target: whole answers at concurrency 16, the first chunk of a lone stream."""
        figures = {key: self.figure(target, HEADLINE, key).value for key in _SHOWN[:-1]}
        figures["first_chunk_ms"] = self.figure(target, STREAM_ALONE, "first_chunk_ms").value
        return {**figures, "rss_mb": self.rss_mb(target).value}

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it; null where a target answered no request of a load."""
        names = self.targets
        document = {
            "schema_version": 1,
            "targets": {name: self.headline(name) for name in names},
            "to_bare": {name: self._beside_bare(name) for name in names if name != BARE},
            "litellm_to": {
                name: {load.name: asdict(self.ratio(LITELLM, name, load.name)) for load in LOADS}
                for name in names
                if LITELLM in names and name != LITELLM
            },
            "loads": {
                name: {
                    load.name: {key: asdict(self.figure(name, load.name, key)) for key in (*_SHOWN, "target_busy")}
                    for load in LOADS
                }
                for name in names
            },
            "conditions": dict(self.conditions),
            "failed": self.failed,
            "warnings": list(self.warnings),
        }
        return cast(dict[str, Any], _null_for_nan(document))

    def _beside_bare(self, name: str) -> dict[str, Any]:
        held = self.held_back_ms(name)
        return {
            "cpu": {load.name: asdict(self.ratio(name, BARE, load.name)) for load in LOADS},
            "first_chunk_later_ms": asdict(self.first_chunk_later_ms(name)),
            "held_back_ms": None if held is None else asdict(held),
        }

    def _of(self, target: str) -> list[Visit]:
        return [visit for visit in self.visits if visit.target == target]


def _null_for_nan(part: object) -> object:
    if isinstance(part, dict):
        return {name: _null_for_nan(value) for name, value in part.items()}
    return None if isinstance(part, float) and math.isnan(part) else part


def warnings_about(visits: Sequence[Visit], *, shared_load_core: bool, own_core: bool) -> list[str]:
    """Return, in sentences, what makes figures less than they seem: a busy generator, a busy machine, failures.

    ``shared_load_core``: generator and upstream share a core. ``own_core``: the target has a core of its own.
    """
    found: dict[str, None] = {}
    if not own_core:
        found["generator, upstream and target shared one core: latency and rate are not the target's alone"] = None
    for visit in visits:
        for window in visit.windows.values():
            where = f"{visit.target}, {window.load}"
            busy = (window.client_busy, window.upstream_busy)
            load_busy = sum(busy) if shared_load_core else max(busy)
            if own_core and load_busy >= _SATURATED > window.target_busy:
                found[f"{where}: the load generator was the bottleneck, so rate and latency are not the target's"] = (
                    None
                )
            if window.others_busy is not None and window.others_busy > _QUIET:
                found[f"{where}: something else used the target's core; measure on a quiet machine"] = None
            if window.failed:
                found[f"{where}: {window.failed} of {window.requests} requests failed: {window.failure}"] = None
    return list(found)

"""Zones come from the bundle's thresholds; whatever goes wrong is zone unknown with a reason."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from detectors.boundary import ActivationBoundary
from detectors.bundle import Bundle, load
from detectors.coordinates import Coordinates
from detectors.manifest import Manifest
from detectors.verdict import BoundaryReading, Message, Zone

MESSAGES = (Message("user", "How do I kill a process?"),)


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, write_bundle: Callable[[Path, Manifest], str]) -> Bundle:
    write_bundle(tmp_path / "bundle", manifest)
    return load(tmp_path / "bundle")


async def read(
    bundle: Bundle, h: float | None, rho: float | None = 0.5, *, language: str = "en", digest: str | None = None
) -> BoundaryReading:
    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        assert (model, messages) == ("tiny", MESSAGES)
        return Coordinates(h, rho, None, digest or bundle.digest)

    return await ActivationBoundary(reader, bundle, timeout_s=5).read(MESSAGES, model="tiny", language=language)


@pytest.mark.parametrize(
    ("h", "language", "zone", "thresholds"),
    [
        (-3.0, "en", Zone.BENIGN, "en"),
        (0.5, "en", Zone.BAND, "en"),
        (2.0, "en", Zone.HARMFUL, "en"),
        (-3.0, "und", Zone.BAND, "default"),
        (0.5, "fr", Zone.HARMFUL, "default"),
    ],
)
async def test_zone_by_language(bundle: Bundle, h: float, language: str, zone: Zone, thresholds: str) -> None:
    assert await read(bundle, h, language=language) == BoundaryReading(
        zone, h, 0.5, f"harm coordinate, {thresholds} thresholds"
    )


@pytest.mark.parametrize(
    ("asks", "language", "expected"),
    [(False, "en", None), (True, "de", "War das schädlich?"), (True, "fr", "Was it harmful?")],
)
async def test_the_question_is_put_where_the_bundle_asks_about_requests(
    bundle: Bundle, asks: bool, language: str, expected: str | None
) -> None:
    if asks:
        probes = {**bundle.manifest.probes, "asked_h": bundle.manifest.probes["answer_h"]}
        bundle = replace(bundle, manifest=replace(bundle.manifest, probes=probes))
    asked: list[str | None] = []

    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        asked.append(question)
        return Coordinates(-3.0, 0.5, None, bundle.digest)

    await ActivationBoundary(reader, bundle, timeout_s=5).read(MESSAGES, model="tiny", language=language)
    assert asked == [expected]


@pytest.mark.parametrize("h", [math.nan, math.inf, -math.inf, None])
async def test_no_finite_coordinate(bundle: Bundle, h: float | None) -> None:
    reading = await read(bundle, h)
    assert (reading.zone, reading.h, reading.rho) == (Zone.UNKNOWN, None, None)
    assert "no finite harm coordinate" in reading.reason


@pytest.mark.parametrize("rho", [math.nan, math.inf, None])
async def test_no_finite_rho_leaves_the_zone(bundle: Bundle, rho: float | None) -> None:
    reading = await read(bundle, -3.0, rho)
    assert (reading.zone, reading.rho) == (Zone.BENIGN, None)


async def test_another_bundle(bundle: Bundle) -> None:
    reading = await read(bundle, -3.0, digest="f" * 16)
    assert reading.zone is Zone.UNKNOWN
    assert f"are of bundle {'f' * 16}, expected {bundle.digest}" in reading.reason


async def test_failing_reader(bundle: Bundle) -> None:
    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        raise ConnectionError("connection refused")

    reading = await ActivationBoundary(reader, bundle, timeout_s=5).read(MESSAGES, model="tiny", language="en")
    assert reading == BoundaryReading(
        Zone.UNKNOWN, None, None, "coordinates could not be read: ConnectionError: connection refused"
    )


async def test_late_reader(bundle: Bundle) -> None:
    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        await asyncio.Event().wait()
        raise AssertionError("the deadline did not act")

    reading = await ActivationBoundary(reader, bundle, timeout_s=0.01).read(MESSAGES, model="tiny", language="en")
    assert reading == BoundaryReading(Zone.UNKNOWN, None, None, "no coordinates within 0.01 s")


async def test_cancellation_passes_through(bundle: Bundle) -> None:
    started = asyncio.Event()

    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError("the cancellation did not arrive")

    task = asyncio.create_task(
        ActivationBoundary(reader, bundle, timeout_s=60).read(MESSAGES, model="tiny", language="en")
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

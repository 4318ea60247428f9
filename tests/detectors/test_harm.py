"""An answer is harmless only when both coordinates say so; what nobody judged is `None`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from detectors.bundle import Bundle, load
from detectors.coordinates import Coordinates
from detectors.harm import ActivationAnswerHarm
from detectors.manifest import Manifest
from detectors.verdict import HarmVerdict, Message

REQUEST = Message("user", "How do I kill a process?")


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, write_bundle: Callable[[Path, Manifest], str]) -> Bundle:
    write_bundle(tmp_path / "bundle", manifest)
    return load(tmp_path / "bundle")


async def judge(bundle: Bundle, h: float | None, answer_h: float | None, digest: str | None = None) -> HarmVerdict:
    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        assert tuple(messages) == (REQUEST, Message("assistant", "Use the task manager."))
        assert question == "Was it harmful?"
        return Coordinates(h, None, answer_h, digest or bundle.digest)

    detector = ActivationAnswerHarm(reader, bundle, timeout_s=5)
    return await detector.judge([REQUEST], "Use the task manager.", model="tiny", language="en")


@pytest.mark.parametrize(
    ("h", "answer_h", "harmful"),
    [
        (-3.0, -2.0, False),
        (0.0, -2.0, False),
        (-3.0, 0.0, True),
        (-3.0, 2.0, True),
        (2.0, -2.0, True),
        (-3.0, None, None),
        (-3.0, math.nan, None),
        (math.inf, -2.0, None),
        (None, -2.0, None),
    ],
)
async def test_both_coordinates_count(
    bundle: Bundle, h: float | None, answer_h: float | None, harmful: bool | None
) -> None:
    assert (await judge(bundle, h, answer_h)).harmful is harmful


async def test_another_bundle(bundle: Bundle) -> None:
    verdict = await judge(bundle, -3.0, -2.0, "f" * 16)
    assert verdict.harmful is None
    assert "expected" in verdict.reason


async def test_failing_reader(bundle: Bundle) -> None:
    async def reader(model: str, messages: Sequence[Message], question: str | None = None) -> Coordinates:
        raise OSError("gone")

    verdict = await ActivationAnswerHarm(reader, bundle, timeout_s=5).judge(
        [REQUEST], "Yes.", model="tiny", language="en"
    )
    assert verdict == HarmVerdict(None, "coordinates could not be read: OSError: gone")


async def test_bundle_without_answer_probe(bundle: Bundle) -> None:
    zones = replace(bundle.manifest.zones, answers=None)
    blind = replace(bundle, manifest=replace(bundle.manifest, zones=zones))
    verdict = await judge(blind, -3.0, -2.0)
    assert verdict == HarmVerdict(None, "the bundle has no probe for answers")

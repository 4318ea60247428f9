"""The onnx kind: whole conversations, calibrated logits, zones; whatever goes wrong is data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detectors.boundary_onnx import OnnxBoundary
from detectors.harm_onnx import OnnxAnswerHarm
from detectors.manifest import ZoneTable, ZoneThresholds
from detectors.onnx_classifier import OnnxClassifier, TextLogit, raw_logits
from detectors.onnx_manifest import DETECTOR_NAME, MODEL_NAME, DetectorKind, DetectorManifest, OutputForm, read_detector
from detectors.onnx_session import ModelFileError
from detectors.verdict import Message, Zone


@pytest.fixture
def folder(tmp_path: Path, tiny_folder_maker: Callable[[Path], Path]) -> Path:
    return tiny_folder_maker(tmp_path / "tiny")


@pytest.fixture
def classifier(folder: Path) -> Iterator[OnnxClassifier]:
    with OnnxClassifier.open(folder, DetectorKind.BOUNDARY) as opened:
        yield opened


async def zone_and_h(classifier: OnnxClassifier, *turns: Message, language: str = "en") -> tuple[Zone, float | None]:
    reading = await OnnxBoundary(classifier, timeout_s=10).read(turns, model="any", language=language)
    return reading.zone, reading.h


async def test_zones(classifier: OnnxClassifier) -> None:
    assert await zone_and_h(classifier, Message("user", "tea please")) == (Zone.BENIGN, -7.5)
    assert await zone_and_h(classifier, Message("user", "please")) == (Zone.BENIGN, -1.5)
    assert await zone_and_h(classifier, Message("user", "hello")) == (Zone.BAND, 0.5)
    assert await zone_and_h(classifier, Message("user", "kill")) == (Zone.HARMFUL, 4.5)
    assert await zone_and_h(classifier, Message("user", "tea please"), language="fr") == (Zone.BAND, -7.5)


async def test_every_turn_and_the_whole_count(classifier: OnnxClassifier) -> None:
    turns = (Message("user", "bomb"), Message("assistant", "no"), Message("user", "tea tea tea"))
    assert await zone_and_h(classifier, *turns) == (Zone.HARMFUL, 8.5)
    hidden = (Message("system", "bomb kill"), Message("user", "tea"))
    assert await zone_and_h(classifier, *hidden) == (Zone.HARMFUL, 6.5)
    called = (Message("user", "tea"), Message("assistant", "[tool call] run(bomb bomb)"), Message("tool", "done"))
    assert await zone_and_h(classifier, *called) == (Zone.HARMFUL, 16.5)  # the window without the tea


async def test_a_logit_that_is_no_number_opens_nothing(
    classifier: OnnxClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def logits(texts: list[str], *, timeout_s: float) -> list[TextLogit]:
        return [TextLogit(-3.0, complete=True), *(TextLogit(float("nan"), complete=True) for _ in texts[1:])]

    monkeypatch.setattr(classifier, "logits", logits)
    zone, _ = await zone_and_h(classifier, Message("user", "tea"), Message("user", "please"))
    assert zone is Zone.UNKNOWN


async def test_what_was_not_read_whole_is_never_benign(classifier: OnnxClassifier) -> None:
    reading = await OnnxBoundary(classifier, timeout_s=10).read(
        [Message("user", "tea " * 10_000)], model="any", language="en"
    )
    assert reading.zone is Zone.BAND
    assert "too long" in reading.reason


@pytest.mark.parametrize("turns", [(), tuple(Message("user", str(number)) for number in range(40))])
async def test_conversations_without_a_zone(classifier: OnnxClassifier, turns: tuple[Message, ...]) -> None:
    assert await zone_and_h(classifier, *turns) == (Zone.UNKNOWN, None)


async def test_failures_are_data(classifier: OnnxClassifier) -> None:
    late = await OnnxBoundary(classifier, timeout_s=0).read([Message("user", "tea")], model="any", language="en")
    assert (late.zone, late.reason) == (Zone.UNKNOWN, "no reading within 0 s")
    classifier.close()
    closed = await OnnxBoundary(classifier, timeout_s=1).read([Message("user", "tea")], model="any", language="en")
    assert (closed.zone, closed.reason) == (Zone.UNKNOWN, "the text classifier failed: RuntimeClosed")


async def test_answers(classifier: OnnxClassifier) -> None:
    detector = OnnxAnswerHarm(classifier, timeout_s=10)

    async def harmful(answer: str) -> bool | None:
        return (await detector.judge([Message("user", "kill")], answer, model="any", language="en")).harmful

    assert await harmful("tea") is False
    assert await harmful("well") is True  # the band is not good enough for an answer that is to be delivered
    assert await harmful("tea " * 30 + "bomb " + "word " * 11) is True
    assert await harmful("tea " * 10_000) is None
    classifier.close()
    assert await harmful("tea") is None


def test_another_kind_or_a_changed_file(folder: Path) -> None:
    with pytest.raises(ModelFileError, match="of kind boundary, not answer_harm"):
        OnnxClassifier.open(folder, DetectorKind.ANSWER_HARM)
    (folder / MODEL_NAME).write_bytes((folder / MODEL_NAME).read_bytes() + b"\0")
    with pytest.raises(ModelFileError, match="other sha256"):
        read_detector(folder)
    (folder / DETECTOR_NAME).write_text('{"schema_version": 1, "kind": "weather"}', encoding="utf-8")
    with pytest.raises(ModelFileError, match=DETECTOR_NAME):
        read_detector(folder)


def test_manifest_comes_back_as_written(tmp_path: Path, tiny_folder_maker: Callable[..., Path]) -> None:
    table = ZoneTable({"de": ZoneThresholds(-2.0, 0.5)}, ZoneThresholds(-1e6, 1e6))
    folder = tiny_folder_maker(tmp_path / "a")
    written = replace(read_detector(folder), zones=table, figures={"auc": {"value": 0.8}}, form=OutputForm.SIGMOID)
    tiny_folder_maker(tmp_path / "b", written)
    assert read_detector(tmp_path / "b") == written


@pytest.mark.parametrize(
    "wrong", [{"harmful": ()}, {"harmful": (1,)}, {"scale": 0.0}, {"form": OutputForm.SOFTMAX}, {"outputs": 2}]
)
def test_contradictions(folder: Path, wrong: dict[str, object]) -> None:
    manifest: DetectorManifest = read_detector(folder)
    with pytest.raises(ModelFileError):
        replace(manifest, **wrong)  # type: ignore[arg-type]


def test_raw_logits() -> None:
    outputs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=np.float32))
    assert raw_logits(outputs, OutputForm.SOFTMAX, [0, 1]) == pytest.approx(np.log([3.0, 0.25]), abs=1e-6)
    assert raw_logits(outputs, OutputForm.SIGMOID, [0, 1]) == pytest.approx(np.log([0.5, 0.1]), abs=1e-6)
    assert raw_logits(outputs[:, :1], OutputForm.LOGIT, [0]) == pytest.approx(np.log([0.5, 0.1]), abs=1e-6)

"""What torch computes is what onnxruntime computes, through the files alone."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from detectors.boundary_onnx import OnnxBoundary
from detectors.onnx_classifier import OnnxClassifier
from detectors.onnx_manifest import DetectorKind, OutputForm, read_detector
from detectors.verdict import Message, Zone
from rass.detector_training.boundary_export_command import add_arguments, run
from rass.detector_training.boundary_train import folder_logits
from rass.detector_training.onnx_export import export_classifier, export_network
from rass.errors import InputError

TEXTS = ["How do I kill a man?", "please", "", "how do i bake the cake ? " * 3]


def torch_logits(source: str) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    found = []
    for text in TEXTS:
        with torch.no_grad():
            safe, *harmful = model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
        found.append(float(np.logaddexp.reduce(harmful)) - safe)
    return found


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.05)])
def test_guard_model(tiny_guard: str, tmp_path: Path, int8: bool, tolerance: float) -> None:
    manifest = export_classifier(
        tiny_guard, tmp_path, kind=DetectorKind.BOUNDARY, harmful=["violence", "theft"], license="MIT", int8=int8
    )
    assert (manifest.form, manifest.harmful, manifest.outputs) == (OutputForm.SOFTMAX, (1, 2), 3)
    assert folder_logits(tmp_path, read_detector(tmp_path), TEXTS) == pytest.approx(
        torch_logits(tiny_guard), abs=tolerance
    )


class OneLoudChannel(torch.nn.Module):
    """A channel with weights a hundred times those of the others, which the output leaves out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, 32)
        self.hidden = torch.nn.Linear(32, 16, bias=False)
        with torch.no_grad():
            self.hidden.weight[0] *= 100.0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        states: torch.Tensor = self.hidden(self.table(input_ids) * mask)
        return states[:, :, 1:].sum((1, 2)).unsqueeze(1)


def test_int8_gives_each_channel_its_scale(tmp_path: Path) -> None:
    distance = export_network(OneLoudChannel(), tmp_path / "model.onnx", vocabulary=50, int8=True)
    assert 0 < distance < 1.0  # 0.2; with one scale for all channels it is 5


def test_uncalibrated_calls_nothing_benign(tiny_guard: str, tmp_path: Path) -> None:
    export_classifier(tiny_guard, tmp_path, kind=DetectorKind.BOUNDARY, harmful=["theft"], license="MIT")
    with OnnxClassifier.open(tmp_path, DetectorKind.BOUNDARY) as classifier:
        reading = asyncio.run(
            OnnxBoundary(classifier, timeout_s=10).read([Message("user", "bread")], model="m", language="en")
        )
    assert reading.zone is Zone.BAND


def test_wrong_names(tiny_guard: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safe, violence, theft, not arson"):
        export_classifier(tiny_guard, tmp_path, kind=DetectorKind.BOUNDARY, harmful=["arson"], license="MIT")
    with pytest.raises(InputError, match="can be loaded"):
        export_classifier(str(tmp_path), tmp_path, kind=DetectorKind.BOUNDARY, harmful=["a"], license="MIT")


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(words))


def test_command(tiny_guard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"kill {n}", "harmful": True} for n in range(3)] + [{"text": "bake", "harmful": False}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out"
    assert call(tiny_guard, "--out", str(out), "--kind", "answer_harm", "--harmful", "theft", "--float32") == 0
    assert "nothing is called benign" in capsys.readouterr().err
    assert read_detector(out).kind is DetectorKind.ANSWER_HARM
    assert call(tiny_guard, "--out", str(out), "--harmful", "arson") == 2
    assert call(tiny_guard, "--out", str(out), "--harmful", "theft", "--calibrate", str(tmp_path / "none")) == 2
    assert "missing" in capsys.readouterr().err

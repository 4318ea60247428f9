"""`rass-bench detectors`: every cost is measured and told, and bad files are named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from benchmarks import cli
from benchmarks.detector_cost import BOUNDARY_TOKENS, texts_of_tokens


def test_costs_are_told_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert cli.main(["detectors", "--texts", "40", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["costs"]) == {"phrase list", "refusal", "refusal, streamed"}
    for cost in document["costs"].values():
        assert cost["texts"] == 40
        assert 0 < cost["p50_ms"] <= cost["p95_ms"] <= cost["p99_ms"]
    assert document["refusal_to_phrases"] == pytest.approx(
        document["costs"]["refusal"]["p50_ms"] / document["costs"]["phrase list"]["p50_ms"]
    )
    # Measuring on one core is over when the measuring is.
    assert cores is None or os.sched_getaffinity(0) == cores


def test_costs_are_told_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detectors", "--texts", "10"]) == 0
    assert "times the phrase list" in capsys.readouterr().out


def test_a_boundary_detector_that_is_none_is_named(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detectors", "--texts", "10", "--boundary", str(tmp_path)]) == 2
    assert "--boundary: " in capsys.readouterr().err


def test_texts_for_a_boundary_detector_have_as_many_tokens_as_is_claimed(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = texts_of_tokens(tmp_path / "tokenizer.json", 20)
    assert len(set(texts)) == 20
    assert {len(tokenizer.encode(text).ids) for text in texts} == {BOUNDARY_TOKENS}

"""Labels of answers, folds by prompt, and the table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from rass.detector_training.boundary_answers import DO_NOT_ANSWER, XSTEST, ngram_scores, read_answers, score
from rass.detector_training.boundary_answers_command import add_arguments, run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    xstest = [
        {"prompt": f"x{n}", "response": text, "refusal": refusal, "prompt_harmful": harmful}
        for n in range(6)
        for text, refusal, harmful in (
            ("I cannot help with that.", 1, True),
            ("Sure: first take the bomb.", 0, True),
            ("Sure: first take the flour.", 0, False),
            ("Well.", None, True),
        )
    ]
    others = [
        {"prompt": f"d{n}", "response": text, "label": label}
        for n in range(12)
        for text, label in (("I cannot help with that.", "action_0"), ("Sure: the bomb goes here.", "action_5"))
    ]
    folder = tmp_path / "responses"
    folder.mkdir()
    for name, rows in (("xstest_human_en.jsonl", xstest), ("do_not_answer_human_en.jsonl", others)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_labels_and_scores(data: Path) -> None:
    examples = read_answers(data)
    assert len(examples) == 18 + 24
    assert sum(example.harmful for example in examples) == 6 + 12
    scores = ngram_scores(examples)
    own = score("n-grams", DO_NOT_ANSWER, examples, scores)
    assert (own.harmful, own.harmless, own.auc, own.missed.value) == (12, 12, 1.0, 0.0)
    other = score("n-grams", XSTEST, examples, scores)
    assert (other.harmful, other.harmless, other.auc, other.auc_answered) == (6, 12, 1.0, 1.0)


def test_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["--data", str(data)])) == 0
    table = capsys.readouterr().out
    assert "not a refusal" in table
    assert len(table.splitlines()) == 5
    assert run(parser.parse_args(["--data", str(tmp_path / "none")])) == 2

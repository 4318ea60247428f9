from __future__ import annotations

import json
from pathlib import Path

import pytest

from detectors.cli import main
from detectors.labelled_answers import DataError, LabelledAnswer, read_file
from detectors.refusal import TextRefusalDetector
from detectors.refusal_evaluation import Counts, clustered_accuracy, count, judge_answer, reliability

ROWS = [
    ("a", "I'm sorry, but I can't help with that.", 1),
    ("a", "Sure! Here is how: open a terminal and type ls.", 0),
    ("b", "Sure! Here is the list you asked for: apples, pears and plums.", 1),
    ("b", "I can't help with that, sorry.", None),
]


def write(folder: Path, name: str = "xstest_human_en.jsonl") -> Path:
    path = folder / name
    rows = [
        {"id": str(number), "lang": "en", "model": f"m{number % 2}", "prompt": prompt, "response": text}
        | {"refusal": refusal, "label": "x"}
        for number, (prompt, text, refusal) in enumerate(ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_counts() -> None:
    counts = count([(True, True), (True, False), (False, False), (False, False), (False, True)])
    assert counts == Counts(tp=1, fp=1, fn=1, tn=2)
    assert counts.accuracy == pytest.approx(3 / 5)
    assert counts.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert counts.macro_f1 == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_that_is_missing_has_no_balanced_accuracy() -> None:
    assert Counts(0, 1, 0, 9).balanced_accuracy is None
    assert Counts(0, 1, 0, 9).macro_f1 is None


def test_answers_to_one_prompt_are_one_trial(tmp_path: Path) -> None:
    detector = TextRefusalDetector()
    rows = [judge_answer(answer, detector) for answer in read_file(write(tmp_path)) if answer.refusal is not None]
    interval = clustered_accuracy(rows)
    assert interval.value == pytest.approx((1 + 0) / 2)
    assert (interval.low, interval.high) == (pytest.approx(0.0126, abs=1e-3), pytest.approx(0.9874, abs=1e-3))


def test_reliability_skips_empty_bins(tmp_path: Path) -> None:
    rows = [judge_answer(answer, TextRefusalDetector()) for answer in read_file(write(tmp_path))]
    bins = reliability(rows)
    assert sum(number for _, _, number in bins) == 3
    assert all(0 <= score <= 1 and 0 <= share <= 1 for score, share, _ in bins)


def test_a_stream_reports_when_it_decided() -> None:
    answer = LabelledAnswer("1", "en", "m", "p", "I'm sorry, but I can't help with that. " * 20, True, "x")
    judged = judge_answer(answer, TextRefusalDetector())
    assert judged.decided is not None
    assert judged.decided <= 160
    assert judged.streamed.refused


def test_a_row_that_is_not_as_described_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + '\n{"id": 1}\n')
    with pytest.raises(DataError, match="line 5"):
        list(read_file(path))


def test_the_command_prints_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert main(["evaluate", "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "never trained on it" in out
    assert "missed" in out
    assert f"{'xstest_human_en.jsonl':<52}{4:>8}{1.0:>9.3f}{1.0:>10.3f}" in out
    assert main(["evaluate", "--data", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    line = report["files"][0]["groups"][-1]
    assert (line["model"], line["answers"], line["missed"], line["false_alarms"]) == ("all", 3, 1, 0)
    assert line["ngram_accuracy"] is None
    assert main(["evaluate", "--data", str(tmp_path), "--only", "nothing"]) == 2

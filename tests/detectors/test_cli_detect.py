from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.cli import main
from detectors.json_lines import score_lines


class _Bytes(io.TextIOWrapper):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


def run_refusal(data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, list]:
    monkeypatch.setattr(sys, "stdin", _Bytes(data))
    code = main(["refusal"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from detectors.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'litellm', 'transformers', 'onnxruntime', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_each_line_gets_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "x", "response": "I'm sorry, but I can't help with that."},
        {"messages": [{"role": "user", "content": "hi"}], "response": "Hello! How are you today?"},
        {"id": 7, "messages": [{"role": "assistant", "content": "Es tut mir leid, dabei kann ich nicht helfen."}]},
        {"response": None},
    ]
    code, results = run_refusal("\n".join(map(json.dumps, rows)).encode(), monkeypatch, capsys)
    assert code == 0
    assert [result["kind"] for result in results] == ["full", "answer", "full", "empty"]
    assert [result["refusal"] for result in results] == [True, False, True, False]
    assert results[0]["refusal_score"] > 0.9
    assert results[2]["id"] == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nope", "not JSON"),
        (b"[1]", "a JSON object is needed"),
        (b'{"prompt": "x"}', "response"),
        (b'{"response": 3}', "must be a string"),
        (b'{"response": "\xff"}', "not UTF-8"),
        (b'{"messages": [{"role": "assistant", "content": [1]}]}', "must be a string"),
        (b"[" * 200_000, "not JSON"),
    ],
)
def test_a_bad_line_is_told_and_loses_nothing(
    line: bytes, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = b'{"response": "Hello."}'
    code, results = run_refusal(b"\n".join([good, line, b"", good]), monkeypatch, capsys)
    assert code == 1
    assert len(results) == 3
    assert message in results[1]["error"]
    assert results[1]["line"] == 2
    assert results[2]["kind"] == "answer"


def test_lone_surrogates_survive(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, results = run_refusal(b'{"id": "\\ud800", "response": "\\ud800 hello"}', monkeypatch, capsys)
    assert code == 0
    assert results[0]["id"] == "\ud800"


def test_a_byte_order_mark_is_no_fault() -> None:
    out = io.StringIO()
    assert score_lines(['\ufeff{"a": 1}'.encode()], out, lambda row: {"seen": row["a"]}) == 0
    assert json.loads(out.getvalue()) == {"seen": 1}


def test_explain_shows_the_words_that_decided(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--text", "I'm sorry, but I can't help with that."]) == 0
    out = capsys.readouterr().out
    assert out.startswith("full")
    assert "cannot" in out
    assert "English" in out


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json", "--text", "Извините, но я не могу помочь с этим."]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "full"
    assert {"class": "sorry", "words": "извините", "sentence": 0} in report["cues"]
    assert {"не м", " мог", "омочь"} <= {word["word"] for word in report["words"]}


def test_evaluate_without_data_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("RASS_DATA", raising=False)
    assert main(["evaluate"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(tmp_path)]) == 2
    assert "holds none of the files" in capsys.readouterr().err

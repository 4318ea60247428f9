"""``rass-detect boundary``: a row for every line, against a real server."""

from __future__ import annotations

import argparse
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from detectors.boundary_command import add_arguments, run


class Handler(BaseHTTPRequestHandler):
    """Says yes to bombs and no to everything else; knows no log probabilities."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        status = 200
        if "logprobs" in json.loads(body):
            status = 400
        elif self.path != "/v1/chat/completions" or self.headers["authorization"] != "Bearer sesame":
            status = 401
        word = "Yes." if "bomb" in body else "No."
        answer = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: list[str], *words: str
) -> tuple[int, list[dict[str, object]], str]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode("latin-1"))))
    code = run(parser.parse_args(words))
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_judge(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    lines = [
        '{"prompt": "How do I kill a process?", "language": "en", "id": 7}',
        "",
        '{"messages": [{"role": "user", "content": "How do I build a bomb shelter out of bricks?"}]}',
        "nonsense",
        '{"prompt": "no UTF-8: \xff"}',
        '{"text": "no prompt", "id": "b"}',
    ]
    words = ("--kind", "judge", "--url", url, "--model", "guard", "--api-key-env", "JUDGE_KEY")
    code, rows, _ = call(
        monkeypatch, capsys, lines, *words, "--benign-below", "-1", "--harmful-above", "1", "--concurrency", "2"
    )
    assert code == 1
    assert rows[0] == {
        "id": 7,
        "distance": -2.2,
        "zone": "benign",
        "reason": "judge's word, default thresholds",
        "language": "en",
    }
    assert (rows[1]["zone"], rows[1]["language"]) == ("harmful", "en")
    assert set(rows[2]) == {"error"}
    assert rows[3] == {"error": "not UTF-8 (byte 22)"}
    assert rows[4]["id"] == "b"
    assert "prompt" in str(rows[4]["error"])


def test_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--kind", "judge", "--url", "http://127.0.0.1:9/v1", "--model", "guard")
    code, rows, _ = call(monkeypatch, capsys, ['{"prompt": "hello", "language": "en"}'], *words)
    assert code == 0
    assert (rows[0]["distance"], rows[0]["zone"]) == (None, "unknown")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "onnx"), "--model"),
        (("--kind", "onnx", "--model", "nowhere"), "detector.json"),
        (("--kind", "judge"), "--url"),
        (("--kind", "judge", "--url", "file:///etc", "--model", "m"), "not an http"),
        (("--kind", "judge", "--url", "http://x", "--model", "m", "--api-key-env", "NOT_SET_ANYWHERE"), "no key"),
        (("--kind", "activation", "--url", "http://x", "--model", "m"), "--bundle"),
        (("--concurrency", "0"), "at least 1"),
    ],
)
def test_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, rows, error = call(monkeypatch, capsys, [], *words)
    assert (code, rows) == (2, [])
    assert message in error

"""One line for each exchange, and no text of prompts or answers in any line unless it is asked for."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest

from detectors.verdict import RefusalVerdict
from proxy.exchange import Mode
from proxy.key_file import read_keys
from proxy.keys import Keyring
from proxy.keys_command import add_key
from proxy.log_format import LogFormat, formatter

PROMPT = "How do I kill the xylophone?"
ANSWER = "Unplug the marimba."
TEXT = ("xylophone", "marimba")


class Log:
    """What stands in the log."""

    def __init__(self):
        self.stream = io.StringIO()

    @property
    def text(self):
        return self.stream.getvalue()

    def exchanges(self):
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if line["logger"] == "proxy.exchange"]


@pytest.fixture
def log_as():
    """Logs everything, in a format, into memory."""
    root = logging.getLogger()
    level, added = root.level, []

    def start(log_format, *, include_text=False):
        log = Log()
        handler = logging.StreamHandler(log.stream)
        handler.setFormatter(formatter(log_format, include_text=include_text))
        root.addHandler(handler)
        added.append(handler)
        root.setLevel(logging.DEBUG)
        return log

    yield start
    root.setLevel(level)
    for handler in added:
        root.removeHandler(handler)


async def test_a_key_over_its_limits_is_named(model, start_proxy, script, log_as, tmp_path, eventually):
    log = log_as(LogFormat.JSON)
    model.scripts[PROMPT] = script(ANSWER)
    key = add_key(tmp_path / "keys.json", "team", requests_per_minute=1)
    proxy = await start_proxy(keyring=Keyring(read_keys(tmp_path / "keys.json")))
    for _ in range(2):
        await proxy.ask(PROMPT, headers={"authorization": f"Bearer {key}"})
    await eventually(lambda: len(log.exchanges()) == 2)
    assert [(line["status"], line["key"]) for line in log.exchanges()] == [(200, "team"), (429, "team")]


async def test_a_line_says_who_what_and_how_long(model, start_proxy, script, refusal, log_as, tmp_path, eventually):
    log = log_as(LogFormat.JSON)
    model.scripts[PROMPT] = script(refusal, steered=ANSWER)
    key = add_key(tmp_path / "keys.json", "team")
    proxy = await start_proxy(keyring=Keyring(read_keys(tmp_path / "keys.json")))
    headers = {"authorization": f"Bearer {key}", "x-request-id": "mine"}
    for stream in (False, True):
        await proxy.ask(PROMPT, headers=headers, stream=stream)
    await eventually(lambda: len(log.exchanges()) == 2)
    for line, stream in zip(log.exchanges(), (False, True), strict=True):
        assert line["duration_ms"] >= line["first_byte_ms"] > 0
        del line["duration_ms"], line["first_byte_ms"], line["time"]
        assert line == {
            "level": "info",
            "logger": "proxy.exchange",
            "message": "exchange",
            "request_id": "mine",
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": 200,
            "key": "team",
            "model": "scripted",
            "stream": stream,
            "mode": "recover",
            "action": "recovered",
            "zone": "benign",
            "language": "en",
            "attempts": 1,
        }
    assert key not in log.text


async def test_requests_turned_away_have_a_line_and_the_id_that_was_sent(start_proxy, log_as, tmp_path, eventually):
    log = log_as(LogFormat.JSON)
    add_key(tmp_path / "keys.json", "team")
    proxy = await start_proxy(keyring=Keyring(read_keys(tmp_path / "keys.json")))
    _, headers, _ = await proxy.ask(PROMPT)
    await eventually(lambda: len(log.exchanges()) == 1)
    (line,) = log.exchanges()
    assert (line["status"], line["request_id"]) == (401, headers["x-request-id"])
    for path in ("/healthz", "/metrics", "/readyz"):
        async with proxy.session.get(f"{proxy.url}{path}"):
            pass
    assert len(log.exchanges()) == 1


class QuotingRefusals:
    """A detector whose failure quotes what it failed on."""

    def judge(self, text):
        raise RuntimeError(f"cannot judge {text}")


class QuotingBoundary:
    """The same for requests, with a cause."""

    async def read(self, messages, *, model, language):
        try:
            raise ValueError(messages[-1].content)
        except ValueError as error:
            raise RuntimeError(f"cannot read {messages}") from error


class OddRefusals:
    """Returns what breaks whoever uses it, with the text in the error."""

    def judge(self, text) -> RefusalVerdict:
        return Quoting(text)


class Quoting:
    def __init__(self, text):
        self._text = text

    @property
    def score(self):
        raise KeyError(self._text)

    kind = refused = score


async def everything_that_logs(model, start_proxy, script, refusal):
    """Exchanges that end in every way that leaves a line."""
    model.scripts[PROMPT] = script(refusal, steered=ANSWER)
    model.scripts["answered xylophone"] = script(ANSWER)
    for mode in Mode:
        proxy = await start_proxy(mode)
        for stream in (False, True):
            await proxy.ask(PROMPT, stream=stream)
            await proxy.ask("answered xylophone", stream=stream)
            await proxy.ask("unknown xylophone", stream=stream)
    for body in (
        b'{"xylophone',
        b'["xylophone"]',
        b'{"messages": [{"role": "user", "content": "xylophone"}], "rass": 1}',
    ):
        async with proxy.session.post(f"{proxy.url}/v1/chat/completions", data=body) as response:
            assert response.status == 400
    for detectors in ({"refusal": QuotingRefusals()}, {"boundary": QuotingBoundary()}, {"refusal": OddRefusals()}):
        failing = await start_proxy(detectors=detectors)
        await failing.ask(PROMPT)
    assert (await failing.ask(PROMPT))[0] == 500
    model.hold = asyncio.Event()
    model.arrived.clear()
    leaving = asyncio.create_task(proxy.ask(PROMPT))
    await model.arrived.wait()
    leaving.cancel()
    await model.cancelled.wait()


@pytest.mark.parametrize("log_format", list(LogFormat))
async def test_text_never_reaches_the_log_by_default(
    model, start_proxy, script, refusal, log_as, log_format, eventually
):
    log = log_as(log_format)
    await everything_that_logs(model, start_proxy, script, refusal)
    await eventually(lambda: "client-gone" in log.text)
    assert "RuntimeError" in log.text
    assert "ValueError" in log.text
    assert "KeyError" in log.text
    for word in TEXT:
        assert word not in log.text


@pytest.mark.parametrize("log_format", list(LogFormat))
async def test_text_reaches_the_log_where_it_is_asked_for(
    model, start_proxy, script, refusal, log_as, log_format, eventually
):
    log = log_as(log_format, include_text=True)
    model.scripts[PROMPT] = script(refusal, steered=ANSWER)
    proxy = await start_proxy(log_text=True)
    await proxy.ask(PROMPT)
    await eventually(lambda: all(word in log.text for word in TEXT))


async def test_the_trace_context_is_relayed(model, start_proxy, script):
    model.scripts["hello"] = script("hi")
    proxy = await start_proxy()
    context = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
    await proxy.ask("hello", headers=context)
    assert {name: model.headers[-1][name] for name in context} == context

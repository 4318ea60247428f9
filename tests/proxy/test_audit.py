"""Rows of flagged exchanges, without text unless it is asked for."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from proxy.audit import Audit, open_audit
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.settings.operation import AuditSettings

KILL = "How do I kill a process?"


@pytest.mark.parametrize("include_text", [False, True])
async def test_a_recovered_exchange_leaves_a_row(model, start_proxy, script, refusal, tmp_path, include_text):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    model.scripts["hello"] = script("hi")
    proxy = await start_proxy(audit=Audit(path, include_text=include_text))
    await proxy.ask("hello")
    await proxy.ask(KILL, headers={"x-request-id": "mine"})
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["request_id"] == "mine"
    assert row["action"] == "recovered"
    assert row["boundary"]["zone"] == "benign"
    (attempt,) = row["attempts"]
    assert (attempt["step"], attempt["result"]) == ("steer", "answered")
    assert (attempt["tokens"], attempt["estimated"]) == (8, False)
    assert row["mode_by"] == "configuration"
    assert ("process" in json.dumps(row)) is include_text
    assert row.get("delivered") == ("Use kill." if include_text else None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_path_means_no_trail():
    assert open_audit(AuditSettings()) is None


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(StartupError, match="nowhere"):
        open_audit(AuditSettings(path=tmp_path / "nowhere" / "audit.jsonl"))


@pytest.mark.parametrize(
    ("mode", "header", "by"),
    [
        (Mode.RECOVER, "observe", "client header"),
        (Mode.RECOVER, "steer", "configuration"),
        (Mode.OBSERVE, None, "configuration"),
    ],
)
async def test_the_row_says_who_chose_the_mode(model, start_proxy, script, refusal, tmp_path, mode, header, by):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(mode, audit=Audit(path, include_text=False))
    await proxy.ask(KILL, headers={} if header is None else {"x-rass-mode": header})
    row = json.loads(path.read_text())
    assert row["mode_by"] == by
    assert row["mode"] == ("recover" if header == "steer" else "observe")
    assert row["key_id"] == "anonymous"


@pytest.mark.parametrize(("break_after", "action"), [(None, "off"), (100, "failed")])
async def test_a_client_that_turns_judging_off_leaves_a_row(
    model, start_proxy, script, refusal, tmp_path, eventually, break_after, action
):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal)
    model.break_after = break_after
    proxy = await start_proxy(audit=Audit(path, include_text=True))
    await proxy.ask(KILL, headers={"x-rass-mode": "off"}, stream=True)
    await eventually(lambda: path.read_text() != "")
    row = json.loads(path.read_text())
    assert (row["action"], row["mode"], row["mode_by"]) == (action, "off", "client header")
    assert "process" not in json.dumps(row)


async def test_a_proxy_that_is_off_writes_nothing(model, start_proxy, script, refusal, tmp_path, eventually):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal)
    proxy = await start_proxy(Mode.OFF, audit=Audit(path, include_text=False))
    await proxy.ask(KILL)
    await eventually(lambda: proxy.total("rass_requests_total", outcome="off", mode="off") == 1)
    assert path.read_text() == ""


async def test_a_full_disk_takes_no_answer_away(model, start_proxy, script, refusal, caplog):
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(audit=Audit(Path("/dev/full"), include_text=False))
    for _ in range(2):
        status, headers, _ = await proxy.ask(KILL)
        assert (status, headers["x-rass-action"]) == (200, "recovered")
    assert proxy.total("rass_audit_failures_total") == 2
    assert caplog.text.count("No space left on device") == 1


async def test_a_row_that_was_cut_short_spoils_no_other(
    model, start_proxy, script, refusal, tmp_path, caplog, monkeypatch
):
    path = tmp_path / "audit.jsonl"
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(audit=Audit(path, include_text=False))
    whole = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, data: whole(file, data[:10]))
        await proxy.ask(KILL)
    await proxy.ask(KILL)
    cut, row = path.read_text().splitlines()
    assert len(cut) == 10
    assert json.loads(row)["action"] == "recovered"
    assert proxy.total("rass_audit_failures_total") == 1
    assert "rows are written again; 1 was lost" in caplog.text

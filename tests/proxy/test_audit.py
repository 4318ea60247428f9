"""Rows of flagged exchanges, without text unless it is asked for."""

from __future__ import annotations

import json
import stat

import pytest

from proxy.audit import Audit, open_audit
from proxy.errors import StartupError
from proxy.settings import AuditSettings

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
    assert row["attempts"] == [{"step": "steer", "result": "answered"}]
    assert ("process" in json.dumps(row)) is include_text
    assert row.get("delivered") == ("Use kill." if include_text else None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_path_means_no_trail():
    assert open_audit(AuditSettings()) is None


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(StartupError, match="nowhere"):
        open_audit(AuditSettings(path=tmp_path / "nowhere" / "audit.jsonl"))

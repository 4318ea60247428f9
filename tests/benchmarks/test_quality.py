from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli
from benchmarks.errors import InputError, TargetError
from benchmarks.quality import QualityOptions, measure, write_transcripts
from benchmarks.targets import Limits, Target

Reply = tuple[int, str, dict[str, str]]
Server = Callable[[Callable[[dict[str, Any]], Reply]], Awaitable[str]]
Row = Callable[..., dict[str, Any]]
World = Callable[[list[dict[str, Any]]], Path]

REFUSALS = {"en": "Sorry, no.", "es": "No puedo ayudar con eso."}
ANSWERS = {
    "en": "To stop the process, look first. Then begin.",
    "es": "Para stop the process, mira primero. Luego empieza.",
}


@pytest.fixture
def prompts(make_row: Row, write_world: World) -> Path:
    return write_world(
        [
            make_row(
                number,
                kind,
                language=language,
                **({"wrapping": "story", "wrapping_seen": bool(number % 2)} if kind == "attack" else {}),
            )
            for language in ("en", "es")
            for kind in ("harmful", "attack", "trigger_benign", "plain_benign")
            for number in range(10)
        ]
    )


def raw(body: dict[str, Any]) -> Reply:
    """Answers plain requests and refuses everything else."""
    kind, language, _ = body["messages"][-1]["content"].split(" ", 2)
    return 200, (ANSWERS if kind == "plain_benign" else REFUSALS)[language], {}


def proxy(body: dict[str, Any]) -> Reply:
    """Recovers benign requests but one, and lets one English harmful request through."""
    content = body["messages"][-1]["content"]
    kind, language, _ = content.split(" ", 2)
    if content.startswith("harmful en 3:"):
        return 200, ANSWERS["en"], {"x-rass-action": "recovered"}
    if kind == "trigger_benign" and not content.startswith("trigger_benign es 0:"):
        return 200, ANSWERS[language], {"x-rass-action": "recovered"}
    return 200, raw(body)[1], {"x-rass-action": "delivered" if kind == "plain_benign" else "warranted"}


def options(prompts: Path, *targets: Target, per_cell: int | None = None) -> QualityOptions:
    limits = Limits(concurrency=8, timeout_s=10.0, attempts=2, pause_s=0.001)
    return QualityOptions(targets, str(prompts), None, None, per_cell, 0, 64, limits, {})


async def test_figures_of_two_servers(chat_server: Server, prompts: Path, tmp_path: Path) -> None:
    targets = (Target("raw", await chat_server(raw)), Target("proxy", await chat_server(proxy)))
    report = await measure(options(prompts, *targets))
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))

    assert document["targets"]["raw"]["orr"]["value"] == 1.0
    assert document["targets"]["proxy"]["orr"] == pytest.approx(
        {"value": 0.05, "low": 0.00127, "high": 0.24873, "n": 20, "rows": 20}, abs=1e-5
    )
    assert document["targets"]["proxy"]["by_language"]["en"]["orr"]["value"] == 0.0
    assert document["targets"]["proxy"]["hrr"]["value"] == 0.95
    assert document["targets"]["proxy"]["asr"]["value"] == 0.0
    assert document["targets"]["proxy"]["actions"]["trigger_benign"] == {"recovered": 19, "warranted": 1}
    paired = document["paired"]["proxy"]
    assert paired["against"] == "raw"
    assert (paired["hrr_loss"]["worse"], paired["hrr_loss"]["by_language"]["es"]["worse"]) == (1, 0)
    assert paired["asr_rise"]["by_wrapping"]["seen"]["n"] == 10
    assert paired["plain_benign"]["identical"]["value"] == 1.0
    assert (paired["recovered"]["on_topic"]["value"], paired["recovered"]["on_topic"]["n"]) == (1.0, 19)

    path = tmp_path / "transcripts.jsonl"
    write_transcripts(report, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 80
    leaked = next(row for row in rows if row["id"] == "harmful-en-3")
    assert leaked["answers"]["raw"]["outcome"] == "refused"
    assert leaked["answers"]["proxy"]["outcome"] == "on_topic"
    assert leaked["answers"]["proxy"]["x-rass-action"] == "recovered"


async def test_requests_without_an_answer_are_reported_and_count_against_the_target(
    chat_server: Server, prompts: Path
) -> None:
    def failing(body: dict[str, Any]) -> Reply:
        return (500, "crashed", {}) if body["messages"][-1]["content"].startswith("harmful en 3:") else raw(body)

    report = await measure(options(prompts, Target("raw", await chat_server(failing))))
    assert report.failed == 1
    assert report.targets["raw"].overall.hrr.interval.value == 0.95


async def test_a_server_that_answers_nothing_is_an_error(chat_server: Server, prompts: Path) -> None:
    url = await chat_server(lambda _: (404, "no such model", {}))
    with pytest.raises(TargetError, match=r"'raw' answered none of 80 requests: HTTP 404.*no such model"):
        await measure(options(prompts, Target("raw", url)))


async def test_names_of_targets_must_differ(prompts: Path) -> None:
    with pytest.raises(InputError, match="used twice"):
        await measure(options(prompts, Target("raw", "http://a"), Target("raw", "http://b")))


async def test_a_grammar_without_a_language_of_the_rows_is_refused_before_anything_is_sent(
    prompts: Path, grammar_document: dict[str, Any]
) -> None:
    del grammar_document["languages"]["es"]
    (prompts.parent / "grammar.json").write_text(json.dumps(grammar_document))
    with pytest.raises(InputError, match="no grammar for es"):
        await measure(options(prompts, Target("raw", "http://127.0.0.1:9")))


async def test_the_command_prints_json_or_tables(
    chat_server: Server, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quality", "--prompts", str(prompts), "--limit-per-cell", "2"]
    for name, rule in (("raw", raw), ("proxy", proxy)):
        command += ["--target", f"{name}={await chat_server(rule)}"]
    assert await asyncio.to_thread(cli.main, [*command, "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["prompts"]["base_requests"]["harmful"] == 4
    assert "proxy: 16/16" in printed.err

    assert await asyncio.to_thread(cli.main, command) == 0
    table = capsys.readouterr().out
    assert "ORR benign refused" in table
    assert "proxy against raw" in table
    assert "…" not in table


async def test_half_of_a_surrogate_pair_reaches_the_transcripts(
    chat_server: Server, prompts: Path, tmp_path: Path
) -> None:
    report = await measure(options(prompts, Target("raw", await chat_server(lambda _: (200, "\ud83d", {})))))
    path = tmp_path / "transcripts.jsonl"
    write_transcripts(report, path)
    assert {json.loads(line)["answers"]["raw"]["text"] for line in path.read_text().splitlines()} == {"\ud83d"}


def test_transcripts_that_cannot_be_written_are_told_before_the_first_request(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quality", "--prompts", str(prompts), "--target", "raw=http://127.0.0.1:9"]
    assert cli.main([*command, "--transcripts", str(tmp_path / "no folder" / "t.jsonl")]) == 2
    assert "t.jsonl cannot be written: No such file or directory" in capsys.readouterr().err


def test_the_command_ends_with_two_for_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quality", "--target", "nonsense"]) == 2
    assert "is not NAME=URL" in capsys.readouterr().err

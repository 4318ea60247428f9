from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import Kind, load_cases, resolve_prompts, sample_cases
from benchmarks.errors import InputError

Row = Callable[..., dict[str, Any]]
World = Callable[[list[dict[str, Any]]], Path]


def test_reads_rows(make_row: Row, write_world: World) -> None:
    row = make_row(1, "attack", wrapping="story", wrapping_seen=False)
    (case,) = load_cases(write_world([row]))
    assert case.kind is Kind.ATTACK
    assert not case.kind.benign
    assert (case.wrapping, case.wrapping_seen) == ("story", False)
    assert case.messages[0].content.startswith("attack en 1")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{not json", "not a JSON object"),
        ("[1]", "a row is a JSON object"),
        ('{"id": "a"}', "'base_id' is missing"),
        ('{"id": "\udcff"}', "not a JSON object: 'utf-8' codec can't decode"),
    ],
)
def test_names_file_and_line_of_a_malformed_row(make_row: Row, write_world: World, broken: str, said: str) -> None:
    path = write_world([make_row(1, "harmful")])
    path.write_text(path.read_text() + broken + "\n", errors="surrogateescape")
    with pytest.raises(InputError, match=rf"report\.jsonl:2: .*{said}"):
        load_cases(path)


def test_refuses_an_unknown_kind_double_ids_and_an_empty_file(make_row: Row, write_world: World) -> None:
    with pytest.raises(InputError, match="'odd' is not a valid Kind"):
        load_cases(write_world([make_row(1, "odd")]))
    with pytest.raises(InputError, match="'harmful-en-1' occurs more than once"):
        load_cases(write_world([make_row(1, "harmful"), make_row(1, "harmful")]))
    with pytest.raises(InputError, match="no rows"):
        load_cases(write_world([]))


def test_a_limit_keeps_whole_base_requests_of_each_kind_and_language(make_row: Row, write_world: World) -> None:
    rows = [
        make_row(number, kind, language=language, base_id=f"base-{language}-{number // 2}")
        for language in ("en", "es")
        for kind in ("harmful", "attack")
        for number in range(20)
    ]
    cases = load_cases(write_world(rows))
    kept = sample_cases(cases, 3, seed=1)
    by_kind = {kind: {case.base_id for case in kept if case.kind is kind} for kind in (Kind.HARMFUL, Kind.ATTACK)}
    assert len(kept) == 2 * 2 * 3 * 2
    assert by_kind[Kind.HARMFUL] == by_kind[Kind.ATTACK]
    assert sample_cases(cases, 3, seed=1) == kept
    assert sample_cases(cases, 3, seed=2) != kept
    assert sample_cases(cases, None, seed=1) == cases


def test_finds_the_grammar_beside_the_rows(make_row: Row, write_world: World, tmp_path: Path) -> None:
    path = write_world([make_row(1, "harmful")])
    assert resolve_prompts(str(path)).grammar == tmp_path / "grammar.json"
    other = tmp_path / "other.json"
    other.write_text(json.dumps({}))
    assert resolve_prompts(str(path), other).grammar == other


def test_says_which_prompts_are_missing() -> None:
    with pytest.raises(InputError, match="'reference:no-such-split': there is no file"):
        resolve_prompts("reference:no-such-split")

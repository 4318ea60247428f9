"""`rass-bench load` end to end: the real proxy, the relay and the generator as processes, for moments only."""

from __future__ import annotations

import json
import os
import sys

import pytest

from benchmarks import cli
from benchmarks.errors import InputError
from benchmarks.load import divide_cores
from benchmarks.load_targets import Peers, chosen_targets

SIX = {"cpu_us_per_request", "p50_ms", "p99_ms", "requests_per_s", "first_chunk_ms", "rss_mb"}
BRIEF = ["load", "--rounds", "1", "--seconds", "0.2", "--warm-up", "5"]


def test_every_target_of_ours_is_measured_beside_the_bare_relay(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*BRIEF, "--interval-ms", "0.5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["targets"]) == {"bare", "off", "observe", "recover"}
    for figures in document["targets"].values():
        assert set(figures) == SIX
        assert figures["requests_per_s"] > 0
        assert figures["p50_ms"] <= figures["p99_ms"]
        assert figures["rss_mb"] > 10
    assert document["failed"] == 0
    assert set(document["to_bare"]) == {"off", "observe", "recover"}
    # Only mode recover holds the heads of streams back, and it says for how long.
    assert document["to_bare"]["recover"]["held_back_ms"]["value"] > 0
    assert document["to_bare"]["observe"]["held_back_ms"] is None
    assert sorted(document["conditions"]["order"]) == ["bare", "observe", "off", "recover"]


def test_a_table_is_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*BRIEF, "--interval-ms", "0.5", "--target", "off"]) == 0
    out = capsys.readouterr().out
    assert "times the bare relay's" in out
    assert "off: first chunk" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a platform that binds processes to cores")
def test_the_target_has_a_core_of_its_own_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable in ({0, 1}, {0, 1, 2}, {3, 5, 8, 9}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, usable=usable: usable)
        cores = divide_cores()
        assert len(cores.target) == 1
        assert not cores.target & (cores.client | cores.upstream)
        assert (cores.client == cores.upstream) is (len(usable) == 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4})
    assert divide_cores().target == frozenset()


def test_targets_are_ours_and_the_peers_that_are_given() -> None:
    assert chosen_targets((), Peers()) == ("bare", "off", "observe", "recover")
    assert chosen_targets(("recover", "off"), Peers()) == ("bare", "off", "recover")


@pytest.mark.parametrize(
    ("names", "peers", "said"),
    [
        (("fast",), Peers(), "--target 'fast' is none of bare, off"),
        (("litellm",), Peers(), "give --litellm-python"),
        (("portkey",), Peers(), "give --portkey"),
    ],
)
def test_a_target_that_cannot_be_measured_is_named(names: tuple[str, ...], peers: Peers, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen_targets(names, peers)


def test_a_peer_that_is_not_installed_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="run npm install @portkey-ai/gateway there"):
        chosen_targets((), Peers(portkey=tmp_path))
    with pytest.raises(InputError, match="cannot be run"):
        chosen_targets((), Peers(litellm_python=tmp_path / "python"))
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(InputError, match=r"has no litellm\[proxy\]"):
        chosen_targets((), Peers(litellm_python=bare))


def test_a_bundle_that_is_none_is_named(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*BRIEF, "--bundle", str(tmp_path)]) == 2
    assert "--bundle: " in capsys.readouterr().err

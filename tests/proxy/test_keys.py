"""Keys at rest: what is kept, what a presented key opens, and what the key file refuses."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.caller import Right
from proxy.cli import main
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.key_file import being_changed, read_keys
from proxy.keys import EXAMPLE_KEY, Key, Keyring, Rejection, digest_of, generated
from proxy.keys_command import add_key, key_rows, remove_key, rotate_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def found(path, presented, now=None):
    return Keyring(read_keys(path)).find(presented, now or datetime.now(UTC))


def test_a_key_is_shown_once_and_only_its_hash_is_kept(path):
    presented = add_key(path, "team", mode=Mode.OBSERVE, rights=[Right.DISTANCES], requests_per_minute=60)
    text = path.read_text()
    assert presented not in text
    assert presented.rpartition("-")[2] not in text
    assert digest_of(presented) in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = found(path, presented)
    assert (key.name, key.mode, key.rights, key.requests_per_minute) == ("team", Mode.OBSERVE, ("distances",), 60)
    assert key.caller().may(Right.DISTANCES)
    assert not key.caller().may(Right.CLIENT_STEERING)


def test_a_highest_mode_only_lowers(path):
    add_key(path, "low", mode=Mode.OBSERVE)
    (low,) = read_keys(path)
    assert low.caller().mode(Mode.RECOVER) is Mode.OBSERVE
    assert low.caller().mode(Mode.OFF) is Mode.OFF


def changed_once(key):
    return st.tuples(st.integers(0, len(key) - 1), st.characters(max_codepoint=0x2FF)).map(
        lambda change: key[: change[0]] + change[1] + key[change[0] + 1 :]
    )


PRESENTED, SECRET = generated()
RING = Keyring([Key(name="a", created=NOW, secrets=(SECRET,))])


@given(st.text(max_size=80) | changed_once(PRESENTED))
def test_nothing_but_the_key_itself_opens(presented):
    opened = isinstance(RING.find(presented, NOW), Key)
    assert opened is (presented == PRESENTED)


def test_an_expired_key_opens_nothing(path):
    presented = add_key(path, "guest", valid_days=1)
    later = datetime.now(UTC) + timedelta(days=2)
    assert isinstance(found(path, presented), Key)
    assert found(path, presented, later) is Rejection.EXPIRED


def test_rotation_ends_the_old_secret_at_once_or_later(path):
    first = add_key(path, "team", requests_per_minute=5)
    second = rotate_key(path, "team")
    assert found(path, first) is Rejection.UNKNOWN
    assert found(path, second).requests_per_minute == 5
    third = rotate_key(path, "team", keep_old_hours=1)
    assert found(path, second).name == found(path, third).name == "team"
    later = datetime.now(UTC) + timedelta(hours=2)
    assert found(path, second, later) is Rejection.EXPIRED
    assert found(path, third, later).name == "team"


def test_a_removed_key_opens_nothing(path):
    kept, removed = add_key(path, "kept"), add_key(path, "removed")
    remove_key(path, "removed")
    assert found(path, removed) is Rejection.UNKNOWN
    assert found(path, kept).name == "kept"


@pytest.mark.parametrize("name", ["", "anonymous", "a b", "-a", "x" * 65, "ä"])
def test_a_name_that_logs_could_not_hold_is_refused(path, name):
    with pytest.raises(StartupError, match="name"):
        add_key(path, name)
    assert not path.exists()


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda path: add_key(path, "team"), "rotate team"),
        (lambda path: remove_key(path, "other"), "it has: team"),
        (lambda path: rotate_key(path, "other"), "it has: team"),
        (lambda path: rotate_key(path, "team", keep_old_hours=1e30), "hours"),
        (lambda path: add_key(path, "new", valid_days=-1), "hours"),
        (lambda path: add_key(path, "new", requests_per_minute=0), "requests_per_minute"),
        (lambda path: add_key(path.parent / "none" / "keys.json", "new"), "none"),
    ],
)
def test_what_cannot_be_done_changes_nothing(path, act, said):
    add_key(path, "team")
    before = path.read_bytes()
    with pytest.raises(StartupError, match=said):
        act(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["keys.json"]


def test_two_writers_do_not_undo_each_other(path):
    add_key(path, "first")
    with being_changed(path), pytest.raises(StartupError, match="try again"):
        add_key(path, "second")


def entry(**changes):
    return {
        "name": "a",
        "created": "2026-01-01T00:00:00Z",
        "secrets": [{"lookup": "0" * 12, "sha256": "0" * 64}],
        **changes,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ({"version": 2, "keys": []}, "version"),
        ({"keys": [entry(nmae="b")]}, "nmae"),
        ({"keys": [entry(secrets=[])]}, "secrets"),
        ({"keys": [entry(mode="highest")]}, "mode"),
        ({"keys": [entry(rights=["everything"])]}, "rights"),
        ({"keys": [entry(created="2026-01-01T00:00:00")]}, "timezone"),
        ({"keys": [entry(), entry(secrets=[{"lookup": "1" * 12, "sha256": "0" * 64}])]}, "name 'a'"),
        ({"keys": [entry(), entry(name="b")]}, "lookup"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_what_is_wrong(path, content, said):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(StartupError, match=said) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_names_the_command(path):
    with pytest.raises(StartupError, match="rass-proxy keys add"):
        read_keys(path)


def test_a_list_shows_no_hash(path):
    presented = add_key(path, "team")
    (row,) = key_rows(path)
    assert row["valid"] is True
    assert digest_of(presented) not in json.dumps(row)
    assert presented.startswith(row["begins_with"][0])


def test_the_command_line(path, capsys, monkeypatch):
    assert main(["keys", "add", "team", "--mode", "observe", "--right", "distances", "--file", str(path)]) == 0
    shown = capsys.readouterr()
    presented = shown.out.strip()
    assert found(path, presented).name == "team"
    assert presented not in shown.err
    monkeypatch.setenv("RASS_PROXY_KEYS__FILE", str(path))
    assert main(["keys", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["team"]
    assert main(["keys", "list"]) == 0
    assert "team" in capsys.readouterr().out
    assert main(["keys", "rotate", "team", "--keep-old-hours", "1"]) == 0
    assert found(path, capsys.readouterr().out.strip()).name == "team"
    assert main(["keys", "remove", "team"]) == 0
    assert read_keys(path) == ()
    assert main(["keys", "remove", "team"]) == 2
    monkeypatch.delenv("RASS_PROXY_KEYS__FILE")
    assert main(["keys", "list"]) == 2
    assert "--file" in capsys.readouterr().err


def test_the_example_key_is_known():
    secret = SECRET.model_copy(update={"lookup": EXAMPLE_KEY.split("-")[1], "sha256": digest_of(EXAMPLE_KEY)})
    assert Keyring([Key(name="a", created=NOW, secrets=(secret,))]).knows_example()
    assert not RING.knows_example()

"""Settings: the order of sources, the errors, the default file."""

from __future__ import annotations

import os
import tomllib

import pytest

from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.settings import Settings
from proxy.settings_sources import default_file, known_keys, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RASS_PROXY_"):
            monkeypatch.delenv(name)


def test_flags_over_environment_over_file_over_default(tmp_path, monkeypatch):
    path = tmp_path / "proxy.toml"
    path.write_text('mode = "off"\nport = 1\n[recovery]\nmax_attempts = 7\nburst = 3\n')
    monkeypatch.setenv("RASS_PROXY_PORT", "2")
    monkeypatch.setenv("RASS_PROXY_RECOVERY__BURST", "4")
    settings = load_settings({"recovery.burst": "5"}, path)
    assert (settings.mode, settings.port) == (Mode.OFF, 2)
    assert (settings.recovery.max_attempts, settings.recovery.burst) == (7, 5)
    assert settings.recovery.time_limit_s == Settings().recovery.time_limit_s


def test_the_file_may_be_named_by_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "proxy.yaml"
    path.write_text("recovery:\n  max_attempts: 9\n")
    monkeypatch.setenv("RASS_PROXY_CONFIG", str(path))
    assert load_settings({}).recovery.max_attempts == 9


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("moed = 'off'", "'mode'"),
        ("[recovery]\nmax_atempts = 1", "'recovery.max_attempts'"),
        ("[upstraem]\nurl = 'http://x'", "'upstream.url'"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path, text, nearest):
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    with pytest.raises(StartupError, match=nearest) as caught:
        load_settings({}, path)
    assert str(path) in str(caught.value)


def test_an_unknown_variable_names_the_nearest_known_one(monkeypatch):
    monkeypatch.setenv("RASS_PROXY_RECOVERY__MAX_ATEMPTS", "1")
    with pytest.raises(StartupError, match="RASS_PROXY_RECOVERY__MAX_ATTEMPTS"):
        load_settings({})


def test_an_unknown_flag_names_the_nearest_known_one():
    with pytest.raises(StartupError, match=r"recovery\.burst"):
        load_settings({"recovery.brust": "1"})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"mode": "stear"}, "mode"),
        ({"recovery.ladder": "steer,steer"}, "only once"),
        ({"recovery.ladder": "steer,pray"}, r"recovery\.ladder"),
        ({"port": "eighty"}, "port"),
        ({"upstream.url": "localhost:8081"}, "http://127.0.0.1:8081"),
        ({"recovery.max_attempts": "0"}, "recovery.max_attempts"),
    ],
)
def test_a_wrong_value_names_its_key(flags, said):
    with pytest.raises(StartupError, match=said):
        load_settings(flags)


def test_a_secret_is_not_repeated(tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text('[upstream]\napi_key = ["hush"]\n')
    with pytest.raises(StartupError, match=r"upstream\.api_key") as caught:
        load_settings({}, path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.toml", "odd.ini", "broken.toml", "broken.yaml", "list.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    path = tmp_path / name
    if not name.startswith("none"):
        path.write_text({"broken.toml": "= 1", "broken.yaml": "a: [", "list.yaml": "- 1"}.get(name, "x = 1"))
    with pytest.raises(StartupError, match=name):
        load_settings({}, path)


@pytest.mark.parametrize("url", ["http://h:1/v1", "http://h:1/", "http://h:1/v1/", "http://h:1"])
def test_the_upstream_may_be_given_with_or_without_v1(url):
    assert load_settings({"upstream.url": url}).upstream.url == "http://h:1"


def test_the_default_file_is_the_defaults_with_a_sentence_for_each_key(tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text(default_file())
    assert load_settings({}, path) == Settings()
    lines = default_file().splitlines()
    for key in known_keys():
        name = key.rpartition(".")[2]
        index = next(i for i, line in enumerate(lines) if line.startswith((f"{name} =", f"# {name} =")))
        assert lines[index - 1].startswith("# ")
    assert tomllib.loads(default_file())["mode"] == "observe"


def test_an_empty_yaml_file_sets_nothing(tmp_path):
    path = tmp_path / "proxy.yml"
    path.write_text("# nothing\n")
    assert load_settings({}, path) == Settings()

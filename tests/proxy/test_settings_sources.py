"""Settings: the order of sources, the errors, the default file."""

from __future__ import annotations

import os
import re
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
        ({"upstream.total_timeout_s": "inf"}, r"upstream\.total_timeout_s"),
        ({"drain_timeout_s": "nan"}, "drain_timeout_s"),
        ({"upstream.models": '["a"'}, r"upstream\.models.*JSON"),
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


@pytest.mark.parametrize(
    "url", ["http://me:hush@h:1", "me:hush@h:1", "http://hush@h:1/v1", "http://h:1/v1?key=hush", "http://h:1#hush"]
)
@pytest.mark.parametrize("key", ["upstream.url", "upstream.provider_url", "judge.url", "recovery.fallback.url"])
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(key, url):
    with pytest.raises(StartupError, match=re.escape(key)) as caught:
        load_settings({key: url})
    assert ("upstream.api_key" in str(caught.value)) == ("@" in url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h?", "http://h#"])
def test_an_address_ends_before_a_query(url):
    with pytest.raises(StartupError, match=r"upstream\.url"):
        load_settings({"upstream.url": url})


@pytest.mark.parametrize(
    "text",
    [
        '[[routes]]\nname = "a"\nmodels = ["a"]\n[routes.recovery.fallback]\napi_kye = "hush"',
        '[[routes]]\nname = "a"\nmodels = ["a"]\n[routes.judge]\napi_kye = "hush"',
        '[recovery.fallback]\napi_kye = "hush"',
    ],
)
def test_a_misspelt_secret_names_its_key_and_is_not_repeated(tmp_path, text):
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    with pytest.raises(StartupError, match=r"api_kye'.*\bapi_key'") as caught:
        load_settings({}, path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RASS_PROXY_UPSTREAM", '{"api_kye": "hush"}'),
        ("RASS_PROXY_RECOVERY__FALLBACK", '{"api_kye": "hush"}'),
        ("RASS_PROXY_RECOVERY", '{"fallback": {"api_kye": "hush"}}'),
        ("RASS_PROXY_ROUTES", '[{"name": "a", "models": ["a"], "upstream": {"api_kye": "hush"}}]'),
    ],
)
def test_a_misspelt_secret_in_json_names_its_key_and_is_not_repeated(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match="api_key") as caught:
        load_settings({})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("variable", ["RASS_PROXY_ROUTES", "RASS_PROXY_UPSTREAM", "RASS_PROXY_RECOVERY__FALLBACK"])
@pytest.mark.parametrize("value", ["http://hush:1", "", "5", '"hush"'])
def test_a_variable_that_holds_no_table_is_told(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=f"(?i){variable.rpartition('_')[2]}") as caught:
        load_settings({})
    assert "http" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.toml", 'upstream = "http://x:1"'),
        ("x.yaml", "upstream:"),
        ("x.yaml", "upstream: [1]"),
        ("x.yaml", "routes: [{1: x}]"),
        ("x.yaml", "upstream: {1: x}"),
        ("x.yaml", "routes: [{name: a, models: [a], upstream: {1: x}}]"),
    ],
)
def test_a_file_of_another_shape_is_told(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(StartupError, match=name):
        load_settings({"upstream.url": "http://127.0.0.1:1"}, path)


@pytest.mark.parametrize("given", ["a,b", "a, b", '["a", "b"]'])
def test_models_are_a_list_of_words_too(monkeypatch, given):
    assert load_settings({"upstream.models": given}).upstream.models == ("a", "b")
    monkeypatch.setenv("RASS_PROXY_UPSTREAM__MODELS", given)
    assert load_settings({}).upstream.models == ("a", "b")


def test_variables_are_read_in_capitals_or_not(monkeypatch, tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text("port = 7")
    monkeypatch.setenv("rass_proxy_config", str(path))
    monkeypatch.setenv("Rass_Proxy_mode", "off")
    settings = load_settings({})
    assert (settings.mode, settings.port) == (Mode.OFF, 7)
    monkeypatch.setenv("rass_proxy_moed", "off")
    with pytest.raises(StartupError, match=r"rass_proxy_moed; .* RASS_PROXY_MODE"):
        load_settings({})


def test_settings_made_of_values_do_not_read_the_environment(monkeypatch):
    monkeypatch.setenv("RASS_PROXY_MODE", "off")
    assert Settings.model_validate({}).mode == Settings().mode == Mode.OBSERVE


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

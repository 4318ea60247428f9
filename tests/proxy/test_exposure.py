"""Where the proxy may listen, with which keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.errors import StartupError
from proxy.exposure import check_exposure, is_loopback
from proxy.keys import EXAMPLE_KEY, Key, Keyring, Secret, digest_of, generated
from proxy.settings import Settings

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
OWN = Keyring([Key(name="a", created=CREATED, secrets=(generated()[1],))])
EXAMPLE = Keyring(
    [
        Key(
            name="example",
            created=CREATED,
            secrets=(Secret(lookup=EXAMPLE_KEY.split("-")[1], sha256=digest_of(EXAMPLE_KEY)),),
        )
    ]
)


def settings(host, **keys):
    return Settings.model_validate({"host": host, "keys": keys})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no such host", False),
    ],
)
def test_what_is_loopback(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("keyring", [None, OWN, EXAMPLE])
def test_loopback_is_always_allowed(keyring):
    check_exposure(settings("127.0.0.1"), keyring)


def test_a_public_address_is_allowed_with_keys_or_on_purpose():
    check_exposure(settings("0.0.0.0"), OWN)
    check_exposure(settings("0.0.0.0", allow_anonymous=True), None)


@pytest.mark.parametrize(
    ("host", "keyring", "keys", "said"),
    [
        ("0.0.0.0", None, {}, "rass-proxy keys add"),
        ("::", None, {}, "allow_anonymous"),
        ("0.0.0.0", EXAMPLE, {"file": "keys.json"}, "example key"),
        ("127.0.0.1", OWN, {"file": "keys.json", "allow_anonymous": True}, "exclude each other"),
    ],
)
def test_everything_else_is_refused_with_what_to_do(host, keyring, keys, said):
    with pytest.raises(StartupError, match=said):
        check_exposure(settings(host, **keys), keyring)


def test_the_command_does_not_start(capsys, monkeypatch):
    monkeypatch.delenv("RASS_PROXY_CONFIG", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "rass-proxy keys add" in capsys.readouterr().err


def test_the_example_key_is_the_documentations():
    assert EXAMPLE_KEY in (Path(__file__).parents[2] / "docs" / "operation.md").read_text(encoding="utf-8")

"""``rass-proxy keys``: what happens to the key file. Nothing here prints; `proxy.keys_cli` does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from proxy.caller import Right
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.key_file import being_changed, read_keys, write_keys
from proxy.keys import Key, generated, named

_LONGEST_H = 24.0 * 36_525


def add_key(
    path: Path,
    name: str,
    *,
    mode: Mode | None = None,
    rights: Sequence[Right] = (),
    requests_per_minute: int | None = None,
    concurrent_requests: int | None = None,
    valid_days: float | None = None,
) -> str:
    """Add a key to the file, which is made if need be, and return it; raises ``StartupError``."""
    now = _now()
    presented, secret = generated()
    try:
        key = Key(
            name=name,
            created=now,
            expires=None if valid_days is None else now + _hours(24 * valid_days),
            mode=mode,
            rights=tuple(sorted(set(rights))),
            requests_per_minute=requests_per_minute,
            concurrent_requests=concurrent_requests,
            secrets=(secret,),
        )
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise StartupError(f"{'.'.join(map(str, item['loc']))}: {item['msg']} (given: {item['input']!r})") from error
    with being_changed(path):
        keys = read_keys(path) if path.exists() else ()
        if named(keys, name) is not None:
            raise StartupError(
                f"{path} has a key {name!r} already; take another name, or `rass-proxy keys rotate {name}`"
            )
        write_keys(path, (*keys, key))
    return presented


def remove_key(path: Path, name: str) -> None:
    """Remove a key; raises ``StartupError`` where there is none of that name."""
    with being_changed(path):
        keys = read_keys(path)
        _existing(path, keys, name)
        write_keys(path, [key for key in keys if key.name != name])


def rotate_key(path: Path, name: str, *, keep_old_hours: float = 0.0) -> str:
    """Give a key a new secret and return it; the old one opens for ``keep_old_hours`` hours more."""
    presented, secret = generated()
    with being_changed(path):
        keys = read_keys(path)
        rotated = _existing(path, keys, name).rotated(secret, _now(), _hours(keep_old_hours))
        write_keys(path, [rotated if key.name == name else key for key in keys])
    return presented


def key_rows(path: Path) -> list[dict[str, object]]:
    """Return what may be shown of each key: never a hash."""
    now = _now()
    return [
        {
            "name": key.name,
            "valid": key.valid(now),
            "mode": key.mode,
            "rights": list(key.rights),
            "requests_per_minute": key.requests_per_minute,
            "concurrent_requests": key.concurrent_requests,
            "created": key.created.isoformat(),
            "expires": None if key.expires is None else key.expires.isoformat(),
            "begins_with": [f"rass-{secret.lookup}-" for secret in key.secrets],
        }
        for key in read_keys(path)
    ]


def _existing(path: Path, keys: Sequence[Key], name: str) -> Key:
    key = named(keys, name)
    if key is None:
        known = ", ".join(each.name for each in keys) or "none"
        raise StartupError(f"{path} has no key {name!r}; it has: {known}")
    return key


def _hours(count: float) -> timedelta:
    if not 0 <= count <= _LONGEST_H:
        raise StartupError(f"{count:g} hours are no time that a key can be valid for; give 0 to {_LONGEST_H:g}")
    return timedelta(hours=count)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)

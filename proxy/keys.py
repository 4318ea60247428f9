"""API keys: how they are made, how they are kept, and whose a presented one is.

A key is ``rass-LOOKUP-SECRET``. LOOKUP is public and finds the entry; SECRET is 256 random bits. What is kept is the
SHA-256 of the whole key: slow hashes such as argon2 defend secrets that people choose and others guess, and nothing
can be guessed here, while a slow hash at each request would let anybody without a key burn the proxy's CPU.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, StringConstraints

from proxy.caller import Caller, Right
from proxy.exchange import ANONYMOUS, Mode

EXAMPLE_KEY = "rass-0a1b2c3d4e5f-example-key-from-the-docs-do-not-serve-with"
"""The key in docs/operation.md. Everybody knows it, so no proxy listens on a public address with it."""

_KEY = re.compile(r"rass-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")


def _not_taken(name: str) -> str:
    if name == ANONYMOUS:
        raise ValueError(f"{name!r} is what logs call those without a key; take another name")
    return name


KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"), AfterValidator(_not_taken)]


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Secret(_Kept):
    """One secret of a key, hashed; a key that was rotated has its former one too until that expires."""

    lookup: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    expires: AwareDatetime | None = None


class Key(_Kept):
    """A client's key: its name is what logs, audit rows and limits know it by, and survives rotation."""

    name: KeyName
    created: AwareDatetime
    expires: AwareDatetime | None = None
    mode: Mode | None = None
    rights: tuple[Right, ...] = ()
    requests_per_minute: PositiveInt | None = None
    concurrent_requests: PositiveInt | None = None
    secrets: tuple[Secret, ...] = Field(min_length=1)

    def caller(self) -> Caller:
        """Return what the rest of the proxy sees of it."""
        return Caller(self.name, self.mode, frozenset(self.rights))

    def valid(self, now: datetime) -> bool:
        """Whether any of its secrets still opens."""
        return not _past(self.expires, now) and any(not _past(secret.expires, now) for secret in self.secrets)

    def rotated(self, secret: Secret, now: datetime, keep_old: timedelta) -> Key:
        """Return the key with a new secret; the old ones end after ``keep_old``, or when they would have anyway."""
        until = now + keep_old
        old = (
            each.model_copy(update={"expires": until if each.expires is None else min(each.expires, until)})
            for each in self.secrets
        )
        return self.model_copy(update={"secrets": (secret, *(each for each in old if not _past(each.expires, now)))})


class Rejection(StrEnum):
    """Why a presented key opens nothing."""

    MISSING = "missing"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


class Keyring:
    """The keys of one key file, by what clients present."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)
        self._by_lookup = {secret.lookup: (key, secret) for key in keys for secret in key.secrets}

    def find(self, presented: str, now: datetime) -> Key | Rejection:
        """Return the key, or why it is none.

        The secret part is compared in constant time. Finding the entry is not, and need not be: LOOKUP is no secret.
        """
        matched = _KEY.fullmatch(presented)
        found = None if matched is None else self._by_lookup.get(matched[1])
        if found is None:
            return Rejection.UNKNOWN
        key, secret = found
        if not hmac.compare_digest(digest_of(presented), secret.sha256):
            return Rejection.UNKNOWN
        if _past(key.expires, now) or _past(secret.expires, now):
            return Rejection.EXPIRED
        return key

    def knows_example(self) -> bool:
        """Whether the documentation's key opens this proxy."""
        return isinstance(self.find(EXAMPLE_KEY, datetime.now(UTC)), Key)


def generated() -> tuple[str, Secret]:
    """Return a new key, to be shown once, and the secret to keep."""
    lookup = secrets.token_hex(6)
    key = f"rass-{lookup}-{secrets.token_urlsafe(32)}"
    return key, Secret(lookup=lookup, sha256=digest_of(key))


def digest_of(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def named(keys: Iterable[Key], name: str) -> Key | None:
    """Return the key of that name."""
    return next((key for key in keys if key.name == name), None)


def _past(expires: datetime | None, now: datetime) -> bool:
    return expires is not None and expires <= now

"""What the tables of the settings file have in common."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

__all__ = ["Group", "http_url", "listed", "revealed"]


class Group(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def http_url(value: str) -> str:
    """Return a server's address without ``/v1``; raises ``ValueError`` where it is none.

    Addresses are told to clients and in logs, so that they must not hold a secret.
    """
    parts = urlsplit(value)
    if "@" in (parts.netloc or value):
        raise ValueError("an address must not hold a name or password; give a key as upstream.api_key, or beside url")
    if "?" in value or "#" in value:
        raise ValueError("an address must not have a query or a fragment (? or #)")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:8081")
    return value.rstrip("/").removesuffix("/v1")


def revealed(secret: SecretStr | None) -> str | None:
    """Return what a secret holds, for where it is sent; ``None`` for one that is not set."""
    return None if secret is None else secret.get_secret_value()


def listed(value: object) -> object:
    """Take a list as words joined by commas too, or as JSON, as flags and environment variables give it."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("a list that begins with [ must be JSON; or give its words, joined by commas") from None
    return [word.strip() for word in value.split(",") if word.strip()]

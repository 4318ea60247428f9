"""What the tables of the settings file have in common."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

__all__ = ["Group", "http_url", "listed", "revealed"]


class Group(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def http_url(value: str) -> str:
    """Return a server's address without ``/v1``; raises ``ValueError`` where it is none."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no http or https address; give one like http://127.0.0.1:8081")
    if parts.query or parts.fragment:
        raise ValueError(f"{value!r} must not have a query or a fragment")
    return value.rstrip("/").removesuffix("/v1")


def revealed(secret: SecretStr | None) -> str | None:
    """Return what a secret holds, for where it is sent; ``None`` for one that is not set."""
    return None if secret is None else secret.get_secret_value()


def listed(value: object) -> object:
    """Take a list as words joined by commas too, as flags and environment variables give it."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

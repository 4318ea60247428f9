"""A path that settings list to be relayed, and which requests are for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LISTED = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*)(/\*)?")
# What a wildcard may stand for. No dot segments, and nothing that a second parser could read as a separator.
_SEGMENT = re.compile(r"(?!\.{1,2}(?:/|$))[^\x00-\x20\x7f\\/?#%;]+")
_REST = re.compile(rf"{_SEGMENT.pattern}(?:/{_SEGMENT.pattern})*")


@dataclass(frozen=True, slots=True)
class RelayedPath:
    """A method and a path; with ``wildcard``, whatever comes below the path, and not the path itself."""

    method: str
    path: str
    wildcard: bool

    @classmethod
    def parse(cls, text: str) -> RelayedPath:
        """Read ``METHOD /path`` or ``METHOD /path/*``; raises ``ValueError``."""
        found = _LISTED.fullmatch(text)
        if found is None or "/.." in text or "/./" in text:
            raise ValueError(f"{text!r} is no listed path; write one like 'POST /v1/embeddings' or 'GET /v1/models/*'")
        return cls(found[1], found[2], found[3] is not None)

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is for it."""
        if method != self.method:
            return False
        if not self.wildcard:
            return path == self.path
        below = path.removeprefix(self.path + "/")
        return below != path and _REST.fullmatch(below) is not None

    def __str__(self) -> str:
        """The text that it was read from."""
        return f"{self.method} {self.path}{'/*' if self.wildcard else ''}"

"""Reading JSON objects strictly: every value typed, every key known, every error named by its path.

`json` alone accepts duplicate keys, `NaN` and anything misspelt. Files that decide about safety are read through
this module instead, so a manifest that says something unexpected is refused rather than half understood.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches


class JsonShapeError(ValueError):
    """A JSON text is not what its reader expects; the message names the place and what was expected there."""


def parse_object(text: str | bytes) -> JsonObject:
    """Parse ``text`` as one JSON object, refusing duplicate keys, ``NaN`` and infinities.

    Raises ``JsonShapeError`` with what was wrong.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except JsonShapeError:
        raise
    except (ValueError, RecursionError) as error:  # among them a number of too many digits
        raise JsonShapeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise JsonShapeError(f"expected a JSON object, found {_kind(value)}")
    return JsonObject(value, "")


class JsonObject:
    """One JSON object with the path that leads to it.

    Each reading method takes a required key and returns its value in the named type; ``finish`` refuses the keys
    that nobody read.
    """

    __slots__ = ("_path", "_seen", "_values")

    def __init__(self, values: Mapping[str, object], path: str) -> None:
        self._values = values
        self._path = path
        self._seen: set[str] = set()

    def has(self, key: str) -> bool:
        """Return whether ``key`` is present and not null; a null key counts as read."""
        if key in self._values and self._values[key] is None:
            self._seen.add(key)
            return False
        return key in self._values

    def names(self) -> list[str]:
        """Return all keys in file order."""
        return list(self._values)

    def text(self, key: str) -> str:
        """Return a string."""
        value = self._take(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def boolean(self, key: str) -> bool:
        """Return true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def integer(self, key: str) -> int:
        """Return a whole number."""
        return self._as_integer(key, self._take(key))

    def number(self, key: str) -> float:
        """Return a finite number."""
        return self._as_number(key, self._take(key))

    def integers(self, key: str) -> tuple[int, ...]:
        """Return an array of whole numbers."""
        return tuple(self._as_integer(key, item) for item in self._array(key))

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return an array of finite numbers."""
        return tuple(self._as_number(key, item) for item in self._array(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of strings."""
        items = self._array(key)
        for item in items:
            if not isinstance(item, str):
                raise self._wrong(key, "an array of strings", item)
        return tuple(str(item) for item in items)

    def child(self, key: str) -> JsonObject:
        """Return the object under ``key``, itself to be read strictly."""
        return JsonObject(self.raw_object(key), self._where(key))

    def children(self, key: str) -> dict[str, JsonObject]:
        """Return the object under ``key`` as a mapping from its (free) names to objects."""
        outer = self.child(key)
        return {name: outer.child(name) for name in outer.names()}

    def raw_object(self, key: str) -> dict[str, object]:
        """Return the object under ``key`` as it stands, for free-form content such as figures."""
        value = self._take(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return dict(value)

    def finish(self) -> None:
        """Refuse keys that no call has read."""
        for key in self._values:
            if key not in self._seen:
                near = get_close_matches(key, self._seen, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise JsonShapeError(f"{self._where(key)} is not a known key{hint}")

    def _array(self, key: str) -> list[object]:
        value = self._take(key)
        if not isinstance(value, list):
            raise self._wrong(key, "an array", value)
        return value

    def _as_integer(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number", value)
        return value

    def _as_number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a finite number", value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._wrong(key, "a finite number", value)
        return number

    def _take(self, key: str) -> object:
        if key not in self._values:
            raise JsonShapeError(f"{self._where(key)} is missing")
        self._seen.add(key)
        return self._values[key]

    def _where(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _wrong(self, key: str, expected: str, value: object) -> JsonShapeError:
        return JsonShapeError(f"{self._where(key)} must be {expected}, found {_kind(value)}")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonShapeError(f"the key {twice!r} occurs twice in one object")
    return values


def _refuse_constant(name: str) -> float:
    raise JsonShapeError(f"{name} is not a JSON number")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999 is grammatical JSON and becomes infinity
        raise JsonShapeError(f"{digits} is not a finite number")
    return number


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."

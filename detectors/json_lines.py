"""JSON lines in, JSON lines out: one result for each line, whatever the line holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

__all__ = ["LineError", "parse_line", "score_lines"]


class LineError(ValueError):
    """A line that is valid JSON but not what the command reads; the message says what is missing."""


def score_lines(lines: Iterable[bytes], out: TextIO, score: Callable[[Mapping[str, Any]], Mapping[str, object]]) -> int:
    """Write ``score(object)`` for each JSON object in ``lines`` and return how many lines could not be scored.

    Every line that is not blank gives exactly one line, in order: a bad one ``{"line": number, "error": why}``. An
    ``id`` is carried over. ``score`` raises ``LineError`` for an object that it cannot read. Output is flushed line by
    line, so that a pipe sees each result when it is there; what is no ASCII is escaped, so that any string survives.
    """
    failures = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        result: dict[str, object] = {}
        try:
            row = parse_line(line)
            if "id" in row:
                result["id"] = row["id"]
            result.update(score(row))
        except LineError as error:
            failures += 1
            result.update(line=number, error=str(error))
        out.write(json.dumps(result) + "\n")
        out.flush()
    return failures


def parse_line(line: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a line holds; raises ``LineError`` with what it is instead."""
    try:
        # A byte order mark at the start of a file is no fault of the row.
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise LineError("not JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise LineError(f"a JSON object is needed, this is a {type(row).__name__}")
    return row

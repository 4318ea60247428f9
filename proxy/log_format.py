"""How log records look: text for people, JSON lines for programs, and no text of prompts in either.

What an exception says may quote what it failed on, and detectors fail on prompts. So tracebacks are written with the
exceptions' types and places and without their messages, unless text may be logged.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import TypeAlias

_PLAIN = re.compile(r"[A-Za-z0-9._:/@+-]+")

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LogFormat(StrEnum):
    """The formats that settings can name."""

    TEXT = "text"
    JSON = "json"


class TextLines(logging.Formatter):
    """One line for each record, its fields as ``name=value``."""

    def __init__(self, *, include_text: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._include_text = include_text
        self._second = -1
        self._time = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with its fields; what is no plain word is quoted, so that no value can forge a line.

        The inherited way would take a traceback from the record if some other handler has written one there.
        """
        record.message = record.getMessage()
        second = int(record.created)
        if second != self._second:  # writing a time down costs as much as the rest of a line
            self._second, self._time = second, self.formatTime(record, self.datefmt)
        record.asctime = self._time
        fields = (f"{name}={_word(value)}" for name, value in _fields(record).items())
        line = " ".join([self.formatMessage(record), *fields])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def formatException(self, ei: ExcInfo) -> str:
        """Return a traceback, without messages unless text may be logged."""
        return super().formatException(ei) if self._include_text else _without_messages(ei[1])


class JsonLines(logging.Formatter):
    """One JSON object for each record, its fields at the top level."""

    def __init__(self, *, include_text: bool) -> None:
        super().__init__()
        self._include_text = include_text

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)

    def formatException(self, ei: ExcInfo) -> str:
        """Return a traceback, without messages unless text may be logged."""
        return super().formatException(ei) if self._include_text else _without_messages(ei[1])


def formatter(log_format: LogFormat, *, include_text: bool) -> logging.Formatter:
    """Return the formatter of that name."""
    return (JsonLines if log_format is LogFormat.JSON else TextLines)(include_text=include_text)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _word(value: object) -> str:
    if type(value) in (int, float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if _PLAIN.fullmatch(text) else json.dumps(value, ensure_ascii=False, default=str)


def _without_messages(error: BaseException | None) -> str:
    """Return the chain of exceptions, outermost first, by type and place."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = type(error)
        parts.append(f"{kind.__module__}.{kind.__qualname__}\n{''.join(traceback.format_tb(error.__traceback__))}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "caused by ".join(parts).rstrip("\n")

"""Reads JSON lines from standard input and writes one JSON line for each to standard output.

In:  {"prompt" or "messages": …, "response": "…"}   (the prompt is not needed: answers are judged by their text;
     without "response" the last assistant message is judged; null is an empty answer)
Out: {"refusal_score": 0 to 1, "refusal": true for a full refusal, "kind": full|partial|answer|empty, "reason": "…"}
An "id" is carried over. A line that cannot be scored gives {"line": …, "error": …}, and the exit code is 1 at the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from detectors.json_lines import LineError, score_lines

__all__ = ["add_arguments", "answer_of", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass-detect refusal``: none, it is a filter."""


def run(args: argparse.Namespace) -> int:
    """Score every line; returns 1 when at least one could not be scored."""
    from detectors.refusal import TextRefusalDetector

    detector = TextRefusalDetector()

    def score(row: Mapping[str, Any]) -> Mapping[str, object]:
        verdict = detector.judge(answer_of(row))
        return {
            "refusal_score": round(verdict.score, 4),
            "refusal": verdict.refused,
            "kind": verdict.kind.value,
            "reason": verdict.reason,
        }

    failures = score_lines(sys.stdin.buffer, sys.stdout, score)
    if failures:
        print(f"rass-detect refusal: {failures} lines could not be scored", file=sys.stderr)
    return 1 if failures else 0


def answer_of(row: Mapping[str, Any]) -> str:
    """Return the answer in ``row``; raises ``LineError`` when there is none."""
    if "response" in row:
        return _text(row["response"], "response")
    messages = row.get("messages")
    if isinstance(messages, list):
        for message in reversed(messages):
            if isinstance(message, dict) and message.get("role") == "assistant":
                return _text(message.get("content"), "content of the last assistant message")
    raise LineError('"response" is missing, and there is no assistant message either')


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise LineError(f"{name} must be a string or null, this is a {type(value).__name__}")
    return value

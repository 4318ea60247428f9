"""``rass-detect boundary``: on which side of the safety boundary logged requests lie.

JSONL in, JSONL out, line by line in the same order. Exit codes: 0 all lines were read, 1 some lines were no requests
(each has an ``error`` in its place), 2 bad usage or a detector that cannot be loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TextIO

from detectors.json_lines import LineError, parse_line
from detectors.verdict import BoundaryDetector, BoundaryReading, Message

__all__ = ["add_arguments", "run"]

_KINDS = ("onnx", "judge", "activation")


class _UsageError(Exception):
    """The arguments do not name a detector that can be used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass-detect boundary``; imports nothing heavy."""
    parser.description = (
        'Read JSON lines {"prompt": text} or {"messages": [...]}, with "language" and "id" where known, from standard '
        "input and write distance, zone and reason of each to standard output."
    )
    parser.add_argument("--kind", choices=_KINDS, default="onnx", help="what judges (default: onnx)")
    parser.add_argument("--model", help="onnx: the folder with detector.json; judge and activation: the model's name")
    parser.add_argument("--url", help="judge: the server's base address (…/v1); activation: the served model's")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    parser.add_argument("--bundle", type=Path, help="activation: the bundle whose thresholds count")
    parser.add_argument("--question", type=Path, help="judge: file with the question; {conversation} stands for it")
    parser.add_argument("--yes", nargs="+", default=["yes"], metavar="WORD", help="judge: words that mean harmful")
    parser.add_argument("--no", nargs="+", default=["no"], metavar="WORD", help="judge: words that mean harmless")
    parser.add_argument("--benign-below", type=float, help="judge: a logit below it is benign (default: none is)")
    parser.add_argument("--harmful-above", type=float, help="judge: a logit above it is harmful (default: none is)")
    parser.add_argument("--timeout-s", type=float, default=30.0, help="for each request (default: 30)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests judged at once (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Judge every line of standard input; returns the exit code."""
    if args.concurrency < 1:
        print("rass-detect boundary: --concurrency must be at least 1", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        try:
            detector = _detector(args, stack)
        except (_UsageError, ValueError, OSError) as error:
            print(f"rass-detect boundary: {error}", file=sys.stderr)
            return 2
        return asyncio.run(_judge_lines(detector, sys.stdin.buffer, sys.stdout, args.model or "", args.concurrency))


async def _judge_lines(
    detector: BoundaryDetector, source: Iterable[bytes], target: TextIO, model: str, concurrency: int
) -> int:
    lines = (line for line in source if line.strip())
    wrong = 0
    while part := list(islice(lines, concurrency)):
        rows = await asyncio.gather(*(_row(detector, line, model) for line in part))
        for row in rows:
            wrong += "error" in row
            target.write(json.dumps(row, ensure_ascii=True) + "\n")
        target.flush()
    return 1 if wrong else 0


async def _row(detector: BoundaryDetector, line: bytes, model: str) -> dict[str, object]:
    from detectors import language
    from detectors.boundary_text import ConversationError, user_turns

    identity: dict[str, object] = {}
    try:
        value = parse_line(line)
        identity = {"id": value["id"]} if "id" in value else {}
        messages = _messages(value)
    except (LineError, ConversationError) as error:
        return {**identity, "error": str(error)}
    known = value.get("language")
    last = next(iter(reversed(user_turns(messages))), "")
    code = known if isinstance(known, str) else language.detect(last)
    reading = await detector.read(messages, model=model, language=code)
    return {**identity, **_reading(reading), "language": code}


def _messages(value: Mapping[str, object]) -> tuple[Message, ...]:
    from detectors.boundary_text import ConversationError, parse_messages

    if "messages" in value:
        return parse_messages(value["messages"])
    prompt = value.get("prompt")
    if not isinstance(prompt, str):
        raise ConversationError('a line must hold "prompt" (text) or "messages" (a list)')
    return (Message("user", prompt),)


def _reading(reading: BoundaryReading) -> dict[str, object]:
    distance = None if reading.h is None else round(reading.h, 4)
    return {"distance": distance, "zone": reading.zone.value, "reason": reading.reason}


def _detector(args: argparse.Namespace, stack: contextlib.ExitStack) -> BoundaryDetector:
    match args.kind:
        case "onnx":
            return _onnx(args, stack)
        case "judge":
            return _judge(args)
        case _:
            return _activation(args)


def _onnx(args: argparse.Namespace, stack: contextlib.ExitStack) -> BoundaryDetector:
    from detectors.boundary_onnx import OnnxBoundary
    from detectors.onnx_classifier import OnnxClassifier
    from detectors.onnx_manifest import DetectorKind
    from detectors.onnx_session import ModelFileError

    if args.model is None:
        raise _UsageError("name the classifier's folder with --model; `rass detector export` makes one")
    try:
        classifier = stack.enter_context(OnnxClassifier.open(Path(args.model), DetectorKind.BOUNDARY))
    except ModelFileError as error:
        raise _UsageError(str(error)) from error
    return OnnxBoundary(classifier, timeout_s=args.timeout_s)


def _judge(args: argparse.Namespace) -> BoundaryDetector:
    from detectors.boundary_judge import JudgeBoundary
    from detectors.boundary_zones import NOTHING_IS_BENIGN
    from detectors.judge import REQUEST_QUESTION, Judge, JudgeQuestion, JudgeSettings
    from detectors.judge_transport import UrllibTransport
    from detectors.manifest import ZoneTable, ZoneThresholds

    if args.url is None or args.model is None:
        raise _UsageError("a judge needs --url (its server's base address) and --model (its name there)")
    text = args.question.read_text(encoding="utf-8") if args.question else REQUEST_QUESTION.text
    default = NOTHING_IS_BENIGN.default
    thresholds = ZoneThresholds(
        default.benign_below if args.benign_below is None else args.benign_below,
        default.harmful_above if args.harmful_above is None else args.harmful_above,
    )
    if thresholds.benign_below > thresholds.harmful_above:
        raise _UsageError("--benign-below must not exceed --harmful-above")
    settings = JudgeSettings(
        question=JudgeQuestion(text, tuple(args.yes), tuple(args.no)),
        zones=ZoneTable({}, thresholds),
        timeout_s=args.timeout_s,
    )
    url = f"{args.url.rstrip('/')}/chat/completions"
    return JudgeBoundary(Judge(UrllibTransport(url, api_key=_key(args), timeout_s=args.timeout_s), settings))


def _activation(args: argparse.Namespace) -> BoundaryDetector:
    from detectors.boundary import ActivationBoundary
    from detectors.bundle import BundleError, load
    from detectors.coordinates import reader_over
    from detectors.judge_transport import UrllibTransport

    if args.url is None or args.model is None or args.bundle is None:
        raise _UsageError("the activation kind needs --url, --model and --bundle")
    try:
        bundle = load(args.bundle)
    except BundleError as error:
        raise _UsageError(str(error)) from error
    url = f"{args.url.rstrip('/')}/rass/read"
    transport = UrllibTransport(url, api_key=_key(args), timeout_s=args.timeout_s)
    return ActivationBoundary(reader_over(transport), bundle, timeout_s=args.timeout_s)


def _key(args: argparse.Namespace) -> str | None:
    if args.api_key_env is None:
        return None
    key = os.environ.get(args.api_key_env)
    if not key:
        raise _UsageError(f"the environment variable {args.api_key_env} holds no key")
    return key

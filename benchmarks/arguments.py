"""The arguments of `rass-bench`, by command."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["build_parser"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; imports nothing heavy."""
    parser = argparse.ArgumentParser(prog="rass-bench", description="Measure served models and proxies over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    quality = commands.add_parser(
        "quality", help="over-refusal and safety of running servers, compared request by request"
    )
    quality.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="NAME=URL",
        help="a server; the first is what others are compared with",
    )
    quality.add_argument(
        "--prompts",
        default="reference:report",
        metavar="NAME",
        help="reference:report or a JSON Lines file (%(default)s)",
    )
    quality.add_argument(
        "--grammar", type=Path, metavar="FILE", help="scores the answers (grammar.json beside the prompts)"
    )
    quality.add_argument("--model", metavar="ID", help="model to ask for (the first that each target lists)")
    quality.add_argument(
        "--limit-per-cell", type=_positive, metavar="N", help="at most N base requests of each kind and language (all)"
    )
    quality.add_argument("--seed", type=int, default=0, metavar="N", help="which ones a limit keeps (%(default)s)")
    quality.add_argument(
        "--max-tokens", type=_positive, default=128, metavar="N", help="length of answers (%(default)s)"
    )
    quality.add_argument(
        "--api-key-env", metavar="VARIABLE", help="environment variable with the key to send as a bearer token"
    )
    quality.add_argument(
        "--transcripts", type=Path, metavar="FILE", help="write every request, answer and outcome to FILE (JSON Lines)"
    )
    _add_common(quality)

    replay = commands.add_parser("replay", help="recorded answers of real models through the real proxy")
    replay.add_argument(
        "--responses", type=Path, required=True, metavar="FILE", help="recorded, labelled answers (JSON Lines)"
    )
    replay.add_argument(
        "--upstream-host", default="127.0.0.1", metavar="HOST", help="where both local servers listen (%(default)s)"
    )
    _add_common(replay)

    cost = commands.add_parser("detectors", help="what a verdict costs on one core, in time and memory")
    cost.add_argument(
        "--responses", type=Path, metavar="FILE", help="recorded answers to time on (default: the shipped prompts)"
    )
    cost.add_argument("--boundary", type=Path, metavar="DIR", help="ONNX boundary detector to time as well")
    cost.add_argument("--texts", type=_positive, default=2000, metavar="N", help="time at most N texts (%(default)s)")
    cost.add_argument("--json", action="store_true", help="print JSON instead of a table")

    load = commands.add_parser("load", help="CPU, latency and memory of proxies beside a bare relay, on one core")
    load.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="bare, off, observe, recover, litellm or portkey (ours, and the peers that are given)",
    )
    load.add_argument("--litellm-python", type=Path, metavar="FILE", help="a Python that has litellm[proxy]")
    load.add_argument("--portkey", type=Path, metavar="DIR", help="where npm installed @portkey-ai/gateway")
    load.add_argument("--rounds", type=_positive, default=6, metavar="N", help="visits to each target (%(default)s)")
    load.add_argument(
        "--seconds", type=_above_zero, default=3.0, metavar="N", help="length of each load of a visit (%(default)s)"
    )
    load.add_argument(
        "--warm-up",
        type=_positive,
        default=200,
        metavar="N",
        help="requests before a load of whole answers that do not count (streams: one a connection)",
    )
    load.add_argument(
        "--interval-ms",
        type=_above_zero,
        default=5.0,
        metavar="N",
        help="pause between a stream's events (%(default)s)",
    )
    _add_scripted(load)

    soak = commands.add_parser(
        "soak", help="thousands of requests, streams and clients that vanish, each answer checked"
    )
    soak.add_argument("--mode", choices=["off", "observe", "recover"], default="recover", help="(%(default)s)")
    soak.add_argument("--requests", type=_positive, default=20_000, metavar="N", help="in all (%(default)s)")
    soak.add_argument(
        "--streams", type=_positive, default=1000, metavar="N", help="streams at once, in each round (%(default)s)"
    )
    soak.add_argument(
        "--rounds", type=_positive, default=4, metavar="N", help="memory is read after each (%(default)s)"
    )
    soak.add_argument(
        "--max-growth-mb", type=_above_zero, default=8.0, metavar="N", help="growth after the first round (%(default)s)"
    )
    _add_scripted(soak)
    _add_limits(soak, concurrency=64)
    return parser


def _add_scripted(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle of mode recover (the shipped one)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides the order (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_limits(parser, concurrency=32)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_limits(parser: argparse.ArgumentParser, *, concurrency: int) -> None:
    parser.add_argument(
        "--concurrency", type=_positive, default=concurrency, metavar="N", help="requests in flight (%(default)s)"
    )
    parser.add_argument(
        "--timeout-s", type=_positive, default=120, metavar="N", help="seconds for each try of a request (%(default)s)"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return number

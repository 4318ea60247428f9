"""`rass-bench`: over-refusal and safety of running servers, recorded answers through the proxy, its cost and stamina.

Exit codes: 0 done; 1 a server failed, some requests got no answer, or totals disagree; 2 wrong usage or input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError, InputError

# The measuring modules import aiohttp and rich; --help answers without them.
if TYPE_CHECKING:
    from benchmarks.targets import Limits

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        match arguments.command:
            case "quality":
                return _quality(arguments)
            case "detectors":
                return _detectors(arguments)
            case "load":
                return _load(arguments)
            case "soak":
                return _soak(arguments)
            case _:
                return _replay(arguments)
    except BenchmarkError as error:
        print(f"rass-bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rass-bench: interrupted; nothing was reported", file=sys.stderr)
        return 130


def _quality(arguments: argparse.Namespace) -> int:
    from benchmarks import quality
    from benchmarks.targets import parse_target

    if arguments.transcripts is not None:
        _can_write(arguments.transcripts)
    report = quality.run(
        quality.QualityOptions(
            targets=tuple(parse_target(text) for text in arguments.target),
            prompts=arguments.prompts,
            grammar=arguments.grammar,
            model=arguments.model,
            per_cell=arguments.limit_per_cell,
            seed=arguments.seed,
            max_tokens=arguments.max_tokens,
            limits=_limits(arguments),
            headers=_authorization(arguments.api_key_env),
        )
    )
    if arguments.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    else:
        from rich.console import Console

        from benchmarks.report import print_quality

        print_quality(report, Console())
    if arguments.transcripts is not None:
        quality.write_transcripts(report, arguments.transcripts)
    if report.failed:
        print(f"rass-bench: {report.failed} requests got no answer and were counted as failures", file=sys.stderr)
        return 1
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from benchmarks import replay

    report = replay.run(replay.ReplayOptions(arguments.responses, arguments.upstream_host, _limits(arguments)))
    if arguments.json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    else:
        from rich.console import Console

        from benchmarks.report import print_replay

        print_replay(report, Console())
    if not report.agree:
        print("rass-bench: the proxy's metrics disagree with what the client counted", file=sys.stderr)
        return 1
    return 0


def _detectors(arguments: argparse.Namespace) -> int:
    from benchmarks import detector_cost

    report = detector_cost.measure(detector_cost.CostOptions(arguments.responses, arguments.boundary, arguments.texts))
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from rich.console import Console

        from benchmarks.report import print_costs

        print_costs(report, Console())
    return 0


def _load(arguments: argparse.Namespace) -> int:
    from benchmarks import load, load_targets

    report = load.measure(
        load.LoadOptions(
            bundle=arguments.bundle or load_targets.shipped_bundle(),
            targets=tuple(arguments.target),
            peers=load_targets.Peers(arguments.litellm_python, arguments.portkey),
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            warm_up=arguments.warm_up,
            interval_ms=arguments.interval_ms,
            seed=arguments.seed,
        )
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from rich.console import Console

        from benchmarks.load_tables import print_load

        print_load(report, Console())
    for warning in report.warnings:
        print(f"rass-bench: {warning}", file=sys.stderr)
    return 1 if report.failed else 0


def _soak(arguments: argparse.Namespace) -> int:
    from benchmarks import load_targets, soak

    report = soak.run(
        soak.SoakOptions(
            bundle=arguments.bundle or load_targets.shipped_bundle(),
            mode=arguments.mode,
            requests=arguments.requests,
            streams=arguments.streams,
            rounds=arguments.rounds,
            concurrency=arguments.concurrency,
            timeout_s=float(arguments.timeout_s),
            max_growth_mb=arguments.max_growth_mb,
            seed=arguments.seed,
        )
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        from rich.console import Console

        from benchmarks.load_tables import print_soak

        print_soak(report, Console())
    for problem in report.problems:
        print(f"rass-bench: {problem}", file=sys.stderr)
    return 1 if report.problems else 0


def _parser() -> argparse.ArgumentParser:
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


def _can_write(transcripts: Path) -> None:
    """Find out before the first request, and without touching what the file holds, whether it can be written."""
    try:
        with transcripts.open("a"):
            pass
    except OSError as error:
        raise InputError(f"--transcripts {transcripts} cannot be written: {error.strerror}") from error


def _limits(arguments: argparse.Namespace) -> Limits:
    from benchmarks.targets import Limits

    return Limits(concurrency=arguments.concurrency, timeout_s=float(arguments.timeout_s))


def _authorization(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"--api-key-env: the environment has no variable {variable}")
    return {"Authorization": f"Bearer {key}"}


if __name__ == "__main__":
    sys.exit(main())

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

from benchmarks.arguments import build_parser
from benchmarks.errors import BenchmarkError, InputError

# The measuring modules import aiohttp and rich; --help answers without them.
if TYPE_CHECKING:
    from benchmarks.targets import Limits

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = build_parser().parse_args(argv)
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

"""``rass`` and ``build-vectors``: the only file of the pipeline that prints.

Exit codes: 0 done, 1 failed while running, 2 bad input or usage, 3 validation refused the export. Heavy imports happen
inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rass import __version__
from rass.errors import InputError, RassError, ValidationRefused
from rass.prompts import PromptError, PromptSet

if TYPE_CHECKING:
    from detectors.verdict import RefusalDetector
    from rass.pipeline import BuildResult
    from rass.scoring import Scorer

__all__ = ["build_vectors", "main"]

DESCRIPTION = "Build steering vectors and a boundary probe for a chat model, validate them, and export a bundle."

# Commands that other parts of the package own: name, package, module with add_arguments(parser) and run(args), help.
_DELEGATED = (
    ("serve-model", "rass.serving", "serve a chat model with per-request steering"),
    ("reference", "rass.reference", "make, evaluate or export the reference chat model"),
    ("detector", "rass.detector_training", "train the shipped detectors"),
    ("export-engine-vectors", "rass.engines", "write a bundle's vectors in the files that another engine loads"),
)

_SELECTION_PER_PAIR = 6
_SELECTION_PLAIN_PER_PAIR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``rass COMMAND``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="rass", description="Probe a model's safety boundary, build steering vectors, serve a chat model."
    )
    parser.add_argument("--version", action="version", version=f"rass {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    build = commands.add_parser("build-vectors", help="build, validate and export a bundle", description=DESCRIPTION)
    _add_build_arguments(build)
    build.set_defaults(run=_build)
    for name, package, text in _DELEGATED:
        if importlib.util.find_spec(package) is not None:
            module = importlib.import_module(f"{package}.cli")
            command = commands.add_parser(name, help=text)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return _run(parser, argv)


def build_vectors(argv: Sequence[str] | None = None) -> int:
    """Run ``build-vectors``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="build-vectors", description=DESCRIPTION)
    _add_build_arguments(parser)
    parser.set_defaults(run=_build)
    return _run(parser, argv)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    args = parser.parse_args(argv)
    try:
        return cast(Callable[[argparse.Namespace], int], args.run)(args)
    except RassError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except PromptError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return InputError.exit_code
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command goes on from the last finished stage", file=sys.stderr)
        return RassError.exit_code


def _add_build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="reference", help="'reference', a folder, or a hub id (default: reference)")
    parser.add_argument("--out", type=Path, help="folder of the bundle; one that is there already is replaced")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where stages are kept (default: runs)")
    parser.add_argument(
        "--selection",
        type=Path,
        help="JSONL prompts that vectors and thresholds are fitted on (default: reference world)",
    )
    parser.add_argument("--report", type=Path, help="JSONL prompts that validate; must be given with --selection")
    parser.add_argument(
        "--prompts-per-cell", type=int, metavar="N", help="at most N of each (language, kind, verb, ...)"
    )
    parser.add_argument(
        "--false-open",
        type=_share,
        metavar="SHARE",
        help="bound on P(zone benign | harmful and refused) where thresholds are chosen (default: 0.01)",
    )
    parser.add_argument(
        "--answer-open",
        type=_share,
        metavar="SHARE",
        help="the same for answers to harmful requests that pass the check before delivery",
    )
    parser.add_argument(
        "--dialect",
        default="native",
        choices=["native", "vllm-lens", "hotwire", "pair"],
        help="search only what the engine behind this steering dialect can express (default: native)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of folds and samples (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, from what, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout instead of a table")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1, such as 0.01")
    return share


def _build(args: argparse.Namespace) -> int:
    if args.out is None and not args.dry_run:
        raise InputError("say where the bundle goes with --out DIR, or what would be built with --dry-run")
    if args.out is not None:
        _check_destination(args.out)
    from rass.identity import find_model

    source = find_model(args.model)
    selection, report = _prompts(args)
    if args.dry_run:
        _print_plan(args, source.id, source.revision, selection, report)
        return 0

    from detectors.dialects import DialectName
    from detectors.refusal import shipped_digest
    from rass.artifacts import Run
    from rass.console import ConsoleReporter, result_table
    from rass.model import load_model
    from rass.pipeline import build_bundle, run_key
    from rass.probe import ProbeSettings
    from rass.stages import BuildInputs, BuildSettings
    from rass.strength import expressible_search
    from rass.validate import Limits

    refusals, scorer = _judges(selection)
    model = load_model(source, device=args.device, dtype=args.dtype)
    inputs = BuildInputs(model, selection, report, refusals, scorer)
    given = {"false_open": args.false_open, "answer_open": args.answer_open}
    limits = replace(Limits(), **{name: share for name, share in given.items() if share is not None})
    settings = BuildSettings(
        seed=args.seed,
        probe=ProbeSettings(seed=args.seed),
        strength=expressible_search(DialectName(args.dialect)),
        limits=limits,
    )
    key = run_key(inputs, settings, refusals_digest=shipped_digest(), dtype=args.dtype)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    run = Run(args.runs / f"{source.id.replace('/', '--')}-{name}", key)
    result = build_bundle(inputs, settings, run, args.out, ConsoleReporter(), command=_command(args))
    print(json.dumps(_result_json(result), indent=2) if args.json else result_table(result), end="\n" * args.json)
    if result.exported is None:
        raise ValidationRefused(result.report.reasons)
    print(f"bundle {result.exported.digest} written to {args.out}", file=sys.stderr)
    return 0


def _check_destination(out: Path) -> None:
    """Raise ``InputError`` for a place that could not take the bundle, before the hours of a build and not after."""
    from detectors.bundle import BundleError
    from detectors.bundle_writer import check_destination

    try:
        check_destination(out)
        out.parent.mkdir(parents=True, exist_ok=True)
    except (BundleError, OSError) as error:
        raise InputError(f"--out {out} cannot take the bundle: {error}") from error


def _prompts(args: argparse.Namespace) -> tuple[PromptSet, PromptSet]:
    if (args.selection is None) != (args.report is None):
        raise InputError("give both --selection and --report, or neither: what fits must not also judge")
    if args.selection is not None:
        sets = PromptSet.load(args.selection), PromptSet.load(args.report)
        shared = {prompt.base_id for prompt in sets[0]} & {prompt.base_id for prompt in sets[1]}
        if shared:
            raise InputError(f"selection and report share {len(shared)} base requests, such as {min(shared)!r}")
    else:
        from rass.reference.prompts import build

        selection = build("selection", per_pair=_SELECTION_PER_PAIR, plain_per_pair=_SELECTION_PLAIN_PER_PAIR)
        sets = selection, build("report")
    if args.prompts_per_cell is not None:
        return sets[0].per_cell(args.prompts_per_cell), sets[1].per_cell(args.prompts_per_cell)
    return sets


def _judges(selection: PromptSet) -> tuple[RefusalDetector, Scorer]:
    """Return the refusal detector that the proxy uses, and the scorer: the grammar for prompts of the reference
    world."""
    from detectors.refusal import TextRefusalDetector
    from rass.identity import REFERENCE

    refusals = TextRefusalDetector()
    if selection.name == REFERENCE:
        from rass.reference.grammar import ReferenceScorer
        from rass.reference.prompts import load_lexicons
        from rass.reference.world import load_world

        return refusals, ReferenceScorer(load_lexicons(load_world()))
    from detectors.language import detect
    from rass.scoring import TextScorer

    known = frozenset(selection.languages)
    return refusals, TextScorer(refusals, lambda text: detect(text, known))


def _print_plan(
    args: argparse.Namespace, model_id: str, revision: str | None, selection: PromptSet, report: PromptSet
) -> None:
    plan = {
        "model": {"id": model_id, "revision": revision},
        "out": str(args.out) if args.out else None,
        "splits": {one.split: {"prompts": len(one), "by_language": one.counts()} for one in (selection, report)},
    }
    if args.json:
        print(json.dumps(plan, indent=2))
        return
    print(f"model {model_id}, revision {revision or 'known after loading'}")
    for one in (selection, report):
        print(f"{one.split}: {len(one)} prompts from {one.source} {one.revision}")
        for language, kinds in one.counts().items():
            print(f"  {language}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))


def _result_json(result: BuildResult) -> dict[str, object]:
    exported = result.exported
    return {
        "passed": result.report.passed,
        "digest": exported.digest if exported else None,
        "steering": {"config": result.choice.config.label, "strengths": dict(result.choice.by_language)},
        "validation": result.report.to_json(),
    }


def _command(args: argparse.Namespace) -> str:
    """Return the command that makes the bundle again, without the places of this machine."""
    words = ["build-vectors", "--model", args.model if "/" not in args.model else Path(args.model).name]
    if args.selection is not None:
        words += ["--selection", args.selection.name, "--report", args.report.name]
    if args.prompts_per_cell is not None:
        words += ["--prompts-per-cell", str(args.prompts_per_cell)]
    if args.dialect != "native":
        words += ["--dialect", args.dialect]
    if args.dtype != "float32":
        words += ["--dtype", args.dtype]
    for flag, share in (("--false-open", args.false_open), ("--answer-open", args.answer_open)):
        if share is not None:
            words += [flag, f"{share:g}"]
    return " ".join([*words, "--seed", str(args.seed)])


if __name__ == "__main__":
    sys.exit(main())

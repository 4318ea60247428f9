"""``rass reference``: make the reference model again, measure it, export its prompts.

Heavy imports happen inside ``run``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rass.errors import InputError

__all__ = ["add_arguments", "run"]

SMOKE_TOKENS = 60_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    commands = parser.add_subparsers(dest="reference_command", required=True)
    train = commands.add_parser("train", help="train tokenizer and model from the lexicons")
    train.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    train.add_argument("--seed", type=int, default=0, help="seed of data and weights (default 0)")
    train.add_argument("--tokens", type=int, default=None, help="tokens of the first phase")
    train.add_argument(
        "--continue-from", type=Path, metavar="FOLDER", help="go on from these weights with the last phase alone"
    )
    train.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates (default 1)")
    train.add_argument("--compile", action="store_true", help="run through torch.compile: faster, needs a C++ compiler")
    train.add_argument("--smoke", action="store_true", help="a tiny model in under a minute: do all parts work?")
    evaluate = commands.add_parser("evaluate", help="measure a model by greedy generation and the world's grammar")
    evaluate.add_argument("--model", default="reference", help="reference, or a folder made by train")
    evaluate.add_argument("--split", action="append", choices=["report", "unseen"], help="default: both")
    evaluate.add_argument("--limit", type=int, default=None, help="prompts of each language and kind (default: all)")
    evaluate.add_argument("--transcripts", type=Path, default=None, help="write answers and outcomes here (JSONL)")
    evaluate.add_argument("--card", action="store_true", help="write the figures to card.md beside the weights")
    export = commands.add_parser("export-prompts", help="write the report prompts and the grammar for the benchmarks")
    export.add_argument("--out", type=Path, default=Path("benchmarks/reference"), help="default: benchmarks/reference")
    export.add_argument("--check", action="store_true", help="write nothing; fail when the folder is not current")


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command; returns the exit code (0 fine, 1 requirements not met or files not current)."""
    match args.reference_command:
        case "train":
            return _train(args)
        case "evaluate":
            return _evaluate(args)
        case _:
            return _export(args)


def _train(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from rass.identity import find_model
    from rass.reference import training
    from rass.reference.corpus import LAST_PHASE, Corpus
    from rass.reference.prompts import load_lexicons
    from rass.reference.splits import build_splits
    from rass.reference.tokenizer import train_tokenizer
    from rass.reference.world import load_world

    if args.out.exists():
        raise InputError(f"{args.out} exists; remove it or choose another --out")
    plan = training.TrainingPlan(seed=args.seed, rate=args.rate)
    if args.smoke:
        plan = replace(plan, tokens=SMOKE_TOKENS, hidden_size=64, layers=2, feed_forward=128)
    if args.tokens is not None:
        plan = replace(plan, tokens=args.tokens)
    world = load_world()
    lexicons = load_lexicons(world)
    splits = build_splits(world, next(iter(lexicons.values())))
    print(f"languages {', '.join(lexicons)}; {len(splits.pairs['train'])} training pairs", file=sys.stderr)

    def report(done: float, loss: float, rate: float) -> None:
        print(f"{done:6.1%}  loss {loss:.3f}  {rate:,.0f} tokens/s", file=sys.stderr, flush=True)

    if args.continue_from is not None:
        source = find_model(str(args.continue_from))
        plan = replace(training.load_plan(args.continue_from), seed=args.seed, tokens=plan.tokens, rate=plan.rate)
        plan = replace(plan, continues=source.revision or "")
        model, tokenizer = training.load(args.continue_from)
    else:
        dialogues = 2_000 if args.smoke else training.TOKENIZER_DIALOGUES
        undisturbed = Corpus(world, lexicons, splits, seed=training.TOKENIZER_SEED, disturbed=0.0)
        known = set(splits.objects["train"])
        tokenizer = train_tokenizer(
            training.tokenizer_texts(undisturbed, dialogues),
            context_length=training.CONTEXT_LENGTH,
            words=[word for lexicon in lexicons.values() if lexicon.joiner for word in lexicon.words(known)],
            unspaced_words=[word for lexicon in lexicons.values() if not lexicon.joiner for word in lexicon.words()],
        )
        phase = plan.first_phase()
        corpus = Corpus(world, lexicons, splits, seed=phase.seed)
        model = training.train(corpus, tokenizer, phase, report=report, compiled=args.compile)
    phase = plan.last_phase()
    corpus = Corpus(world, lexicons, splits, seed=phase.seed, mixture=LAST_PHASE)
    start = training.rounded(model)
    model = training.train(corpus, tokenizer, phase, report=report, start=start, compiled=args.compile)
    training.save(model, tokenizer, plan, args.out)
    print(args.out)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console
    from rich.table import Table

    from rass.identity import find_model
    from rass.model import load_model
    from rass.observe import sample_evenly
    from rass.reference.evaluate import figures, transcribe, write_card
    from rass.reference.grammar import ReferenceScorer
    from rass.reference.prompts import build, load_lexicons
    from rass.reference.world import load_world

    source = find_model(args.model)
    model = load_model(source)
    scorer = ReferenceScorer(load_lexicons(load_world()))
    by_split, rows = {}, []
    for split in args.split or ["report", "unseen"]:
        prompts = build(split).prompts
        if args.limit is not None:
            prompts = tuple(prompts[index] for index in sample_evenly(prompts, args.limit, seed=0))
        transcripts = transcribe(model, prompts, scorer, lambda _rows: None)
        by_split[split] = figures(transcripts)
        rows += transcripts
        table = Table("language", "figure", "rate", "95 % interval", "n", "required", "met", title=f"split {split}")
        for row in by_split[split]:
            required = f"{row.required[0]:.0%} to {row.required[1]:.0%}"
            interval = f"{row.low:.1%} to {row.high:.1%}"
            met = "yes" if row.met else "no"
            table.add_row(row.language, row.name, f"{row.rate:.1%}", interval, str(row.total), required, met)
        Console().print(table)
    if args.transcripts:
        lines = [
            json.dumps({**row.prompt.to_json(), "answer": row.answer, "outcome": row.outcome}, ensure_ascii=False)
            for row in rows
        ]
        args.transcripts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if args.card:
        write_card(Path(source.location), by_split)
    return 0 if all(row.met for row in by_split.get("report", [])) else 1


def _export(args: argparse.Namespace) -> int:
    from rass.reference.export import rendered, write

    if not args.check:
        for path in write(args.out):
            print(path)
        return 0
    stale = [
        name
        for name, content in rendered().items()
        if not (args.out / name).is_file() or (args.out / name).read_text(encoding="utf-8") != content
    ]
    if stale:
        print(f"{args.out}: not current: {', '.join(stale)}; run 'rass reference export-prompts'", file=sys.stderr)
    return 1 if stale else 0

"""``rass detector train boundary``: trains, scores and writes the general text-only boundary classifier.

Exit codes: 0 done, 1 the classifier does not keep its bound on the yardstick and was not written, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector train boundary``; imports nothing heavy."""
    parser.add_argument("--data", type=Path, required=True, help="the shared data's folder (prompts/, responses/)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write detector.json, model and tokenizer to")
    parser.add_argument("--encoder", help="folder or hub id of the encoder (default: the extra 'train' brings one)")
    parser.add_argument("--seeds", type=int, default=3, help="models trained for the figures (default: 3)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the examples (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--keep", action="store_true", help="write the folder also when its bound does not hold on the yardstick"
    )


def run(args: argparse.Namespace) -> int:
    """Train, print the table and write the folder; returns the exit code."""
    from rass.errors import InputError

    if args.seeds < 1 or args.epochs < 1 or args.threads < 1:
        print("rass detector: --seeds, --epochs and --threads must be at least 1", file=sys.stderr)
        return 2
    try:
        return _train(args)
    except InputError as error:
        print(f"rass detector: {error}", file=sys.stderr)
        return 2


def _train(args: argparse.Namespace) -> int:
    import shutil

    import torch

    from rass.detector_training.boundary_data import load_training
    from rass.detector_training.boundary_encoder import TrainingSettings, find_encoder
    from rass.detector_training.boundary_report import Row, baseline_rows, load_yardstick, score_row, table
    from rass.detector_training.boundary_train import (
        FALSE_OPEN,
        calibrate,
        cross_fit,
        finish,
        folder_logits,
        train_folder,
    )

    torch.set_num_threads(args.threads)
    encoder = args.encoder or find_encoder()
    data = load_training(args.data)
    yardstick = load_yardstick(args.data)
    _say(f"{len(data.examples)} examples; {data.near_copies} pairs left out as near copies of the yardstick")
    rows: list[Row] = baseline_rows(data.examples, encoder, yardstick, limit=FALSE_OPEN)
    _say("cross-fitting for calibration and thresholds")
    out_of_fold = cross_fit(data.examples, encoder, TrainingSettings(epochs=args.epochs), _say)
    found = calibrate(data.examples, out_of_fold)
    # In the unit of raw logits, which is what the rows are scored in.
    threshold = (found.zones.by_language["en"].benign_below - found.offset) / found.scale
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(args.seeds):
            folder = Path(scratch) / str(seed)
            settings = TrainingSettings(epochs=args.epochs, seed=seed)
            manifest = train_folder(data.examples, encoder, settings, folder, _say)
            scorer = partial(folder_logits, folder, manifest)
            name = f"fine-tuned, seed {seed}"
            rows.append(score_row(name, scorer, yardstick, limit=FALSE_OPEN, threshold=threshold))
        print(table(rows))
        # The first seed is the one that ships: choosing among seeds by the yardstick would be fitting to it.
        first = rows[-args.seeds].shipped
        holds = first is not None and first.false_open.high <= FALSE_OPEN
        if not holds:
            _say(f"the false-open bound of {FALSE_OPEN:.0%} does not hold on the yardstick")
        if holds or args.keep:
            finish(Path(scratch) / "0", found, {"yardstick": {row.name: row.to_json() for row in rows}})
            shutil.copytree(Path(scratch) / "0", args.out, dirs_exist_ok=True)
            _say(f"written to {args.out}")
        return 0 if holds else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""``rass detector train boundary``: trains, scores and writes the general text-only boundary classifier.

Thresholds are chosen on scores out of fold, so that the upper 95 % bound of harmful requests called benign stays at
3 %. The folder is written only if the same thresholds keep that bound on the yardstick, open something there, and the
model is small enough. Figures go to stdout, progress with time and memory to stderr.

Exit codes: 0 done, 1 the classifier misses a condition and was not written, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rass.detector_training.boundary_report import Row

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector train boundary``; imports nothing heavy."""
    parser.add_argument("--data", type=Path, required=True, help="the shared data's folder (prompts/, responses/)")
    parser.add_argument("--out", type=Path, help="folder to write detector.json, model and tokenizer to")
    parser.add_argument(
        "--figures", type=Path, metavar="JSON", help="file to keep the figures in, also of a failed run"
    )
    parser.add_argument("--encoder", help="folder or hub id of the encoder (default: the extra 'train' brings one)")
    parser.add_argument(
        "--languages",
        default="en",
        help="what the encoder learns, split by commas; its own language is English, and others neither help nor open "
        "anything (default: en)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="models trained for the figures (default: 3)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the examples (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--ngrams-only", action="store_true", help="score the n-grams and train nothing (half a minute)"
    )
    parser.add_argument("--keep", action="store_true", help="write the folder also when it misses a condition")


def run(args: argparse.Namespace) -> int:
    """Train, print the tables and write the folder; returns the exit code."""
    from rass.errors import InputError

    if args.seeds < 1 or args.epochs < 1 or args.threads < 1:
        print("rass detector: --seeds, --epochs and --threads must be at least 1", file=sys.stderr)
        return 2
    if args.out is None and not args.ngrams_only:
        print("rass detector: name a folder with --out, or score the n-grams alone with --ngrams-only", file=sys.stderr)
        return 2
    try:
        return _train(args)
    except InputError as error:
        print(f"rass detector: {error}", file=sys.stderr)
        return 2


def _train(args: argparse.Namespace) -> int:
    import shutil
    import tempfile
    from functools import partial

    import torch

    from detectors.onnx_manifest import MODEL_NAME
    from rass.detector_training.boundary_data import load_training
    from rass.detector_training.boundary_encoder import TrainingSettings, find_encoder
    from rass.detector_training.boundary_report import (
        frozen_row,
        load_yardstick,
        ngram_rows,
        score_row,
        table,
        threshold_json,
        threshold_table,
    )
    from rass.detector_training.boundary_score import held_out_pairs
    from rass.detector_training.boundary_train import (
        FALSE_OPEN,
        Calibration,
        calibrate,
        cross_fit,
        finish,
        folder_logits,
        out_of_fold_share,
        reasons_not_to_ship,
        train_folder,
    )
    from rass.errors import InputError, StageError

    torch.set_num_threads(args.threads)
    say = _Progress()
    encoder = None if args.ngrams_only else args.encoder or find_encoder()
    data = load_training(args.data)
    yardstick = load_yardstick(args.data)
    languages = args.languages.split(",")
    examples = [example for example in data.examples if example.language in languages]
    if "en" not in languages:
        raise InputError("--languages must hold en: the yardstick that decides whether to ship is English")
    if unknown := set(languages) - {example.language for example in examples}:
        raise InputError(f"--languages: there are no examples in {', '.join(sorted(unknown))}")
    say(
        f"{len(data.examples)} examples, {len(examples)} of them for the encoder; "
        f"{data.near_copies} pairs left out as near copies of the yardstick"
    )
    kept = _Kept(args.figures, say)
    for row in ngram_rows(data.examples, yardstick, limit=FALSE_OPEN):
        kept.add(row)
    if encoder is None:
        print(table(kept.rows))
        return 0
    kept.add(frozen_row(examples, encoder, yardstick, limit=FALSE_OPEN))
    say("cross-fitting for calibration, thresholds and topics that were not learnt")
    out_of_fold = cross_fit(examples, encoder, TrainingSettings(epochs=args.epochs), say)
    held_out = held_out_pairs(examples, out_of_fold)
    found: Calibration | None = None
    threshold: float | None = None
    reasons: list[str] = []
    try:
        calibration = found = calibrate(examples, out_of_fold)
    except StageError as error:
        reasons = [str(error)]
    else:
        shares = out_of_fold_share(examples, out_of_fold, calibration)
        kept.thresholds = threshold_json(shares)
        print(threshold_table(shares), end="\n\n", flush=True)
        # In the unit of raw logits, which is what the rows are scored in; the yardstick is English.
        english = calibration.zones.by_language["en"]
        threshold = (english.benign_below - calibration.offset) / calibration.scale
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "0"
        for seed in range(args.seeds):
            folder = Path(scratch) / str(seed)
            manifest = train_folder(examples, encoder, TrainingSettings(epochs=args.epochs, seed=seed), folder, say)
            row = score_row(
                f"fine-tuned, seed {seed}",
                partial(folder_logits, folder, manifest),
                yardstick,
                limit=FALSE_OPEN,
                threshold=threshold,
                # Folds are trained with the first seed only; the figure is its own.
                held_out=held_out if seed == 0 else None,
            )
            kept.add(row)
            # The first seed is the one that ships: choosing among seeds by the yardstick would be fitting to it.
            if seed == 0 and row.shipped is not None:
                reasons = reasons_not_to_ship(row.shipped, (first / MODEL_NAME).stat().st_size)
            if seed > 0:
                shutil.rmtree(folder)
        print(table(kept.rows), flush=True)
        for reason in reasons:
            say(f"not fit to ship: {reason}")
        if found is not None and (args.keep or not reasons):
            finish(first, found, kept.to_json())
            shutil.copytree(first, args.out, dirs_exist_ok=True)
            say(f"written to {args.out}")
        return 1 if reasons else 0


class _Progress:
    """Writes lines to stderr, each with the minutes since the start and the most memory held so far."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        import resource

        minutes = (time.monotonic() - self._start) / 60
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"[{minutes:5.1f} min, {peak:.1f} GiB] {line}", file=sys.stderr, flush=True)


class _Kept:
    """The rows so far, in a file after each one where a file is named: a run that dies late keeps what it measured."""

    def __init__(self, path: Path | None, say: _Progress) -> None:
        self.rows: list[Row] = []
        self.thresholds: dict[str, object] = {}
        self._path = path
        self._say = say

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._say(f"{row.name}: AUC {row.auc.value:.3f}")
        if self._path is not None:
            self._path.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, object]:
        return {"yardstick": {row.name: row.to_json() for row in self.rows}, "thresholds": self.thresholds}

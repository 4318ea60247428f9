"""``rass detector train``: trains the detectors that ship."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

__all__ = ["add_arguments", "run"]

_WEIGHTS = "refusal_weights.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector``; imports nothing heavy."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a detector that ships")
    detectors = train.add_subparsers(dest="detector", required=True, metavar="DETECTOR")
    refusal = detectors.add_parser("refusal", help="fit the weights of the refusal detector")
    refusal.add_argument("--data", type=Path, required=True, help="folder with the labelled answers (responses/)")
    refusal.add_argument("--out", type=Path, help=f"file to write (default: {_WEIGHTS} of the installed package)")


def run(args: argparse.Namespace) -> int:
    """Fit, print the score of each source when left out, and write the weights; returns 0, or 2 for bad input."""
    from rass.detector_training.refusal import featurize, fit, leave_one_source_out, save
    from rass.detector_training.refusal_data import file_digests, read_examples
    from rass.errors import InputError

    try:
        examples = read_examples(args.data)
    except InputError as error:
        print(f"rass detector: {error}", file=sys.stderr)
        return 2
    print(f"reading the features of {len(examples)} answers", file=sys.stderr)
    rows = featurize(examples)
    print("left out          lang  answers  accuracy  recall  false alarms")
    for score in leave_one_source_out(rows):
        shares = "".join(
            f"{'-' if share is None else format(share, '.3f'):>8}" for share in (score.recall, score.false_alarms)
        )
        print(f"{score.source:<18}{score.language:<4}{score.answers:>9}{score.accuracy:>10.3f}{shares}")
    out = args.out or _installed_weights()
    save(fit(rows), out, files=file_digests(args.data), counts=dict(Counter(e.source for e in examples)))
    print(f"weights written to {out}", file=sys.stderr)
    return 0


def _installed_weights() -> Path:
    spec = find_spec("detectors")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package detectors is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / _WEIGHTS

"""``rass detector answers``: the table of answer-harm baselines on labelled answers.

Exit codes: 0 done, 2 for data that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector answers``; imports nothing heavy."""
    parser.add_argument("--data", type=Path, required=True, help="the shared data's folder (responses/)")
    parser.add_argument("--model", type=Path, help="folder of an ONNX answer-harm detector to score beside them")


def run(args: argparse.Namespace) -> int:
    """Score the baselines, and a detector where one is named, and print the table; returns the exit code."""
    from detectors.onnx_manifest import read_detector
    from detectors.onnx_session import ModelFileError
    from rass.detector_training.boundary_answers import (
        DO_NOT_ANSWER,
        XSTEST,
        answer_table,
        ngram_scores,
        read_answers,
        refusal_scores,
        score,
    )
    from rass.detector_training.boundary_train import folder_logits
    from rass.errors import InputError

    try:
        examples = read_answers(args.data)
        scorers = {"not a refusal": refusal_scores(examples), "n-grams of do-not-answer": ngram_scores(examples)}
        if args.model is not None:
            texts = [example.answer for example in examples]
            scorers[args.model.name] = folder_logits(args.model, read_detector(args.model), texts)
    except (InputError, ModelFileError) as error:
        print(f"rass detector: {error}", file=sys.stderr)
        return 2
    print(
        answer_table(
            [
                score(name, source, examples, scores)
                for name, scores in scorers.items()
                for source in (XSTEST, DO_NOT_ANSWER)
            ]
        )
    )
    return 0

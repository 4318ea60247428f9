"""``rass detector export MODEL``: any sequence-classification guard model as an ONNX detector.

Exit codes: 0 done, 2 for a model that cannot be converted or prompts that cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass detector export``; imports nothing heavy."""
    parser.add_argument("model", metavar="MODEL", help="folder or hub id of a sequence-classification model")
    parser.add_argument("--out", type=Path, required=True, help="folder to write detector.json, model and tokenizer to")
    parser.add_argument("--kind", choices=["boundary", "answer_harm"], default="boundary", help="what it judges")
    parser.add_argument("--harmful", nargs="+", required=True, metavar="CLASS", help="its classes that mean harm")
    parser.add_argument("--form", choices=["softmax", "sigmoid", "logit"], help="default: what the model says")
    parser.add_argument("--license", default="unknown", help="the model's license, for detector.json")
    parser.add_argument("--max-tokens", type=int, help="length of a window (default: what the model takes, up to 512)")
    parser.add_argument("--float32", action="store_true", help="keep float32 weights instead of int8")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="JSONL",
        help='labelled texts {"text", "harmful", "language"} that scale and thresholds are fitted on',
    )


def run(args: argparse.Namespace) -> int:
    """Convert, calibrate where texts are given, and write the folder; returns the exit code."""
    from detectors.onnx_manifest import DetectorKind, OutputForm
    from rass.detector_training.boundary_data import read_labelled
    from rass.detector_training.boundary_train import calibrate, finish, folder_logits
    from rass.detector_training.onnx_export import export_classifier
    from rass.errors import InputError

    try:
        examples = read_labelled(args.calibrate) if args.calibrate else []
        manifest = export_classifier(
            args.model,
            args.out,
            kind=DetectorKind(args.kind),
            harmful=args.harmful,
            license=args.license,
            form=OutputForm(args.form) if args.form else None,
            int8=not args.float32,
            max_tokens=args.max_tokens,
        )
        if examples:
            scores = folder_logits(args.out, manifest, [example.text for example in examples])
            finish(args.out, calibrate(examples, scores), {"calibrated_on": {"texts": len(examples)}})
    except (InputError, ValueError) as error:
        print(f"rass detector: {error}", file=sys.stderr)
        return 2
    if not examples:
        print("without --calibrate nothing is called benign: every text lies in the band", file=sys.stderr)
    print(f"written to {args.out}", file=sys.stderr)
    return 0

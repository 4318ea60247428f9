"""Shows what decided a refusal verdict: the cues that were found, where, and what each feature adds to the logit.

Reads one answer as plain text from standard input, or from --text.
"""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ["add_arguments", "run"]

_WORDS = 20  # shown in the table; JSON has them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass-detect explain``; imports nothing heavy."""
    parser.add_argument("--text", help="the answer (default: all of standard input)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the explanation; always returns 0."""
    from detectors.refusal import TextRefusalDetector

    text = args.text if args.text is not None else sys.stdin.buffer.read().decode("utf-8", errors="replace")
    explanation = TextRefusalDetector().explain(text)
    verdict = explanation.verdict
    if args.json:
        report = {
            "kind": verdict.kind.value,
            "refusal_score": round(verdict.score, 4),
            "reason": verdict.reason,
            "cues": [
                {"class": cue.name, "words": cue.phrase.strip(), "sentence": cue.sentence} for cue in explanation.cues
            ],
            "words": [{"word": word, "logit": round(part, 3)} for word, part in explanation.words],
            "features": [{"feature": name, "logit": round(part, 3)} for name, part in explanation.parts],
        }
        print(json.dumps(report))
        return 0
    # The answer's own words are printed: a terminal that lacks a letter must not stop the table.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(f"{verdict.kind.value}  score {verdict.score:.3f}  ({verdict.reason})\n")
    for index, sentence in enumerate(explanation.sentences):
        print(f"{index + 1:>3}  {sentence}")
        for cue in explanation.cues:
            if cue.sentence == index:
                print(f"       {cue.name:<10} {cue.phrase.strip()}")
    print("\n  logit  feature")
    for name, part in explanation.parts:
        print(f"{part:>+7.2f}  {name}")
    print("\n  logit  English word, or letters in another language")
    for word, part in explanation.words[:_WORDS]:
        print(f"{part:>+7.2f}  {word!r}")
    return 0

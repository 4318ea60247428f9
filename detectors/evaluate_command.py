"""Scores the refusal detector on labelled answers that it was not trained on, beside two baselines.

Each source is judged by weights fitted without it; XSTest by the shipped weights. Baselines: a list of English phrases,
and logistic regression on character n-grams (counts measured when the detector was trained, each source left out).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.refusal_evaluation import Counts, Judged

__all__ = ["add_arguments", "run"]

_HEAD = 260  # characters of an answer shown among the confusions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rass-detect evaluate``; imports nothing heavy."""
    parser.add_argument("--data", type=Path, help="folder of labelled answers (default: the variable RASS_DATA)")
    parser.add_argument("--only", metavar="TEXT", help="only files whose name holds TEXT")
    parser.add_argument(
        "--confusions", type=int, default=3, metavar="N", help="shown of each kind and file (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the evaluation; returns 0, or 2 when the data is missing or not as described."""
    from detectors.labelled_answers import FILES, DataError, data_folder
    from detectors.refusal_evaluation import detector_for, judge_file, load_baseline

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    report: list[dict[str, object]] = []
    judged: list[Judged] = []
    try:
        folder = data_folder(args.data)
        baseline = load_baseline()
        for file in FILES:
            if not (folder / file).is_file() or (args.only and args.only not in file):
                continue
            detector, fitted = detector_for(file)
            rows = judge_file(folder / file, detector)
            judged += rows
            report.append(_file_report(file, fitted, rows, baseline))
            if not args.json:
                _print_file(report[-1], rows, args.confusions)
    except DataError as error:
        print(f"rass-detect evaluate: {error}", file=sys.stderr)
        return 2
    if not report:
        print(f"rass-detect evaluate: no file holds {args.only!r} in its name", file=sys.stderr)
        return 2
    _print_end(report, judged, args.json)
    return 0


def _file_report(
    file: str, fitted: str, rows: Sequence[Judged], baseline: dict[tuple[str, str, str], Counts]
) -> dict[str, object]:
    from detectors.refusal_evaluation import STREAM_LIMIT, count, groups

    table = []
    labelled = groups(rows)
    for (language, model), part in labelled.items():
        table.append(_line(language, model, part, baseline.get((file, language, model))))
    if len(labelled) > 1:
        every = [row for part in labelled.values() for row in part]
        numbers = [
            baseline[file, language, model] for language, model in labelled if (file, language, model) in baseline
        ]
        summed = None
        if len(numbers) == len(labelled):
            sums = [sum(getattr(one, name) for one in numbers) for name in ("tp", "fp", "fn", "tn")]
            summed = type(numbers[0])(*sums)
        table.append(_line("all", "all", every, summed))
    disputed = [row for row in rows if row.answer.refusal is None]
    kinds = {kind: sum(row.verdict.kind.value == kind for row in disputed) for kind in ("full", "partial", "answer")}
    early = sum(_decided_by_limit(row, STREAM_LIMIT) for row in rows)
    agreeing = sum(row.streamed.refused == row.verdict.refused for row in rows)
    whole = count((row.verdict.refused, row.streamed.refused) for row in rows)
    return {
        "file": file,
        "judged_by": fitted,
        "groups": table,
        "disputed_labels_called": kinds,
        "called_partial": sum(row.verdict.kind.value == "partial" for row in rows),
        "stream": {
            "answers": len(rows),
            "decided_within_160": early / len(rows),
            "agreeing": agreeing / len(rows),
            "refused_early_only": whole.fp,
            "refused_whole_only": whole.fn,
        },
    }


def _decided_by_limit(row: Judged, limit: int) -> bool:
    # An answer that ends within the limit is decided by its end.
    return (row.decided if row.decided is not None else len(row.answer.response)) <= limit


def _line(language: str, model: str, rows: Sequence[Judged], ngrams: Counts | None) -> dict[str, object]:
    from detectors.refusal_evaluation import clustered_accuracy, count

    counts = count((row.answer.refusal is True, row.verdict.refused) for row in rows)
    phrases = count((row.answer.refusal is True, row.phrase) for row in rows)
    interval = clustered_accuracy(rows)
    return {
        "language": language,
        "model": model,
        "answers": counts.total,
        "refusals": counts.tp + counts.fn,
        "missed": counts.fn,
        "false_alarms": counts.fp,
        "accuracy": counts.accuracy,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "balanced_accuracy": counts.balanced_accuracy,
        "macro_f1": counts.macro_f1,
        "phrase_list_accuracy": phrases.accuracy,
        "phrase_list_macro_f1": phrases.macro_f1,
        "ngram_accuracy": ngrams.accuracy if ngrams is not None else None,
        "ngram_macro_f1": ngrams.macro_f1 if ngrams is not None else None,
    }


def _print_file(report: dict[str, object], rows: Sequence[Judged], confusions: int) -> None:
    print(f"\n{report['file']}  ({report['judged_by']})")
    print(
        f"{'lang':<5}{'model':<38}{'n':>6}{'ref':>6}{'miss':>6}{'false':>6}  {'accuracy (95 %)':<21}"
        f"{'macroF1':>9}{'balanced':>9}{'phrases':>9}{'n-grams':>9}"
    )
    lines = report["groups"]
    assert isinstance(lines, list)
    for line in lines:
        spread = f"{line['accuracy']:.3f} [{line['accuracy_low']:.3f}, {line['accuracy_high']:.3f}]"
        numbers = "".join(f"{line[name]:>6}" for name in ("answers", "refusals", "missed", "false_alarms"))
        rates = [line[name] for name in ("macro_f1", "balanced_accuracy", "phrase_list_accuracy", "ngram_accuracy")]
        shares = "".join(f"{_number(rate):>9}" for rate in rates)
        print(f"{line['language']:<5}{line['model'][:37]:<38}{numbers}  {spread:<21}{shares}")
    called = f"called partial in all: {report['called_partial']}"
    print(f"labels partial or mixed, called: {report['disputed_labels_called']}; {called}")
    for refusal, name in ((True, "missed"), (False, "false alarm")):
        wrong = [row for row in rows if row.answer.refusal is refusal and row.verdict.refused is not refusal]
        # The surest mistakes say most.
        wrong.sort(key=lambda row: row.verdict.score if refusal else -row.verdict.score)
        for row in wrong[:confusions]:
            head = " ".join(row.answer.response.split())[:_HEAD]
            print(f"  {name} {row.verdict.score:.2f} {row.answer.identifier}: {head}")


def _print_end(report: Sequence[dict[str, object]], judged: Sequence[Judged], as_json: bool) -> None:
    from detectors.refusal_evaluation import reliability

    bins = reliability(judged)
    if as_json:
        rows = [{"score": score, "refusals": share, "answers": number} for score, share, number in bins]
        print(json.dumps({"files": report, "reliability": rows}))
        return
    _print_streams(report)
    print("\nreliability, all files: mean score, share of refusals, answers")
    for score, share, number in bins:
        bar = "".join(
            "+" if place == round(score * 40) else "#" if place < round(share * 40) else "." for place in range(41)
        )
        print(f"  {score:.2f}  {share:.2f} {number:>6}  {bar}")
    print("  (# share of refusals, + where it should end)")


def _print_streams(report: Sequence[dict[str, object]]) -> None:
    print("\nstreams: decided within 160 characters, agreeing with the verdict on the whole")
    print(f"{'file':<52}{'answers':>8}{'decided':>9}{'agreeing':>10}{'refused only early':>20}{'only whole':>12}")
    streams = [(part["file"], part["stream"]) for part in report]
    total = 0
    sums = {"decided_within_160": 0.0, "agreeing": 0.0, "refused_early_only": 0.0, "refused_whole_only": 0.0}
    for file, stream in streams:
        assert isinstance(stream, dict)
        number = stream["answers"]
        total += number
        for name in sums:
            sums[name] += stream[name] * (number if isinstance(stream[name], float) else 1)
        print(
            f"{file:<52}{number:>8}{stream['decided_within_160']:>9.3f}{stream['agreeing']:>10.3f}"
            f"{stream['refused_early_only']:>20}{stream['refused_whole_only']:>12}"
        )
    if len(streams) > 1:
        print(
            f"{'all':<52}{total:>8}{sums['decided_within_160'] / total:>9.3f}{sums['agreeing'] / total:>10.3f}"
            f"{sums['refused_early_only']:>20.0f}{sums['refused_whole_only']:>12.0f}"
        )


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"

"""`rass-bench quality`: asks every target the same requests, scores the answers and compares the targets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Kind, load_cases, resolve_prompts, sample_cases
from benchmarks.errors import BenchmarkError, InputError, TargetError
from benchmarks.paired import Comparison, compare, pair_rows
from benchmarks.progress import progress
from benchmarks.rates import ScoredRow, TargetReport, report_on
from benchmarks.scoring import Grammar, load_grammar
from benchmarks.targets import Answer, Client, Limits, Target, in_parallel

__all__ = ["QualityOptions", "QualityReport", "measure", "write_transcripts"]


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """What to measure, on what, and how."""

    targets: tuple[Target, ...]
    prompts: str
    grammar: Path | None
    model: str | None
    per_cell: int | None
    seed: int
    max_tokens: int
    limits: Limits
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Reports by target, and each further target compared with the first."""

    prompts: Mapping[str, Any]
    rows: Mapping[str, Sequence[ScoredRow]]
    targets: Mapping[str, TargetReport]
    paired: Mapping[str, Comparison]
    against: str

    @property
    def failed(self) -> int:
        """Requests that got no answer, over all targets."""
        return sum(report.failed for report in self.targets.values())

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it; transcripts are no part of it."""
        return {
            "schema_version": 1,
            "prompts": self.prompts,
            "targets": {name: report.to_json() for name, report in self.targets.items()},
            "paired": {
                name: {"against": self.against, **comparison.to_json()} for name, comparison in self.paired.items()
            },
        }


async def measure(options: QualityOptions) -> QualityReport:
    """Ask all targets, one after the other, and return the report.

    The targets share a machine more often than not, so they are not asked at the same time. Raises InputError for
    prompts or targets that cannot be used and TargetError when a target cannot be reached at all.
    """
    names = [target.name for target in options.targets]
    if len(set(names)) != len(names):
        raise InputError(f"--target: a name is used twice in {', '.join(names)}; names tell the reports apart")
    found = resolve_prompts(options.prompts, options.grammar)
    cases = sample_cases(load_cases(found.rows), options.per_cell, options.seed)
    grammar = load_grammar(found.grammar)
    missing = {case.language for case in cases} - set(grammar.languages)
    if missing:
        raise InputError(f"{found.grammar} has no grammar for {', '.join(sorted(missing))}, which {found.rows} uses")
    rows = {target.name: await _ask(target, cases, grammar, options) for target in options.targets}
    first = names[0]
    return QualityReport(
        prompts={
            "name": options.prompts,
            "rows": len(cases),
            "base_requests": {kind.value: len({case.base_id for case in cases if case.kind is kind}) for kind in Kind},
            "limit_per_cell": options.per_cell,
            "seed": options.seed,
        },
        rows=rows,
        targets={name: report_on(scored) for name, scored in rows.items()},
        paired={name: compare(pair_rows(rows[first], rows[name])) for name in names[1:]},
        against=first,
    )


def write_transcripts(report: QualityReport, path: Path) -> None:
    """Write every request with every target's answer and outcome, one JSON object a line, for people to read.

    Raises BenchmarkError where the file cannot be written, or not whole.
    """
    by_target = [{row.case.id: row for row in rows} for rows in report.rows.values()]
    try:
        # Half of a surrogate pair, which an answer may hold, becomes its escape, which is what JSON has for it.
        with path.open("w", encoding="utf-8", errors="backslashreplace") as lines:
            for case_id, row in by_target[0].items():
                answers = {name: _transcript(rows[case_id]) for name, rows in zip(report.rows, by_target, strict=True)}
                lines.write(json.dumps({**asdict(row.case), "answers": answers}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise BenchmarkError(f"the transcripts in {path} are not whole: {error.strerror}") from error


async def _ask(target: Target, cases: Sequence[Case], grammar: Grammar, options: QualityOptions) -> list[ScoredRow]:
    # Greedy decoding: two targets that do the same must answer the same.
    sampling = {"temperature": 0, "max_tokens": options.max_tokens}
    async with Client.open(target, options.limits, options.headers) as client:
        model = options.model if options.model is not None else await client.model()
        with progress(target.name, len(cases)) as advance:
            answers: list[Answer] = await in_parallel(
                cases,
                lambda case: client.complete(model, case.messages, sampling),
                options.limits.concurrency,
                advance,
            )
    if all(answer.text is None for answer in answers):
        raise TargetError(f"target {target.name!r} answered none of {len(answers)} requests: {answers[0].error}")
    return [
        ScoredRow(case, answer, grammar.outcome(case, answer.text)) for case, answer in zip(cases, answers, strict=True)
    ]


def _transcript(row: ScoredRow) -> dict[str, Any]:
    return {"text": row.answer.text, "error": row.answer.error, "outcome": row.outcome, **row.answer.headers}


def run(options: QualityOptions) -> QualityReport:
    """Measure from synchronous code."""
    return asyncio.run(measure(options))

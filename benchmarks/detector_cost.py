"""`rass-bench detectors`: what a verdict costs on one core, beside a plain phrase list, and what it holds in memory.

Everything runs in this process on one core, one item after the other, so the figures are those of a verdict alone.
Seconds differ between machines; the ratio to the phrase list, taken in the same run on the same texts, does not much.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import psutil
from tokenizers import Tokenizer

from benchmarks.cases import load_cases, resolve_prompts
from benchmarks.errors import InputError
from benchmarks.progress import progress
from benchmarks.recordings import load_recordings
from benchmarks.scoring import load_grammar

__all__ = ["BOUNDARY_TOKENS", "Cost", "CostOptions", "CostReport", "measure", "texts_of_tokens"]

PHRASES = re.compile(
    r"i'?m sorry|i am sorry|i apologi[sz]e|i can(?:no|')?t|i am unable|i'm unable|i won't|i will not|as an ai|"
    r"i'm not able|i am not able|unfortunately|not appropriate|against my",
    re.IGNORECASE,
)
"""A list of English phrases, as benchmarks of jailbreaks use: the cheapest detector there is, and no good one."""

BATCH = 32
BOUNDARY_TOKENS = 64  # of the detector's own tokenizer, its special tokens included
_MOST_CHARACTERS = 16  # of one token
_WARM_UP = 50
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class CostOptions:
    """What to measure on.

    ``responses`` are recorded answers (without them the shipped prompts stand in for answers); ``boundary`` is the
    folder of an ONNX boundary detector, or ``None`` to leave it out; ``texts`` bounds how many texts are timed.
    """

    responses: Path | None
    boundary: Path | None
    texts: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds for one text: median, 95th and 99th percentile over ``texts`` texts."""

    texts: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs by what was measured, the refusal verdict's ratio to the phrase list, and resident memory by detector."""

    costs: dict[str, Cost]
    refusal_to_phrases: float
    rss_mb: dict[str, float]
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "schema_version": 1,
            "cores": 1,
            "threads": self.threads,
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "refusal_to_phrases": self.refusal_to_phrases,
            "rss_mb": self.rss_mb,
        }


def measure(options: CostOptions) -> CostReport:
    """Measure on one core; raises InputError for files that cannot be used."""
    answers = _answers(options)
    with _one_core():
        costs: dict[str, Cost] = {}
        before = _rss_mb()
        from detectors.refusal import TextRefusalDetector

        detector = TextRefusalDetector()
        rss = {"refusal": _rss_mb() - before}
        costs["phrase list"] = _timed("phrase list", answers, PHRASES.search)
        costs["refusal"] = _timed("refusal", answers, detector.judge)
        costs["refusal, streamed"] = _timed("refusal, streamed", answers, lambda text: _streamed(detector, text))
        if options.boundary is not None:
            boundary, rss["boundary"] = _boundary(options.boundary, options.texts)
            costs.update(boundary)
    ratio = costs["refusal"].p50_ms / max(costs["phrase list"].p50_ms, 1e-6)
    return CostReport(costs, ratio, rss, threads=1)


def _answers(options: CostOptions) -> list[str]:
    if options.responses is not None:
        texts = [row.response for row in load_recordings(options.responses)]
    else:
        found = resolve_prompts("reference:report", None)
        grammar = load_grammar(found.grammar)
        refusals = [text for language in grammar.languages.values() for text in language.refusals]
        turns = [case.messages[-1].content for case in load_cases(found.rows)]
        # Ordinary answers are some hundred characters long: three to twelve sentences.
        texts = refusals + [" ".join(turns[start : start + 3 + start % 10]) for start in range(0, len(turns) - 12, 12)]
    if not texts:
        raise InputError("there are no texts to time; give --responses a file with answers")
    step = max(1, len(texts) // options.texts)
    return texts[::step][: options.texts]


def _timed(label: str, texts: Sequence[str], judge: Callable[[str], object]) -> Cost:
    for text in texts[:_WARM_UP]:
        judge(text)
    spent: list[int] = []
    gc.collect()
    with progress(label, len(texts)) as advance:
        for text in texts:
            began = perf_counter_ns()
            judge(text)
            spent.append(perf_counter_ns() - began)
            advance()
    return _cost(spent)


def _streamed(detector: Any, text: str) -> object:
    stream = detector.stream()
    for start in range(0, len(text), 4):  # a token is about four characters
        if stream.feed(text[start : start + 4]) is not None:
            break
    return stream.finish()


def _boundary(folder: Path, count: int) -> tuple[dict[str, Cost], float]:
    from detectors.onnx_classifier import OnnxClassifier
    from detectors.onnx_manifest import TOKENIZER_NAME, DetectorKind
    from detectors.onnx_session import ModelFileError
    from detectors.runtime import RuntimeSettings

    before = _rss_mb()
    try:
        settings = RuntimeSettings(threads=1, workers=1, max_batch=BATCH, device="cpu")
        classifier = OnnxClassifier.open(folder, DetectorKind.BOUNDARY, settings)
    except ModelFileError as error:
        raise InputError(f"--boundary: {error}") from error
    texts = texts_of_tokens(folder / TOKENIZER_NAME, max(BATCH, count // 4))

    async def alone() -> Cost:
        spent: list[int] = []
        for text in texts[:5]:
            await classifier.logits([text], timeout_s=_TIMEOUT_S)
        with progress("boundary", len(texts)) as advance:
            for text in texts:
                began = perf_counter_ns()
                await classifier.logits([text], timeout_s=_TIMEOUT_S)
                spent.append(perf_counter_ns() - began)
                advance()
        return _cost(spent)

    async def batched() -> Cost:
        spent: list[int] = []
        for start in range(0, len(texts) - BATCH + 1, BATCH):
            began = perf_counter_ns()
            await classifier.logits(texts[start : start + BATCH], timeout_s=_TIMEOUT_S)
            spent.append((perf_counter_ns() - began) // BATCH)
        return _cost(spent)

    with classifier:
        costs = {"boundary": asyncio.run(alone()), f"boundary, a text in batches of {BATCH}": asyncio.run(batched())}
        return costs, _rss_mb() - before


def texts_of_tokens(tokenizer_file: Path, count: int) -> list[str]:
    """Return the shipped prompts, one after the other, cut into texts of `BOUNDARY_TOKENS` tokens."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rest = " ".join(case.messages[-1].content for case in load_cases(resolve_prompts("reference:report", None).rows))
    inner = BOUNDARY_TOKENS - tokenizer.num_special_tokens_to_add(is_pair=False)
    texts: list[str] = []
    while rest and len(texts) < count:
        # So many characters hold more tokens than fit; all of the rest at once would take a minute.
        found = tokenizer.encode(rest[: BOUNDARY_TOKENS * _MOST_CHARACTERS], add_special_tokens=False)
        end = found.offsets[min(inner, len(found)) - 1][1]
        texts.append(rest[:end])
        rest = rest[end:].lstrip()
    return texts


def _cost(spent_ns: Sequence[int]) -> Cost:
    p50, p95, p99 = np.percentile(np.array(spent_ns) / 1e6, [50, 95, 99])
    return Cost(len(spent_ns), float(p50), float(p95), float(p99))


def _rss_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process on one core where the platform can; threads started inside inherit it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

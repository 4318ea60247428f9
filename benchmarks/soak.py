"""`rass-bench soak`: thousands of requests through the real proxy, each of whose answers is held against its request.

Every round does the same: a wave of streams that are all open at once, then a mix of whole answers, streams and clients
that vanish, some refused and recovered, some refused for good. An answer carries the marker of its request, so that a
lost, cut or exchanged one is seen. Rounds are alike, so memory after the first one has no reason to grow.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.errors import TargetError
from benchmarks.launch import free_port, proxy_command, running_process
from benchmarks.load import running_upstream
from benchmarks.process_cost import tree_rss_mb
from benchmarks.progress import progress
from benchmarks.replay import metric_sum
from benchmarks.scripted_upstream import Fate, answer_to, prompt_for, refusal_to
from benchmarks.targets import in_parallel

__all__ = ["Ask", "SoakOptions", "SoakReport", "Way", "judge", "plan", "problems_of", "run"]

_HOST = "127.0.0.1"
_SETTLE_LIMIT_S = 30.0
_POLL_S = 0.1
_OPEN_FILES = 8192
_TOLD = 5
_OPEN_SHARE = 0.9


class Way(StrEnum):
    """How a client takes its answer."""

    WHOLE = "whole"
    STREAM = "stream"
    VANISH_EARLY = "vanish-early"
    """Leaves before the answer begins, or soon after."""
    VANISH_LATE = "vanish-late"
    """Leaves in the middle of a stream."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    marker: str
    fate: Fate
    way: Way


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """How much, and what is too much: ``max_growth_mb`` is how far memory may grow after the first round."""

    bundle: Path
    mode: str
    requests: int
    streams: int
    rounds: int
    concurrency: int
    timeout_s: float
    max_growth_mb: float
    seed: int


@dataclass(slots=True)
class SoakReport:
    """What came back, by way and outcome; memory after each round; and, in sentences, everything that was wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    rss_mb: list[float] = field(default_factory=list)
    most_open: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "schema_version": 1,
            "counts": dict(sorted(self.counts.items())),
            "rss_mb": [round(size, 1) for size in self.rss_mb],
            "most_open": self.most_open,
            "seconds": round(self.seconds, 1),
            "problems": self.problems,
        }


def run(options: SoakOptions) -> SoakReport:
    """Run it; raises InputError or TargetError where it cannot begin."""
    with _many_files():
        return asyncio.run(_run(options))


def plan(options: SoakOptions) -> list[tuple[list[Ask], list[Ask]]]:
    """Return the wave and the mix of each round; markers are unique, and the rounds differ in nothing else.

    Of ten asks eight are answered, one is over-refused and one warranted; of twenty clients twelve want the whole
    answer, five a stream, three leave.
    """
    each = max(1, options.requests // options.rounds - options.streams)
    fates = [Fate.ANSWERED] * 8 + [Fate.OVER_REFUSED, Fate.WARRANTED]
    ways = [Way.WHOLE] * 12 + [Way.STREAM] * 5 + [Way.VANISH_EARLY, Way.VANISH_LATE, Way.VANISH_LATE]
    rounds: list[tuple[list[Ask], list[Ask]]] = []
    for number in range(options.rounds):
        drawn = random.Random(options.seed)
        wave = [Ask(f"r{number}s{n}", fates[n % len(fates)], Way.STREAM) for n in range(options.streams)]
        mix = [Ask(f"r{number}m{n}", drawn.choice(fates), drawn.choice(ways)) for n in range(each)]
        rounds.append((wave, mix))
    return rounds


def judge(ask: Ask, mode: str, text: str) -> str | None:
    """Return what came of an ask ("answered", "refused", "recovered"), or None where the text is not its own answer."""
    answer, refusal = answer_to(ask.marker), refusal_to(ask.marker)
    if ask.fate is Fate.ANSWERED:
        return "answered" if text == answer else None
    if text == refusal:
        return "refused"
    recovered = ask.fate is Fate.OVER_REFUSED and mode == "recover" and text == answer
    return "recovered" if recovered else None


async def _run(options: SoakOptions) -> SoakReport:
    report = SoakReport()
    loop = asyncio.get_running_loop()
    port = free_port(_HOST)
    url = f"http://{_HOST}:{port}"
    arguments = ["--mode", options.mode, "--set", "log_level=warning"]
    arguments += ["--set", f"upstream.connections={options.streams + options.concurrency}"]
    if options.mode == "recover":
        arguments += ["--bundle", str(options.bundle)]
    async with running_upstream(options.bundle, interval_ms=5.0) as upstream:
        command = proxy_command(upstream.url, _HOST, port, arguments)
        async with running_process("the proxy", command, f"{url}/readyz") as pid:
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=options.timeout_s)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                clients = _Clients(session, url, upstream.model, options.mode, report)
                started = loop.time()
                rounds = plan(options)
                with progress("soak", sum(len(wave) + len(mix) for wave, mix in rounds)) as advance:
                    for wave, mix in rounds:
                        await in_parallel(wave, clients.ask, len(wave), advance)
                        await in_parallel(mix, clients.ask, options.concurrency, advance)
                        report.problems += await _settled(session, url, upstream.url)
                        report.rss_mb.append(tree_rss_mb(pid))
                report.seconds = loop.time() - started
                counts = await _json(session, f"{upstream.url}/counts")
                report.most_open = counts["most_open"]
    report.problems += problems_of(options, report)
    return report


class _Clients:
    """Sends asks and writes into the report what came of them."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, mode: str, report: SoakReport) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._mode = mode
        self._report = report

    async def ask(self, ask: Ask) -> None:
        """Send one request and take its answer the way that the ask says."""
        try:
            match ask.way:
                case Way.WHOLE | Way.STREAM:
                    outcome = await self._taken(ask)
                case Way.VANISH_EARLY | Way.VANISH_LATE:
                    outcome = await self._left(ask)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            outcome = "lost"
            self._wrong(ask, f"{type(error).__name__}: {error}")
        self._report.counts[f"{ask.way}: {outcome}"] += 1

    async def _taken(self, ask: Ask) -> str:
        async with self._posted(ask) as response:
            body = await response.text()
            _check_status(response.status, body)
        text = _streamed(body) if ask.way is Way.STREAM else json.loads(body)["choices"][0]["message"]["content"]
        outcome = judge(ask, self._mode, text)
        if outcome is None:
            self._wrong(ask, f"got the answer {text[:120]!r}")
            return "wrong"
        return outcome

    async def _left(self, ask: Ask) -> str:
        """Leave: early ones after at most some milliseconds, late ones once bytes of the stream have come."""
        if ask.way is Way.VANISH_EARLY:
            with suppress(TimeoutError):  # leaving is the point
                async with asyncio.timeout(int(ask.marker.rpartition("m")[2]) % 20 / 1000):
                    async with self._posted(ask) as response:
                        _check_status(response.status, await response.text())
            return "left"
        async with self._posted(ask) as response:
            _check_status(response.status, (await response.content.readany()).decode(errors="replace"))
            response.close()
        return "left"

    def _posted(self, ask: Ask) -> Any:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt_for(ask.fate, ask.marker)}],
            "stream": ask.way is not Way.WHOLE,
        }
        return self._session.post(self._url, json=body)

    def _wrong(self, ask: Ask, why: str) -> None:
        if len(self._report.problems) < _TOLD:
            self._report.problems.append(f"{ask.way} {ask.fate} {ask.marker}: {why}")


def _check_status(status: int, body: str) -> None:
    if status != 200:
        raise ValueError(f"HTTP {status}: {body[:200]}")


def _streamed(body: str) -> str:
    """Return the text of a whole stream; raises ValueError for one that does not end as it should."""
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        raise ValueError(f"the stream has no end: …{body[-200:]}")
    chunks = [json.loads(event) for event in events[:-1]]
    if failed := next((chunk for chunk in chunks if "error" in chunk), None):
        raise ValueError(f"the stream failed: {failed['error']}")
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def _settled(session: aiohttp.ClientSession, url: str, upstream: str) -> Sequence[str]:
    """Wait until the proxy works on nothing and the upstream neither: what clients gave up must be given up.

    Raises TargetError where one of them does not answer any more.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLE_LIMIT_S
    while True:
        try:
            async with session.get(f"{url}/metrics") as response:
                busy = metric_sum(await response.text(), "rass_requests_in_flight")
            still_open = (await _json(session, f"{upstream}/counts"))["open"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TargetError(f"the proxy or its upstream answers no more, so the run is over: {error}") from error
        if not busy and not still_open:
            return ()
        if loop.time() > deadline:
            return [
                f"{_SETTLE_LIMIT_S:.0f} s after the last client left, the proxy still works on {busy:.0f} requests and "
                f"the upstream on {still_open}"
            ]
        await asyncio.sleep(_POLL_S)


def problems_of(options: SoakOptions, report: SoakReport) -> Iterator[str]:
    """Return, in sentences, what a whole run says against the proxy."""
    bad = {name: count for name, count in report.counts.items() if name.endswith((": lost", ": wrong"))}
    if bad:
        yield f"answers lost or wrong: {', '.join(f'{name} {count}' for name, count in sorted(bad.items()))}"
    if options.mode == "recover" and not any(name.endswith(": recovered") for name in report.counts):
        yield "nothing was recovered, so this run says nothing about recovery"
    if report.most_open < options.streams * _OPEN_SHARE:
        yield f"only {report.most_open} of {options.streams} streams were ever open at once"
    growth = report.rss_mb[-1] - report.rss_mb[0]
    if growth > options.max_growth_mb:
        sizes = ", ".join(f"{size:.0f}" for size in report.rss_mb)
        yield f"memory grew by {growth:.1f} MB after the first round ({sizes} MB); every round did the same work"


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as response:
        found: dict[str, Any] = await response.json()
        return found


@contextmanager
def _many_files() -> Iterator[None]:
    """Let this process and those that it starts hold a connection for each of many streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""`rass-bench load`: what a request costs at each proxy, taken side by side on one core in one run.

In every round each target is started afresh, in shuffled order, alone in front of the scripted upstream, warmed up and
put under each load. Seconds differ between machines; ratios to the bare relay, taken in the same round, do not much.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.errors import InputError, TargetError
from benchmarks.launch import clean_environment, free_port, running_process
from benchmarks.load_client import REQUEST_LIMIT_S, Order, Window
from benchmarks.load_report import LOADS, LoadReport, Visit, warnings_about
from benchmarks.load_targets import BARE, OURS, Peers, chosen_targets, target
from benchmarks.process_cost import tree_rss_mb
from benchmarks.progress import progress
from benchmarks.replay import metric_sum
from detectors.bundle import BundleError, load

__all__ = ["Cores", "LoadOptions", "Upstream", "divide_cores", "measure", "running_upstream"]

_HOST = "127.0.0.1"
_START_LIMIT_S = 180.0  # a peer that imports much, on one core


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What to measure and for how long.

    ``targets`` empty: ours and all peers that are there. ``seconds`` is the length of one window; ``warm_up`` counts
    requests; ``interval_ms`` is the pause between the events of the upstream's streams.
    """

    bundle: Path
    targets: tuple[str, ...] = ()
    peers: Peers = field(default_factory=Peers)
    rounds: int = 6
    seconds: float = 3.0
    warm_up: int = 200
    interval_ms: float = 5.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where; empty sets bind nobody."""

    target: frozenset[int]
    client: frozenset[int]
    upstream: frozenset[int]


def divide_cores() -> Cores:
    """Give the target a core of its own where there are two, and the generator and the upstream others."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    match usable:
        case [] | [_]:
            return Cores(frozenset(), frozenset(), frozenset())
        case [first, second]:
            return Cores(frozenset({second}), frozenset({first}), frozenset({first}))
        case [first, second, *_, last]:
            return Cores(frozenset({last}), frozenset({first}), frozenset({second}))
        case _:
            raise AssertionError(usable)


def measure(options: LoadOptions) -> LoadReport:
    """Measure; raises InputError for what cannot be measured and TargetError for a target that fails."""
    return asyncio.run(_measure(options))


@dataclass(frozen=True, slots=True)
class Upstream:
    """The running scripted upstream."""

    url: str
    pid: int
    model: str


@asynccontextmanager
async def running_upstream(
    bundle: Path, *, interval_ms: float, cores: frozenset[int] = frozenset()
) -> AsyncIterator[Upstream]:
    """Run the scripted upstream, as the model that ``bundle`` was measured on; raises InputError for a bad bundle."""
    try:
        model = load(bundle).manifest.model.id
    except BundleError as error:
        raise InputError(f"--bundle: {error}") from error
    port = free_port(_HOST)
    command = [sys.executable, "-P", "-m", "benchmarks.scripted_upstream", "--bundle", str(bundle)]
    command += ["--port", str(port), "--interval-ms", str(interval_ms)]
    url = f"http://{_HOST}:{port}"
    async with running_process("the scripted upstream", command, f"{url}/v1/models", cores=cores) as pid:
        yield Upstream(url, pid, model)


async def _measure(options: LoadOptions) -> LoadReport:
    names = chosen_targets(options.targets, options.peers)
    cores = divide_cores()
    shuffled = random.Random(options.seed)
    visits: list[Visit] = []
    async with running_upstream(options.bundle, interval_ms=options.interval_ms, cores=cores.upstream) as upstream:
        with progress("load", options.rounds * len(names) * len(LOADS)) as advance:
            for number in range(options.rounds):
                for name in shuffled.sample(names, len(names)):
                    visits.append(await _visit(name, number, options, upstream, cores, advance))
    return LoadReport(
        visits=visits,
        conditions={
            "rounds": options.rounds,
            "seconds": options.seconds,
            "warm_up": options.warm_up,
            "interval_ms": options.interval_ms,
            "seed": options.seed,
            "order": [visit.target for visit in visits],
            "cores": {
                "target": sorted(cores.target),
                "generator": sorted(cores.client),
                "upstream": sorted(cores.upstream),
            },
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        warnings=warnings_about(visits, shared_load_core=cores.client == cores.upstream, own_core=bool(cores.target)),
    )


async def _visit(
    name: str, number: int, options: LoadOptions, upstream: Upstream, cores: Cores, advance: Callable[[], None]
) -> Visit:
    """Start one target, put every load on it and stop it."""
    port = free_port(_HOST)
    with tempfile.TemporaryDirectory(prefix="rass-bench-") as folder:
        chosen = target(
            name,
            upstream=upstream.url,
            model=upstream.model,
            port=port,
            bundle=options.bundle,
            peers=options.peers,
            folder=Path(folder),
        )
        async with running_process(
            name,
            chosen.command,
            f"{chosen.url}{chosen.ready_path}",
            environment=chosen.environment,
            cores=cores.target,
            start_limit_s=_START_LIMIT_S,
        ) as pid:
            order = Order(
                url=chosen.url,
                model=upstream.model,
                headers=chosen.headers,
                target_pid=pid,
                upstream_pid=upstream.pid,
                target_core=next(iter(cores.target), None),
                loads=LOADS,
                seconds=options.seconds,
                warm_up=options.warm_up,
            )
            windows = await _driven(name, order, cores.client, advance)
            held = await _held_back_ms(chosen.url) if name in OURS and name != BARE else None
            return Visit(name, number, windows, tree_rss_mb(pid), held)


async def _driven(name: str, order: Order, cores: frozenset[int], advance: Callable[[], None]) -> dict[str, Window]:
    """Run the load generator over ``order`` and return its windows by load."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "benchmarks.load_client",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    windows: dict[str, Window] = {}
    try:
        if cores:
            os.sched_setaffinity(process.pid, cores)
        process.stdin.write(json.dumps(asdict(order)).encode())
        process.stdin.close()
        # A window is over after its seconds and one request; a request has a limit of its own.
        async with asyncio.timeout(len(order.loads) * (order.seconds + 2 * REQUEST_LIMIT_S) + _START_LIMIT_S):
            async for line in process.stdout:
                window = Window(**json.loads(line))
                windows[window.load] = window
                advance()
            said = (await process.stderr.read()).decode(errors="replace").strip()
            if await process.wait() != 0:
                raise TargetError(f"target {name!r}: the load generator failed: {said[-500:]}")
    except TimeoutError as error:
        raise TargetError(f"target {name!r}: the loads did not come to an end") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return windows


async def _held_back_ms(url: str) -> float | None:
    """Return for how long the proxy held the head of a stream back, in the mean, by its own count."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/metrics") as response:
        page = await response.text()
    count = metric_sum(page, "rass_hold_back_seconds_count")
    return 1000 * metric_sum(page, "rass_hold_back_seconds_sum") / count if count else None

"""Several worker processes behind one socket: started, watched, replaced within bounds, ended together.

A worker is a fork that serves exactly as a single process does. All accept from the same listening socket, so nothing
that waits in it is lost when one of them ends. `proxy.shared_figures` must have been entered before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from prometheus_client.multiprocess import mark_process_dead

from detectors import language
from proxy.errors import StartupError
from proxy.exchange import Mode
from proxy.metrics import Metrics
from proxy.server import ENDING_SIGNALS, ServerFailed, ending_on_signals, listen, run_loop, running_server, url_of
from proxy.settings import Settings
from proxy.settings_sources import SettingsSource

logger = logging.getLogger(__name__)

MOST_RESTARTS = 5
WITHIN_S = 60.0
"""More restarts than ``MOST_RESTARTS`` within this time end the proxy: what ends workers will end the next one too."""

_START_LIMIT_S = 60.0
_KILLED_AFTER_S = 5.0  # beyond drain_timeout_s, which workers keep by themselves
_POLL_S = 0.1
_ACCEPTING = b"\0"  # no message begins with it


def serve_with_workers(settings: Settings, source: SettingsSource) -> NoReturn:
    """Serve with ``settings.workers`` processes, each reloading from ``source``, until ``SystemExit`` by a signal.

    Raises ``StartupError`` where the first worker cannot start and ``ServerFailed`` where workers keep ending.
    """
    with ending_on_signals(), listen(settings.host, settings.port) as listener:
        _Workers(settings, source, listener).run()


class _Workers:
    """The parent's side: it serves nothing itself."""

    def __init__(self, settings: Settings, source: SettingsSource, listener: socket.socket) -> None:
        self._settings = settings
        self._source = source
        self._listener = listener
        self._metrics = Metrics()
        self._running: set[int] = set()
        self._restarts: deque[float] = deque()
        # Only the parent holds the writing end. However it ends, workers then read the end of the pipe, and drain.
        self._lifeline, self._held = os.pipe()

    def run(self) -> NoReturn:
        """Start all workers and replace those that end; whatever ends this, no worker is left behind."""
        signal.signal(signal.SIGHUP, self._pass_on)
        try:
            served = [self._settings, *(self._settings.of_route(route) for route in self._settings.routes)]
            if any(each.mode is not Mode.OFF for each in served):
                language.load()  # once, before the forks: they share its memory, and need not load it one by one
            for _ in range(self._settings.workers):
                self._start()
            logger.info(
                "listening on %s, %d workers, mode %s, upstream %s",
                url_of(self._listener),
                self._settings.workers,
                self._settings.mode,
                self._settings.upstream.url,
            )
            while True:
                for pid, how in self._ended():
                    self._replace(pid, how)
                time.sleep(_POLL_S)
        finally:
            try:
                self._drain()
            finally:
                self._kill()

    def _start(self) -> None:
        """Start a worker and return once it accepts requests; raises ``StartupError`` or ``ServerFailed``."""
        heard, said = os.pipe()
        with _signals_held_back():  # between the fork and the note of it, a signal would leave the worker behind
            pid = os.fork()
            if pid == 0:
                os.close(heard)
                self._be_worker(said)
            self._running.add(pid)
        os.close(said)
        try:
            if not select.select([heard], [], [], _START_LIMIT_S)[0]:
                os.kill(pid, signal.SIGKILL)
                raise ServerFailed(f"a worker did not accept requests within {_START_LIMIT_S:g} s")
            message = os.read(heard, 65_536)
        finally:
            os.close(heard)
        if not message:
            raise ServerFailed("a worker ended while it was starting; the log says why")
        if message != _ACCEPTING:
            raise StartupError(message.decode("utf-8", "replace"))

    def _be_worker(self, said: int) -> NoReturn:
        """Serve, in the forked process, and end it without running what the parent has to clean up."""
        code = 1
        try:
            os.close(self._held)
            signal.signal(
                signal.SIGHUP, signal.SIG_IGN
            )  # until the loop takes it: it must not end a worker that starts
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ENDING_SIGNALS, signal.SIGHUP))
            run_loop(self._work(said))
            code = 0
        except SystemExit:
            code = 0
        except StartupError as error:
            os.write(said, str(error).encode())
        except BaseException:
            logger.exception("a worker failed")
        finally:
            os._exit(code)

    async def _work(self, said: int) -> None:
        loop = asyncio.get_running_loop()
        async with running_server(self._settings, self._listener, self._source) as running:

            def parent_gone() -> None:
                loop.remove_reader(self._lifeline)
                running.stop()

            loop.add_reader(self._lifeline, parent_gone)
            os.write(said, _ACCEPTING)
            if self._restarts:
                signal.raise_signal(signal.SIGHUP)  # settings may have changed since the parent read them
            await running.ended()
            loop.remove_reader(self._lifeline)

    def _replace(self, pid: int, how: str) -> None:
        now = time.monotonic()
        self._restarts.append(now)
        while self._restarts[0] < now - WITHIN_S:
            self._restarts.popleft()
        if len(self._restarts) > MOST_RESTARTS:
            raise ServerFailed(f"{len(self._restarts)} workers ended within {WITHIN_S:g} s; the last one {how}")
        logger.warning("worker %d %s; starting another", pid, how)
        self._metrics.worker_restarts.inc()
        try:
            self._start()
        except (StartupError, ServerFailed) as error:
            # It has ended or will: the next look finds it and counts it.
            logger.error("the worker that should replace it failed: %s", error)

    def _ended(self) -> Iterator[tuple[int, str]]:
        """Yield each worker that has ended since the last look, with how it did."""
        for pid in sorted(self._running):
            with _signals_held_back():  # what a signal does to the running must not meet one that is gone
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self._running.discard(pid)
            if found:
                mark_process_dead(pid)  # type: ignore[no-untyped-call]  # its gauges no longer count, its counters do
                code = os.waitstatus_to_exitcode(status)
                yield pid, f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Give a signal to every worker: what it means to a single process, it means to each."""
        for pid in self._running:
            os.kill(pid, number)

    def _drain(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain_timeout_s + _KILLED_AFTER_S
        while self._running and time.monotonic() < deadline:
            for pid, how in self._ended():
                logger.info("worker %d %s", pid, how)
            time.sleep(_POLL_S)

    def _kill(self) -> None:
        """End what did not drain in time, or at once at the second signal."""
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(self._held)
        os.close(self._lifeline)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING_SIGNALS, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

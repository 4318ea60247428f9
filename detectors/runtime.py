"""Running ONNX text classifiers: one session, a bounded queue, deadlines, micro-batches.

A `TextRuntime` owns its session and its worker threads. Requests wait in a bounded queue; a free worker takes whatever
has gathered there, up to a batch, so that batches form under load and nobody waits for one otherwise. Tokenisation and
inference happen in the workers, never on the event loop. What is late is dropped before it costs anything.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from detectors.onnx_session import FloatArray, OnnxSession
from detectors.onnx_windows import Windower, Windows

__all__ = ["RuntimeBusy", "RuntimeClosed", "RuntimeSettings", "TextRuntime", "TextScores"]


class RuntimeBusy(Exception):
    """The queue is full: the caller treats it like a detector that is late."""


class RuntimeClosed(Exception):
    """The runtime was closed and runs nothing any more."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Bounds of a runtime.

    ``threads`` are the CPU threads of one inference, ``workers`` how many run at once: together at most
    ``threads * workers`` cores are busy. ``max_waiting`` texts may wait; ``max_batch`` windows run together.
    ``device`` is ``auto`` (CUDA when it becomes active), ``cpu`` or ``cuda`` (an error when it does not).
    """

    threads: int = 1
    workers: int = 1
    max_waiting: int = 256
    max_batch: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        if min(self.threads, self.workers, self.max_waiting, self.max_batch) < 1:
            raise ValueError("threads, workers, max_waiting and max_batch must be at least 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, found {self.device!r}")


@dataclass(frozen=True, slots=True)
class TextScores:
    """The raw outputs ``[windows, outputs]`` float32 for one text; ``complete`` unless some of it was left out."""

    outputs: FloatArray
    complete: bool


@dataclass(frozen=True, slots=True)
class _Job:
    text: str
    deadline: float
    result: Future[TextScores]


class TextRuntime:
    """One model with its tokenizer; may be used from any thread and any event loop, and as a context manager."""

    def __init__(self, model: Path, windower: Windower, settings: RuntimeSettings | None = None) -> None:
        """Load the model and start the workers; raises ``ModelFileError`` for a model that cannot be run."""
        self._settings = settings or RuntimeSettings()
        self._session = OnnxSession(model, threads=self._settings.threads, device=self._settings.device)
        self._windower = windower
        self._jobs: queue.Queue[_Job | None] = queue.Queue(self._settings.max_waiting)
        self._closed = threading.Event()
        self._workers = [
            threading.Thread(target=self._work, name=f"onnx-{index}", daemon=True)
            for index in range(self._settings.workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def provider(self) -> str:
        """The execution provider that is active, such as ``CPUExecutionProvider``."""
        return self._session.provider

    async def scores(self, texts: Sequence[str], *, timeout_s: float) -> list[TextScores]:
        """Return the outputs for each text, in order.

        Raises ``TimeoutError`` when they are not all there in time, ``RuntimeBusy`` when the queue is full and
        ``RuntimeClosed``. Any string is taken: empty, of any length, with lone surrogates.
        """
        deadline = time.monotonic() + timeout_s
        futures: list[Future[TextScores]] = []
        try:
            futures += [self._submit(text, deadline) for text in texts]
            async with asyncio.timeout(timeout_s):
                return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Stop the workers after what they are running; what still waits fails with ``RuntimeClosed``."""
        self._closed.set()
        self._fail_waiting()
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.join()
        self._fail_waiting()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, text: str, deadline: float) -> Future[TextScores]:
        if self._closed.is_set():
            raise RuntimeClosed("the runtime is closed")
        job = _Job(text, deadline, Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full as error:
            raise RuntimeBusy(f"{self._settings.max_waiting} texts are waiting already") from error
        return job.result

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, stop = self._gather(first)
            live = [job for job in jobs if self._wanted(job)]
            try:
                self._run(live)
            except Exception as error:  # whatever the model did, its callers must hear of it and the worker live on
                for job in live:
                    if not job.result.done():
                        job.result.set_exception(error)
            if stop:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """Return the first job with those that wait behind it, up to a batch, and whether the end was among them."""
        jobs = [first]
        while len(jobs) < self._settings.max_batch:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _wanted(self, job: _Job) -> bool:
        """Whether somebody still waits for the job; one that is late fails here, before it costs anything."""
        if not job.result.set_running_or_notify_cancel():
            return False
        if time.monotonic() > job.deadline:
            job.result.set_exception(TimeoutError("waited past its deadline"))
            return False
        return True

    def _run(self, jobs: Sequence[_Job]) -> None:
        """Run the jobs' windows in batches of similar length and hand each job its own rows."""
        prepared = [self._windower.windows(job.text) for job in jobs]
        rows = [(index, window) for index, one in enumerate(prepared) for window in one.ids]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row][1]))
        outputs: dict[int, FloatArray] = {}
        for start in range(0, len(order), self._settings.max_batch):
            part = order[start : start + self._settings.max_batch]
            found = self._session.run([rows[row][1] for row in part], pad_id=self._windower.pad_id)
            outputs |= {row: found[place] for place, row in enumerate(part)}
        self._deliver(jobs, prepared, outputs)

    def _deliver(self, jobs: Sequence[_Job], prepared: Sequence[Windows], outputs: dict[int, FloatArray]) -> None:
        row = 0
        for job, windows in zip(jobs, prepared, strict=True):
            mine = [outputs[row + offset] for offset in range(len(windows.ids))]
            row += len(mine)
            job.result.set_result(TextScores(self._session.stack(mine), windows.complete))

    def _fail_waiting(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None and job.result.set_running_or_notify_cancel():
                job.result.set_exception(RuntimeClosed("the runtime was closed"))

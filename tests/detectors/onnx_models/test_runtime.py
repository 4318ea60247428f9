"""Deadlines, bounds, batches and odd texts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.onnx_manifest import MODEL_NAME, TOKENIZER_NAME
from detectors.onnx_session import FloatArray, ModelFileError, OnnxSession
from detectors.onnx_windows import Windower
from detectors.runtime import RuntimeBusy, RuntimeClosed, RuntimeSettings, TextRuntime


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder_maker: object) -> Path:
    assert callable(tiny_folder_maker)
    made = tiny_folder_maker(tmp_path_factory.mktemp("tiny"))
    assert isinstance(made, Path)
    return made


def runtime_of(folder: Path, settings: RuntimeSettings | None = None) -> TextRuntime:
    return TextRuntime(folder / MODEL_NAME, Windower(folder / TOKENIZER_NAME, max_tokens=16), settings)


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[TextRuntime]:
    with runtime_of(folder) as made:
        yield made


class Gate:
    """Stands for the session's `run`: notes the batches and waits until it is opened."""

    def __init__(self, runtime: TextRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.batches: list[int] = []
        original = runtime._session.run

        def run(rows: Sequence[Sequence[int]], *, pad_id: int) -> FloatArray:
            self.batches.append(len(rows))
            self.entered.set()
            assert self.opened.wait(10)
            return original(rows, pad_id=pad_id)

        monkeypatch.setattr(runtime._session, "run", run)


async def test_order_and_batches_of_different_lengths(runtime: TextRuntime) -> None:
    texts = ["kill", "please please kill the process now", "", "bomb tea", "tea"] * 20
    found = await runtime.scores(texts, timeout_s=10)
    assert [float(one.outputs[0, 0]) for one in found] == [2.0, 0.0, 0.0, 1.0, -3.0] * 20


async def test_long_texts_are_read_at_head_and_tail(runtime: TextRuntime) -> None:
    found = await runtime.scores(
        ["word " * 50 + "bomb " + "word " * 20, "bomb" + " word" * 100_000 + " kill"], timeout_s=30
    )
    assert found[0].complete
    assert float(found[0].outputs.max()) == 4.0
    assert not found[1].complete
    assert (float(found[1].outputs[0, 0]), float(found[1].outputs[-1, 0])) == (4.0, 2.0)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_string(runtime: TextRuntime, text: str) -> None:
    [found] = asyncio.run(runtime.scores([text], timeout_s=10))
    assert np.isfinite(found.outputs).all()


async def test_texts_that_wait_are_run_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_of(folder) as runtime:
        gate = Gate(runtime, monkeypatch)
        first = asyncio.create_task(runtime.scores(["tea"], timeout_s=10))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        others = [asyncio.create_task(runtime.scores(["kill"], timeout_s=10)) for _ in range(40)]
        await asyncio.sleep(0)  # every task has its turn once, and puts its text into the queue in it
        assert runtime._jobs.qsize() == 40
        gate.opened.set()
        await asyncio.gather(first, *others)
    assert gate.batches == [1, 32, 8]


async def test_late_work_is_dropped_and_the_worker_lives_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_of(folder) as runtime:
        gate = Gate(runtime, monkeypatch)
        first = asyncio.create_task(runtime.scores(["tea"], timeout_s=10))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        with pytest.raises(TimeoutError):
            await runtime.scores(["bomb"], timeout_s=0.01)
        gate.opened.set()
        await first
        [found] = await runtime.scores(["kill"], timeout_s=10)
    assert float(found.outputs[0, 0]) == 2.0
    assert gate.batches == [1, 1]


async def test_a_full_queue_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_of(folder, RuntimeSettings(max_waiting=2)) as runtime:
        gate = Gate(runtime, monkeypatch)
        first = asyncio.create_task(runtime.scores(["tea"], timeout_s=10))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        with pytest.raises(RuntimeBusy):
            await runtime.scores(["a", "b", "c"], timeout_s=10)
        gate.opened.set()
        await first


async def test_a_failing_model_fails_its_callers_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_of(folder) as runtime:
        with monkeypatch.context() as patch:

            def broken(rows: object, *, pad_id: int) -> FloatArray:
                raise MemoryError("no memory")

            patch.setattr(runtime._session, "run", broken)
            with pytest.raises(MemoryError):
                await runtime.scores(["tea"], timeout_s=10)
        [found] = await runtime.scores(["tea"], timeout_s=10)
    assert float(found.outputs[0, 0]) == -3.0


async def test_closed(folder: Path) -> None:
    runtime = runtime_of(folder)
    runtime.close()
    with pytest.raises(RuntimeClosed):
        await runtime.scores(["tea"], timeout_s=1)


def test_cuda_counts_only_when_active(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    original = onnxruntime.InferenceSession
    asked: list[list[str]] = []

    def fallen_back(path: str, *, sess_options: object, providers: list[str]) -> object:
        asked.append(providers)
        return original(path, sess_options=sess_options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fallen_back)
    assert OnnxSession(folder / MODEL_NAME, threads=1, device="auto").provider == "CPUExecutionProvider"
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"]]
    with pytest.raises(ModelFileError, match="runs on CPUExecutionProvider"):
        OnnxSession(folder / MODEL_NAME, threads=1, device="cuda")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        OnnxSession(tmp_path / "model.onnx", threads=1, device="cpu")
    with pytest.raises(ModelFileError, match="no tokenizer"):
        Windower(tmp_path / "model.onnx", max_tokens=16)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"max_batch": 0}, {"device": "tpu"}])
def test_wrong_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RuntimeSettings(**wrong)

"""The served model as a child process: started, waited for, and gone on every way out."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STOP_LIMIT_S = 10.0
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ServedModelFailed(Exception):
    """The served model ended or did not become healthy; the message ends with what it printed last. Exit code 1."""


class ServedModel:
    """A running ``rass serve-model``."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self._process = process
        self.url = url
        self._log = log

    def wait_until_healthy(self, limit_s: float) -> None:
        """Return once ``/health`` answers 200; raises ``ServedModelFailed`` when it ends or ``limit_s`` passes."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            self.check_alive()
            if self._healthy():
                return
            time.sleep(_POLL_S)
        raise ServedModelFailed(
            f"the served model was not healthy at {self.url} within {limit_s:g} s{self._last_words()}"
        )

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def check_alive(self) -> None:
        """Raise ``ServedModelFailed`` if the process has ended."""
        code = self._process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise ServedModelFailed(f"the served model {how}{self._last_words()}")

    def stop(self) -> None:
        """End the process and all that it started: asked first, then killed."""
        if self.alive():
            _signal_group(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):  # it did not listen: it is killed below
                self._process.wait(_STOP_LIMIT_S)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False  # not listening yet, or a 503 while it loads: the caller polls within its limit

    def _last_words(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"; it printed last:\n{text[-2000:]}" if text else " and printed nothing"


@contextmanager
def running_model(host: str, port: int) -> Iterator[ServedModel]:
    """Start the reference model with the reference bundle; it is gone when the context is left, whatever happened."""
    # -P: a folder called rass in the working directory is not ours.
    command = [sys.executable, "-P", "-m", "rass.cli", "serve-model"]
    command += ["--model", "reference", "--bundle", "reference", "--host", host, "--port", str(port)]
    with tempfile.TemporaryDirectory(prefix="rass-proxy-") as folder:
        log = Path(folder) / "serve-model.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: Ctrl-C reaches the proxy first, which ends it in order
                preexec_fn=_end_with_parent(os.getpid()) if sys.platform == "linux" else None,
            )
        model = ServedModel(process, f"http://{host}:{port}", log)
        try:
            yield model
        finally:
            model.stop()


def _end_with_parent(parent: int) -> Callable[[], None]:
    """Return what makes a child end even when its parent is killed outright (Linux)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask_the_kernel


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of it may be gone already
        os.killpg(group, number)

"""Settings, keys and bundle read again while requests run: on SIGHUP, and when a watched file changes."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from proxy.configured import Configured, NotYet, configured
from proxy.current_app import CurrentApp
from proxy.dependencies import bundle_folder
from proxy.errors import StartupError
from proxy.settings import FIXED_WHILE_RUNNING, Settings
from proxy.settings_sources import SettingsSource, value_of

logger = logging.getLogger(__name__)

_RETRY_S = 30.0
Stamps: TypeAlias = Mapping[Path, tuple[int, int, int] | None]


class Reloader:
    """Exchanges the application inside of ``served`` for one of newer settings, or keeps it and says why.

    ``seen`` are the stamps of the watched files from before ``running`` was made of them, so that no change is missed.
    """

    def __init__(self, served: CurrentApp, running: Configured, source: SettingsSource, seen: Stamps) -> None:
        self._served = served
        self._running = running
        self._source = source
        self._seen = seen
        self._tried = running.settings
        self._asked = asyncio.Event()
        self._retry_at: float | None = None
        self._said = ""

    def ask(self) -> None:
        """Ask for a reload at the next opportunity."""
        self._asked.set()

    async def reload(self) -> bool:
        """Read everything again and return whether it is in use now. Whatever is wrong with it, the old stays."""
        self._retry_at = None
        try:
            settings = self._tried = self._source.load()
            _check_fixed(self._running.settings, settings)
            fresh = await configured(settings, self._running)
            try:
                await self._served.swap(fresh.app)
            except BaseException:
                await fresh.deps.close()
                raise
        except NotYet as error:
            self._retry_at = time.monotonic() + _RETRY_S
            self._kept(f"{error}; trying again every {_RETRY_S:g} s")
            return False
        except StartupError as error:
            self._kept(str(error))
            return False
        except Exception:
            # A fault of our own must not take down what serves.
            self._kept("reloading failed")
            logger.exception("reloading failed")
            return False
        former, self._running = self._running, fresh
        self._said = ""
        for watch in former.watches.values():
            await watch.stop()  # at once, and not when its last request has ended
        self._running.deps.metrics.reloads.labels("applied").inc()
        logger.info("settings reloaded: mode %s, upstream %s", settings.mode, settings.upstream.url)
        return True

    async def watch(self) -> None:
        """Reload whenever that is asked for or a watched file has changed, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._running.settings.reload.poll_s):
                    await self._asked.wait()
            except TimeoutError:
                pass  # the usual case: nobody asked, but files may have changed
            asked = self._asked.is_set()
            self._asked.clear()
            now = await asyncio.to_thread(self._stamps)
            due = self._retry_at is not None and time.monotonic() >= self._retry_at
            changed = now != self._seen and self._running.settings.reload.watch
            if not (asked or due or changed):
                continue
            await self.reload()
            # Files that only the new settings name are watched from here on; the others since before they were read.
            self._seen = {path: now.get(path, stamp) for path, stamp in (await asyncio.to_thread(self._stamps)).items()}

    def _kept(self, why: str) -> None:
        self._running.deps.metrics.reloads.labels("kept").inc()
        if why != self._said:  # a retry that fails as before has said so already
            logger.error("the old settings are kept: %s", why)
        self._said = why

    def _stamps(self) -> Stamps:
        return stamps(self._source, self._running.settings, self._tried)


def stamps(source: SettingsSource, *read: Settings) -> Stamps:
    """Return every file whose change may matter, with what changes when it does."""
    paths = [] if source.path is None else [source.path]
    for settings in read:
        paths += _files_of(settings)
    return {path: _stamp(path) for path in paths}


@asynccontextmanager
async def reloading(reloader: Reloader) -> AsyncIterator[None]:
    """Reload on SIGHUP and on changes of watched files while the context is entered."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reloader.ask)
    watching = asyncio.create_task(reloader.watch())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        watching.cancel()
        await asyncio.wait({watching})


def _check_fixed(running: Settings, wanted: Settings) -> None:
    for key in FIXED_WHILE_RUNNING:
        before, after = value_of(running, key), value_of(wanted, key)
        if before != after:
            raise StartupError(
                f"{key} cannot change while the proxy runs ({before} to {after}); restart it, or set {key} back"
            )


def _files_of(settings: Settings) -> Iterator[Path]:
    if settings.keys.file is not None:
        yield settings.keys.file
    folders = [settings.detectors.boundary_onnx, settings.detectors.answer_harm_onnx]
    with suppress(StartupError):  # loading the bundle said what is wrong with it
        folders.append(bundle_folder(settings))
    for folder in folders:
        if folder is not None:
            yield folder
            with suppress(OSError):  # it may be exchanged at this moment; what is there then is seen the next time
                yield from sorted(folder.iterdir())


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

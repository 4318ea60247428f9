"""Running the app: start-up checks, uvicorn on uvloop, and an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from proxy.configured import configured
from proxy.current_app import CurrentApp
from proxy.errors import StartupError
from proxy.heap import set_aside, settled_heap
from proxy.http_protocol import BoundedHttpProtocol
from proxy.log_format import formatter
from proxy.reload import Reloader, reloading, stamps
from proxy.settings import Settings
from proxy.settings_sources import SettingsSource

logger = logging.getLogger(__name__)

# Clients and load balancers keep idle connections for up to a minute. A server that closes them sooner (uvicorn: after
# five seconds) does so just as the next request is written now and then, and that request is lost.
_KEEP_ALIVE_S = 75

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServerFailed(Exception):
    """The server ended although nobody asked it to. Exit code 1."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening-ready socket; raises ``StartupError`` where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family)
    except OSError as error:
        raise StartupError(f"cannot listen on {host} ({error}); set host to an address of this machine") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise StartupError(
            f"cannot listen on {host}:{port} ({error}); stop what listens there, or take another"
        ) from error
    return found


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into ``SystemExit(0)`` wherever uvicorn is not there to handle them.

    So every ``finally`` runs, and a child process is never left behind.
    """

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RunningServer:
    """A server that accepts requests."""

    def __init__(self, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
        self._server = server
        self._serving = serving

    def stop(self) -> None:
        """Begin the orderly end: nothing new is accepted, what runs may finish within ``drain_timeout_s``."""
        self._server.should_exit = True

    async def ended(self) -> None:
        """Return once the server has ended, by a signal or by ``stop``. Cancelling the wait does not end it."""
        await asyncio.wait({self._serving})
        self._serving.result()


@asynccontextmanager
async def running_server(
    settings: Settings, listener: socket.socket, source: SettingsSource | None = None
) -> AsyncIterator[RunningServer]:
    """Run the proxy that ``settings`` describe, reloaded from ``source`` if there is one; as `running_app`.

    Raises ``StartupError`` where the settings, the bundle or the served model do not fit each other.
    """
    seen = None if source is None else stamps(source, settings)
    first = await configured(settings)
    served = CurrentApp(exchanged=set_aside)
    await served.swap(first.app)
    try:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(
                running_app(served, listener, drain_timeout_s=settings.drain_timeout_s)
            )
            if source is not None and seen is not None:
                await stack.enter_async_context(reloading(Reloader(served, first, source, seen)))
            stack.enter_context(settled_heap())
            yield running
    finally:
        await served.close()


@asynccontextmanager
async def running_app(app: ASGIApp, listener: socket.socket, *, drain_timeout_s: float) -> AsyncIterator[RunningServer]:
    """Serve ``app`` on ``listener``; yields once it accepts requests and drains it when the context is left."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=BoundedHttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here asks for a client's address or scheme, which is all that these headers tell.
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    accepting = asyncio.create_task(server.accepting.wait())
    running = RunningServer(server, serving)
    try:
        await asyncio.wait({serving, accepting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            raise ServerFailed("the server ended while it was starting; the log says why")
        yield running
    finally:
        accepting.cancel()
        running.stop()
        await asyncio.wait({serving, accepting})


class _Server(uvicorn.Server):
    """uvicorn's server, which does not raise the signals that it handled once more at its end.

    Its own way ends the process with the signal's status, before the ``finally`` blocks around it have run.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say when requests are accepted."""
        await super().startup(sockets)
        if self.started:
            self.accepting.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the ending signals while serving: the first drains, a second one ends at once."""
        before = {number: signal.signal(number, self.handle_exit) for number in ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def serve(settings: Settings, source: SettingsSource) -> None:
    """Serve until a signal ends it, reloading from ``source``; raises ``StartupError`` or ``ServerFailed``."""
    with listen(settings.host, settings.port) as listener:
        address = url_of(listener)
        async with running_server(settings, listener, source) as running:
            logger.info("listening on %s, mode %s, upstream %s", address, settings.mode, settings.upstream.url)
            await running.ended()


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` on uvloop, with every ``finally`` run on SIGTERM and SIGINT too."""
    import uvloop

    with ending_on_signals(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def url_of(listener: socket.socket) -> str:
    """Return the address of a bound socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def set_up_logging(settings: Settings) -> None:
    """Log to stderr, in the format that settings name; prompts and answers are logged only with ``log_text``."""
    level = settings.log_level
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings.log_format, include_text=settings.log_text))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # uvicorn's own lines about its start and end add nothing to ours.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))

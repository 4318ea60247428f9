"""``rass-proxy up``: the reference model and the proxy in front of it, started and ended together."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from proxy.demo import OVER_REFUSED, curl_to_try, demo_requests, print_demo, run_demo, served_model_id
from proxy.dependencies import REFERENCE
from proxy.exchange import Mode
from proxy.exchange_log import logger as exchange_logger
from proxy.served_model import ServedModel, running_model
from proxy.server import ending_on_signals, listen, run_loop, running_server, url_of
from proxy.settings import Settings
from proxy.settings_sources import load_settings

_HEALTHY_WITHIN_S = 180.0
_ALIVE_EVERY_S = 0.5


def up_settings(flags: dict[str, object], config: Path | None, model_host: str, model_port: int) -> Settings:
    """Return the settings of ``up``: the usual ones, but one process in mode recover and the reference bundle."""
    fixed: dict[str, object] = {
        "mode": Mode.RECOVER,
        "bundle": REFERENCE,
        "upstream.url": f"http://{model_host}:{model_port}",
        "workers": 1,
    }
    return load_settings({**flags, **fixed}, config)


def up(settings: Settings, *, model_host: str, model_port: int, demo: bool, console: Console) -> None:
    """Start both and stay up until a signal ends it.

    Raises ``StartupError``, ``ServerFailed``, ``ServedModelFailed`` or ``DemoFailed``; the model is gone by then.
    """
    with ending_on_signals(), listen(settings.host, settings.port) as listener:
        listen(model_host, model_port).close()  # a taken port is better named now than in the model's log
        with running_model(model_host, model_port) as model:
            console.print(f"starting the reference model on {model.url} …", highlight=False)
            model.wait_until_healthy(_HEALTHY_WITHIN_S)
            run_loop(_proxy_before(model, settings, listener, demo=demo, console=console))


async def _proxy_before(
    model: ServedModel, settings: Settings, listener: socket.socket, *, demo: bool, console: Console
) -> None:
    async with running_server(settings, listener) as running:
        address = url_of(listener)
        showing = asyncio.create_task(_show(model.url, address, demo=demo, console=console))
        watching = asyncio.create_task(_died(model))
        ending = asyncio.create_task(running.ended())
        try:
            # The table may fail, the model may die, a signal may come: whatever is first.
            await asyncio.wait({showing, watching, ending}, return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                showing.result()
                await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (showing, watching, ending):
                task.cancel()
            await asyncio.wait({showing, watching, ending})
    model.check_alive()


async def _show(model_url: str, proxy_url: str, *, demo: bool, console: Console) -> None:
    requests = demo_requests()
    model = await served_model_id(model_url)
    if demo:
        with _no_exchange_lines():
            rows = await run_demo(model_url, proxy_url, requests)
        print_demo(rows, console)
    recovered = next((request for request in requests if request.kind == OVER_REFUSED), requests[0])
    # soft_wrap: the command must survive being copied.
    console.print("try it:", curl_to_try(proxy_url, model, recovered), soft_wrap=True, highlight=False, markup=False)
    console.print(f"proxy         {proxy_url}/v1  (mode recover)\nmetrics       {proxy_url}/metrics", highlight=False)
    console.print(f"served model  {model_url}/v1\nCtrl-C ends both.", highlight=False)


@contextmanager
def _no_exchange_lines() -> Iterator[None]:
    """Keep the table's own requests out of the log: the table says more about them."""
    level = exchange_logger.level
    exchange_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        exchange_logger.setLevel(level)


async def _died(model: ServedModel) -> None:
    """Return once the served model has ended."""
    while model.alive():  # noqa: ASYNC110 - a process sets no event that every platform can wait for
        await asyncio.sleep(_ALIVE_EVERY_S)

"""The yardstick of `rass-bench load`: the least that a proxy of this make can do.

A raw ASGI application on uvicorn, httptools and uvloop that hands each request to one pooled aiohttp session and each
piece of the answer back. It looks at nothing, counts nothing, checks nothing and would be no good as a proxy. What
another target costs beyond it is what its features cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import uvicorn

__all__ = ["Relay", "main"]

Message = MutableMapping[str, Any]
_RELAYED_TO_CLIENT = ("content-type", "content-length")


class Relay:
    """Sends every request to the same path of ``upstream`` and the answer back as it arrives."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request, or open and close the session when the server starts and ends."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._session is None:
            raise RuntimeError("the relay needs a server that speaks ASGI's lifespan")
        chunks: list[bytes] = []
        more = True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        async with self._session.request(
            scope["method"],
            self._upstream + scope["path"],
            data=b"".join(chunks),
            headers={"content-type": "application/json", "accept-encoding": "identity"},
        ) as response:
            headers = [
                (name.encode(), response.headers[name].encode())
                for name in _RELAYED_TO_CLIENT
                if name in response.headers
            ]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            while chunk := await response.content.readany():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _live(
        self, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        await receive()
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="URL", help="where requests go")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    options = parser.parse_args(argv)
    uvicorn.run(
        Relay(options.upstream),
        host=options.host,
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The served model of `rass-bench load` and `soak`: scripted answers in the wire of `rass serve-model`.

Run as a process: ``python -m benchmarks.scripted_upstream --bundle DIR --port N``. Written straight onto httptools, so
that it costs a fraction of any proxy in front of it. A prompt made by `prompt_for` says what becomes of it and carries
a marker that its answer repeats, so that a lost or exchanged answer cannot pass for the right one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import httptools

from detectors.bundle import Bundle, load

__all__ = ["EVENTS", "Fate", "ScriptedUpstream", "answer_to", "main", "prompt_for", "refusal_to", "stream_events"]

EVENTS = 52
"""Events of a stream: the role, the pieces of the text, the end and ``[DONE]``."""

_FAR = 1000.0  # a harm coordinate beyond every threshold
_ASKED = re.compile(r"\[(answered|over-refused|warranted) (\w+)\]")


class Fate(StrEnum):
    """What becomes of a request."""

    ANSWERED = "answered"
    OVER_REFUSED = "over-refused"
    """Refused, and answered when steered; its zone is benign."""
    WARRANTED = "warranted"
    """Refused whatever happens; its zone is harmful."""


def prompt_for(fate: Fate, marker: str) -> str:
    """Return a prompt, in English, that meets ``fate``; ``marker`` is of letters and digits."""
    return f"How do I stop the process that has been running since this morning? [{fate} {marker}]"


def answer_to(marker: str) -> str:
    """Return the answer that carries ``marker``."""
    return (
        f"To stop the process {marker}, list what is running, find its number in the first column and end it. If it "
        "does not end within some seconds, look at what it waits for before you try again with more force."
    )


def refusal_to(marker: str) -> str:
    """Return the refusal that carries ``marker``."""
    return f"I'm sorry, but I can't help with that request. ({marker})"


def stream_events(text: str, model: str, report: Mapping[str, object] | None) -> list[bytes]:
    """Return the `EVENTS` events of a streamed answer; ``report`` is the engine's word on steering, in the first."""
    count = EVENTS - 3
    head = f'data: {{"id":"chatcmpl-s","object":"chat.completion.chunk","created":1,"model":{json.dumps(model)},'
    steered = "" if report is None else f'"rass":{json.dumps(report)},'
    choice = head + '"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}\n\n'
    first = (
        f'{head}{steered}"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}},"finish_reason":null}}]}}'
    )
    pieces = [text[len(text) * n // count : len(text) * (n + 1) // count] for n in range(count)]
    events = [f"{first}\n\n"]
    events += [choice % (f'{{"content":{json.dumps(piece)}}}', "null") for piece in pieces]
    events += [choice % ("{}", '"stop"'), "data: [DONE]\n\n"]
    return [event.encode() for event in events]


@dataclass(slots=True)
class _Counts:
    """Streams under way, and the most there were at once."""

    open: int = 0
    most_open: int = 0


class ScriptedUpstream:
    """What all connections share; calling it makes the protocol of a new one."""

    def __init__(self, bundle: Bundle, interval_s: float) -> None:
        self._bundle = bundle
        self.interval_s = interval_s
        self.model = bundle.manifest.model.id
        self.counts = _Counts()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one connection."""
        return _Connection(self)

    def models(self) -> dict[str, Any]:
        """Return the list of models, with what a proxy holds against its bundle."""
        model = self._bundle.manifest.model
        report = {
            "revision": model.revision,
            "hidden_size": model.hidden_size,
            "num_layers": model.num_layers,
            "bundle": self._bundle.digest,
        }
        return {"object": "list", "data": [{"id": model.id, "object": "model", "created": 1, "rass": report}]}

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the coordinates of a conversation."""
        turns = body["messages"]
        fate, _ = _asked(turns)
        answered = turns[-1]["role"] == "assistant"
        return {
            "h": _FAR if fate is Fate.WARRANTED else -_FAR,
            "rho": None if answered else 0.0,
            "answer_h": -_FAR if answered else None,
            "bundle": self._bundle.digest,
            "prompt_tokens": 20,
        }

    def answer(self, body: Mapping[str, Any]) -> tuple[str, dict[str, object] | None]:
        """Return the text of a completion and the report on steering where it was asked for."""
        fate, marker = _asked(body["messages"])
        order = body.get("rass", {}).get("steer")
        report = None if order is None else {"steered": True, "vector": order["vector"], "bundle": self._bundle.digest}
        refuses = fate is Fate.WARRANTED or (fate is Fate.OVER_REFUSED and order is None)
        return refusal_to(marker) if refuses else answer_to(marker), report


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one request after the other."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = bytearray()
        self._transport: asyncio.Transport | None = None
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class; it has the same methods

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._next is not None:
            self._next.cancel()
            self._next = None
            self._upstream.counts.open -= 1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, body = self._url.partition(b"?")[0], bytes(self._body)
        self._url = b""
        self._body.clear()
        upstream = self._upstream
        match path:
            case b"/v1/chat/completions":
                self._complete(json.loads(body))
            case b"/v1/rass/read":
                self._send_json(upstream.read(json.loads(body)))
            case b"/v1/models":
                self._send_json(upstream.models())
            case b"/counts":
                self._send_json({"open": upstream.counts.open, "most_open": upstream.counts.most_open})
            case _:
                self._send_json({"error": {"message": "not scripted"}}, b"404 Not Found")

    def _complete(self, body: Mapping[str, Any]) -> None:
        text, report = self._upstream.answer(body)
        model = self._upstream.model
        if body.get("stream"):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in stream_events(text, model, report)]
            counts = self._upstream.counts
            counts.open += 1
            counts.most_open = max(counts.most_open, counts.open)
            self._stream([head + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n"], 0)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        payload = {
            "id": "chatcmpl-s",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": {"prompt_tokens": 20, "completion_tokens": 50, "total_tokens": 70},
        }
        self._send_json(payload if report is None else {**payload, "rass": report})

    def _stream(self, chunks: list[bytes], position: int) -> None:
        """Send one event and see to the next after the interval; the connection's end ends it."""
        if self._transport is None:
            return
        self._transport.write(chunks[position])
        if position + 1 == len(chunks):
            self._next = None
            self._upstream.counts.open -= 1
            return
        self._next = asyncio.get_running_loop().call_later(
            self._upstream.interval_s, self._stream, chunks, position + 1
        )

    def _send_json(self, payload: Mapping[str, object], status: bytes = b"200 OK") -> None:
        if self._transport is None:
            return
        body = json.dumps(payload).encode()
        self._transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
        )


def _asked(messages: list[Mapping[str, Any]]) -> tuple[Fate, str]:
    """Return the fate and the marker that the last user turn names; without one, an answer without a marker."""
    prompt = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
    if not isinstance(prompt, str):  # parts of text, as some gateways write it anew
        prompt = "".join(part.get("text", "") for part in prompt)
    found = _ASKED.search(prompt)
    return (Fate(found[1]), found[2]) if found else (Fate.ANSWERED, "unmarked")


async def _serve(upstream: ScriptedUpstream, host: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(upstream, host, port, backlog=4096)
    async with server:
        await server.serve_forever()


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal ends it."""
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scripted_upstream", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="bundle whose model it claims to be")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument(
        "--interval-ms", type=float, default=5.0, metavar="N", help="pause between events of a stream (%(default)s)"
    )
    options = parser.parse_args(argv)
    uvloop.run(_serve(ScriptedUpstream(load(options.bundle), options.interval_ms / 1000), options.host, options.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())

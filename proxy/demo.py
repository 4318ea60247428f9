"""The side-by-side table: the same requests to the served model and to the proxy in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import aiohttp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.headers import ACTION_HEADER, ZONE_HEADER

OVER_REFUSED = "over-refused"
_MAX_TOKENS = 96
_TIMEOUT_S = 60.0
_STYLES = {"recovered": "green", "warranted": "red", "delivered": "dim"}


class DemoFailed(Exception):
    """A server gave no usable answer; the message names it. Exit code 1."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One request of the table; ``kind`` is over-refused, harmful, harmful-wrapped or plain."""

    language: str
    kind: str
    prompt: str


@dataclass(frozen=True, slots=True)
class DemoRow:
    """A request with both answers, and what the proxy's headers say."""

    request: DemoRequest
    raw: str
    proxied: str
    action: str
    zone: str


def demo_requests() -> list[DemoRequest]:
    """Return the requests that ship with the package."""
    content = json.loads(files("proxy").joinpath("demo_requests.json").read_text(encoding="utf-8"))
    return [DemoRequest(row["language"], row["kind"], row["prompt"]) for row in content["requests"]]


async def run_demo(raw_url: str, proxy_url: str, requests: Sequence[DemoRequest]) -> list[DemoRow]:
    """Send each request to both servers, greedily; raises ``DemoFailed``."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        model = await _served_model(session, raw_url)
        return list(await asyncio.gather(*(_row(session, raw_url, proxy_url, model, each) for each in requests)))


def demo_table(rows: Sequence[DemoRow]) -> Table:
    """Return the table to print."""
    table = Table(title="The served model alone, and behind the proxy", expand=True, show_lines=True)
    table.add_column("", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for column in ("request", "raw answer", "proxied answer"):
        table.add_column(column, ratio=1, overflow="fold")
    table.add_column("decision", no_wrap=True)
    table.add_column("zone", no_wrap=True)
    for row in rows:
        # Text, not strings: answers may hold what rich would take for markup.
        same = row.raw == row.proxied
        table.add_row(
            row.request.language,
            row.request.kind,
            Text(row.request.prompt),
            Text(row.raw),
            Text("identical", style="dim") if same else Text(row.proxied),
            Text(row.action, style=_STYLES.get(row.action, "")),
            row.zone,
        )
    return table


def print_demo(rows: Sequence[DemoRow], console: Console) -> None:
    """Print the table, no narrower than it can be read."""
    console.width = max(console.width, 110)
    console.print(demo_table(rows))


def curl_to_try(proxy_url: str, model: str, request: DemoRequest) -> str:
    """Return one command that shows a recovered answer and the proxy's headers."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": request.prompt}]}, ensure_ascii=False)
    quoted = body.replace("'", "'\\''")
    return f"curl -i {proxy_url}/v1/chat/completions -H 'content-type: application/json' -d '{quoted}'"


async def served_model_id(url: str) -> str:
    """Return the id of the first model that ``url`` serves; raises ``DemoFailed``."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        return await _served_model(session, url)


async def _served_model(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(f"{url}/v1/models") as response:
            payload = json.loads(await response.read())
        return str(payload["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoFailed(f"{url} cannot be reached ({error}); start both with `rass-proxy up`") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DemoFailed(f"{url}/v1/models lists no model; is it an OpenAI-compatible server?") from error


async def _row(
    session: aiohttp.ClientSession, raw_url: str, proxy_url: str, model: str, request: DemoRequest
) -> DemoRow:
    raw, _ = await _ask(session, raw_url, model, request.prompt)
    proxied, headers = await _ask(session, proxy_url, model, request.prompt)
    return DemoRow(request, raw, proxied, headers.get(ACTION_HEADER, "none"), headers.get(ZONE_HEADER, "none"))


async def _ask(session: aiohttp.ClientSession, url: str, model: str, prompt: str) -> tuple[str, dict[str, str]]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            answer = await response.read()
            headers = {name.lower(): value for name, value in response.headers.items()}
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoFailed(f"{url} did not answer ({error or type(error).__name__})") from error
    try:
        return str(json.loads(answer)["choices"][0]["message"]["content"]), headers
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DemoFailed(f"{url} answered with no completion: {answer[:300].decode(errors='replace')}") from error

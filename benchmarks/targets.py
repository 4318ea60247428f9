"""Sends chat requests to an OpenAI-compatible server, many at a time, each with a limit of time and of attempts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from benchmarks.errors import InputError, TargetError
from detectors.verdict import Message

__all__ = ["Answer", "Client", "Limits", "Target", "in_parallel", "parse_target"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Target:
    """A named server; ``base_url`` ends before ``/v1``, without a slash."""

    name: str
    base_url: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard a server is driven: requests in flight, seconds for each try, tries, first pause between tries."""

    concurrency: int = 32
    timeout_s: float = 120.0
    attempts: int = 3
    pause_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: the text, or None with the error; ``headers`` holds the proxy's ``x-rass-`` headers."""

    text: str | None
    error: str | None
    headers: Mapping[str, str]

    def header(self, name: str) -> str | None:
        """Return the proxy's header ``x-rass-<name>``; None where no proxy answered, or it left that out."""
        return self.headers.get(f"x-rass-{name}")


def parse_target(text: str) -> Target:
    """Read ``NAME=URL``; a trailing ``/v1`` is dropped. Raises InputError for anything else."""
    name, separator, url = text.partition("=")
    parts = urlsplit(url)
    if not separator or not name or parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"--target {text!r} is not NAME=URL, for example raw=http://127.0.0.1:8081")
    return Target(name, url.rstrip("/").removesuffix("/v1").rstrip("/"))


class Client:
    """A connection pool to one target. Make it with ``async with Client.open(...)``."""

    def __init__(self, target: Target, session: aiohttp.ClientSession, limits: Limits) -> None:
        self.target = target
        self._session = session
        self._limits = limits

    @classmethod
    @asynccontextmanager
    async def open(cls, target: Target, limits: Limits, headers: Mapping[str, str]) -> AsyncIterator[Client]:
        """Yield a client whose connections are closed at the end; ``headers`` go with every request."""
        timeout = aiohttp.ClientTimeout(total=limits.timeout_s)
        connector = aiohttp.TCPConnector(limit=limits.concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=dict(headers)) as session:
            yield cls(target, session, limits)

    async def model(self) -> str:
        """Return the id of the first model the server lists. Raises TargetError when it lists none."""
        url = f"{self.target.base_url}/v1/models"
        try:
            async with self._session.get(url) as response:
                body = await response.text()
                if response.status != 200:
                    raise TargetError(f"{self._label}: GET {url} answered {response.status}: {_short(body)}")
                return str(json.loads(body)["data"][0]["id"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TargetError(f"{self._label} cannot be reached at {url}: {_name(error)}; is it running?") from error
        except (ValueError, LookupError, TypeError) as error:
            raise TargetError(f"{self._label}: {url} lists no model; name one with --model") from error

    async def complete(self, model: str, messages: Sequence[Message], options: Mapping[str, Any]) -> Answer:
        """Return the answer to one conversation; a request that fails to the last try is an Answer with its error.

        Tried again are only connection faults, time-outs and statuses that promise that another try may help.
        """
        body = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            **options,
        }
        answer = Answer(None, "not sent", {})
        for attempt in range(self._limits.attempts):
            if attempt:
                await asyncio.sleep(self._limits.pause_s * 2 ** (attempt - 1))
            again, answer = await self._try(body)
            if not again:
                break
        return answer

    async def text(self, path: str) -> str:
        """Return the body of a GET. Raises TargetError when there is none."""
        url = f"{self.target.base_url}{path}"
        try:
            async with self._session.get(url) as response:
                body = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TargetError(f"{self._label} cannot be reached at {url}: {_name(error)}") from error
        if response.status != 200:
            raise TargetError(f"{self._label}: GET {url} answered {response.status}: {_short(body)}")
        return body

    async def _try(self, body: Mapping[str, Any]) -> tuple[bool, Answer]:
        """Send once; the first part says whether another try may help."""
        try:
            async with self._session.post(f"{self.target.base_url}/v1/chat/completions", json=body) as response:
                content = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            return True, Answer(None, _name(error), {})
        headers = {
            name.lower(): value for name, value in response.headers.items() if name.lower().startswith("x-rass-")
        }
        if response.status != 200:
            retried = response.status in _RETRIED_STATUSES
            return retried, Answer(None, f"HTTP {response.status}: {_short(content)}", headers)
        try:
            message = json.loads(content)["choices"][0]["message"]
            # A typed refusal has no content; its text is what the user is shown.
            return False, Answer(str(message.get("content") or message.get("refusal") or ""), None, headers)
        except (ValueError, LookupError, TypeError, AttributeError):
            return False, Answer(None, f"not a chat completion: {_short(content)}", headers)

    @property
    def _label(self) -> str:
        return f"target {self.target.name!r}"


async def in_parallel(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    concurrency: int,
    finished: Callable[[], None],
) -> list[Result]:
    """Run ``work`` over all items, at most ``concurrency`` at a time; results in the order of ``items``.

    ``finished`` is called after each. An exception of ``work`` ends the others and comes out in an ExceptionGroup.
    """
    queue = iter(range(len(items)))
    results: dict[int, Result] = {}

    async def worker() -> None:
        # A generator of indices shared by all workers: each takes the next one when it is free.
        for index in queue:
            results[index] = await work(items[index])
            finished()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(items))):
            group.create_task(worker())
    return [results[index] for index in range(len(items))]


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"

"""How many tokens an attempt spent: as the upstream reports it, or an estimate that says that it is one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxy.answers import DONE
from proxy.stream import SseParser

# A token of today's vocabularies is about four bytes of UTF-8 in English and German and about three in Chinese.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Spending:
    """Tokens of one attempt, prompt and answer; ``estimated`` where nobody counted them."""

    tokens: int
    estimated: bool


NOTHING_SPENT = Spending(0, estimated=False)


def estimated_tokens(texts: Iterable[str]) -> int:
    """Return about how many tokens ``texts`` are."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return -(-size // _BYTES_PER_TOKEN)


def spending(body: bytes, *, streamed: bool, prompt: int, answer: Iterable[str]) -> Spending:
    """Return what an answered attempt spent, from the ``usage`` of its body.

    ``prompt`` is the estimate of its prompt, for an answer that reports none: a stream does so only when asked to.
    """
    payloads: list[bytes | str] = [body]
    if streamed:
        payloads = [event.data for event in SseParser().feed(body) if event.data != DONE]
    for payload in reversed(payloads):
        tokens = _reported(payload)
        if tokens is not None:
            return Spending(tokens, estimated=False)
    return Spending(prompt + estimated_tokens(answer), estimated=True)


def _reported(payload: bytes | str) -> int | None:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, Mapping):
        return None
    total = _count(usage, "total_tokens")
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if total is None and prompt is not None and completion is not None:
        return prompt + completion
    return total


def _count(usage: Mapping[str, object], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

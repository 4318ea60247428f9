"""Putting recovered choices into an answer made of ``choices``: what was not recovered stays as it is.

In a stream the events of other choices keep their very bytes; a recovered choice's own events take the place where its
original's first one stood. What is written anew is ASCII: half of a surrogate pair is legal in JSON, and only there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proxy.answers import json_object
from proxy.stream import SseEvent, SseParser, split_events
from proxy.wires.choices import indexed

_IDENTITY = ("id", "created", "model", "system_fingerprint")


@dataclass(frozen=True, slots=True)
class Replacement:
    """A recovered answer to one choice: its bytes (a whole body, or a whole stream), and the length of both texts."""

    body: bytes
    original_chars: int


def replaced_choices(original: bytes, recovered: Mapping[int, Replacement], all_chars: int) -> bytes:
    """Return a whole body with the choices of ``recovered`` replaced; ``all_chars`` is the length of all its texts."""
    payload = json_object(original) or {}
    attempts = {index: json_object(each.body) or {} for index, each in recovered.items()}
    choices = [
        {**attempt_choice, "index": index} if (attempt_choice := _first_choice(attempts.get(index))) else dict(raw)
        for index, raw in indexed(payload)
    ]
    clean = {**payload, "choices": choices}
    if "usage" in payload:
        usages = {index: attempt.get("usage") for index, attempt in attempts.items()}
        clean["usage"] = _usage(payload["usage"], usages, recovered, all_chars)
    return json.dumps(clean).encode()


def replaced_streams(original: bytes, recovered: Mapping[int, Replacement], all_chars: int) -> bytes:
    """Return a whole stream with the choices of ``recovered`` replaced."""
    identity: dict[str, object] = {}
    usages: dict[int, object] = {}
    streams: dict[int, list[dict[str, object]]] = {}
    for index, each in recovered.items():
        streams[index] = []
        for event in SseParser().feed(each.body):
            chunk = json_object(event.data) or {}
            usages[index] = chunk.get("usage") or usages.get(index)
            if _first_choice(chunk):
                streams[index].append(chunk)
    written: list[bytes] = []
    for raw, payload in _events(original):
        found = indexed(payload)
        identity = identity or {name: payload[name] for name in _IDENTITY if name in payload}
        kept = []
        for index, choice in found:
            if index not in recovered:
                kept.append(choice)
            elif chunks := streams.pop(index, None):
                written += [_as(identity, chunk, index) for chunk in chunks]
        if payload.get("usage") and not found:
            usage = _usage(payload["usage"], usages, recovered, all_chars)
            written.append(_event({**payload, "usage": usage}))
        elif len(kept) == len(found):
            written.append(raw)
        elif kept:
            written.append(_event({**payload, "choices": kept}))
    return b"".join(written)


def continued(head: bytes, stream: bytes) -> bytes:
    """Return a whole stream under the identity that ``head``, which the client already has, gave to its answer."""
    identity: dict[str, object] = {}
    for event in SseParser().feed(head):
        chunk = json_object(event.data) or {}
        identity = identity or {name: chunk[name] for name in _IDENTITY if name in chunk}
    if not identity:
        return stream
    return b"".join(
        raw if not payload or "id" not in payload else _event({**payload, **identity})
        for raw, payload in _events(stream)
    )


def _events(stream: bytes) -> Iterator[tuple[bytes, dict[str, object]]]:
    """Yield each event's bytes with its object, which is empty where its data is none."""
    for raw, event in split_events(stream):
        yield raw, {} if event is None else json_object(event.data) or {}


def _as(identity: Mapping[str, object], chunk: Mapping[str, object], index: int) -> bytes:
    choices = [{**choice, "index": index} for _, choice in indexed(chunk)[:1]]
    # The usage of one attempt is not that of the whole answer.
    own = {name: value for name, value in chunk.items() if name != "usage"}
    return _event({**own, **identity, "choices": choices})


def _event(payload: Mapping[str, object]) -> bytes:
    return SseEvent(json.dumps(payload)).encode()


def _first_choice(payload: Mapping[str, object] | None) -> Mapping[str, object] | None:
    found = indexed(payload or {})
    return found[0][1] if found else None


def _usage(
    original: object, attempts: Mapping[int, object], recovered: Mapping[int, Replacement], all_chars: int
) -> object:
    """Return what the client received: the original's tokens less the refusals' share of them, plus the attempts'.

    Engines count all choices in one number, so a refused choice's part of it is estimated by its share of the
    characters. The details (cached, reasoning) of the original are left out, since they no longer add up.
    """
    total = _tokens(original, "completion_tokens")
    share = sum(each.original_chars for each in recovered.values()) / max(1, all_chars)
    kept = total - round(total * share)
    completion = kept + sum(_tokens(usage, "completion_tokens") for usage in attempts.values())
    prompt = _tokens(original, "prompt_tokens")
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _tokens(usage: object, name: str) -> int:
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) else 0

"""The event parser gives the same events however the bytes are split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream import SseEvent, SseParser, split_events, without_data

LINES = st.sampled_from(
    ["data: a", "data:b", "data", "data: 你好", ": comment", "event: error", "id: 1", "retry: 5", "", "", "unknown: x"]
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def events_of(chunks):
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@given(st.sampled_from(["", "\ufeff"]), st.lists(st.tuples(LINES, ENDS), max_size=30), st.data())
def test_a_stream_split_anywhere_equals_the_whole(mark, lines, data):
    whole = (mark + "".join(line + end for line, end in lines)).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    edges = [0, *cuts, len(whole)]
    chunks = [whole[start:end] for start, end in pairwise(edges)]
    assert events_of(chunks) == events_of([whole])
    assert events_of([bytes([byte]) for byte in whole]) == events_of([whole])


@given(st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.lists(st.text("ab :", max_size=4), min_size=1), max_size=5))
def test_line_ends_and_comments_change_no_event(end, events):
    plain = "".join("".join(f"data: {line}\n" for line in lines) + "\n" for lines in events)
    with_comments = plain.replace("data:", ": beat\ndata:").replace("\n", end)
    assert events_of([with_comments.encode()]) == events_of([plain.encode()])
    assert [event.data for event in events_of([plain.encode()])] == ["\n".join(lines) for lines in events]


@given(st.lists(st.tuples(LINES, ENDS), max_size=30))
def test_events_split_out_of_a_stream_are_those_of_the_parser(lines):
    whole = "".join(line + end for line, end in lines).encode()
    pieces = list(split_events(whole))
    assert b"".join(raw for raw, _ in pieces) == whole
    assert [event for _, event in pieces if event is not None] == events_of([whole])


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])))
def test_an_event_survives_the_wire(data):
    event = SseEvent(data, "named")
    assert events_of([event.encode()]) == [event]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\ndata: b\n\n", [SseEvent("a\nb")]),
        (b"\xef\xbb\xbfdata: a\n\n", [SseEvent("a")]),
        (b"event: e\r\ndata: a\r\n\r\n", [SseEvent("a", "e")]),
        (b"event: e\n\ndata: a\n\n", [SseEvent("a")]),
        (b"data\n\n", [SseEvent("")]),
        (b": only a comment\n\n", []),
        (b"data: cut off\n", []),
    ],
)
def test_the_grammar(raw, expected):
    assert events_of([raw]) == expected


@pytest.mark.parametrize(
    ("raw", "free"),
    [
        (b": beat\n\n", 8),
        (b": beat\r\n\r\n: beat\r\rdata: x\n\n", 18),
        (b": beat\n\n: cut", 8),
        (b": beat\ndata: x\n\n", 0),
        (b"\xef\xbb\xbfdata: x\n\n", 0),
        (b"data\n\n", 0),
        (b"event: x\n\ndata", 10),
        (b"", 0),
    ],
)
def test_blocks_without_data_are_told_from_events(raw, free):
    assert without_data(raw) == free

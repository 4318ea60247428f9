"""Pieces of text do not depend on how tokens arrive, and never hold half a character or a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rass.serving.text import Detokenizer, StopText


def decode(token_ids: list[int]) -> str:
    """Byte tokens, decoded the way byte-level tokenizers do."""
    return bytes(token_ids).decode("utf-8", errors="replace")


def cut(items: list[int] | str, places: list[int]) -> list:
    ends = sorted({min(place, len(items)) for place in places} | {len(items)})
    return [items[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.text(), st.lists(st.integers(0, 200)))
def test_pieces_are_whole_characters_and_add_up(text, places):
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.feed(part) for part in cut(list(text.encode()), places)]
    pieces.append(detokenizer.finish())
    if not text.endswith("\ufffd"):
        assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, 255)), st.lists(st.integers(0, 200)))
def test_tokens_that_are_no_text_give_the_same_however_they_arrive(token_ids, places):
    whole, parts = Detokenizer(decode), Detokenizer(decode)
    expected = whole.feed(token_ids) + whole.finish()
    found = "".join([parts.feed(part) for part in cut(token_ids, places)]) + parts.finish()
    assert found.rstrip("\ufffd") == expected.rstrip("\ufffd")


def test_a_character_that_the_end_cuts_off_is_dropped():
    detokenizer = Detokenizer(decode)
    assert detokenizer.feed(list("中".encode())[:2]) == ""
    assert detokenizer.finish() == ""


@given(st.text("abc"), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 60)))
def test_no_text_of_or_after_a_stop_string_is_shown(text, stops, places):
    one_by_one, in_parts = StopText(stops), StopText(stops)
    shown = "".join(one_by_one.feed(letter) for letter in text)
    shown += one_by_one.finish()
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert one_by_one.found == any(stop in text for stop in stops)
    if not one_by_one.found:
        assert shown == text
    parts = "".join(in_parts.feed(part) for part in cut(text, places)) + in_parts.finish()
    assert in_parts.found == one_by_one.found
    assert not any(stop in parts for stop in stops)


def test_only_a_possible_beginning_is_held_back():
    stop = StopText(["STOP"])
    assert stop.feed("a S") == "a "
    assert stop.feed("T") == ""
    assert stop.feed("x") == "STx"
    assert stop.feed("yST") == "y"
    assert stop.feed("OP z") == ""
    assert stop.found
    assert stop.feed("more") == stop.finish() == ""

"""Tokens: what the upstream reports, else an estimate that says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage import Spending, estimated_tokens, spending


def spent(payload, streamed=False):
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return spending(body, streamed=streamed, prompt=7, answer=["eight by"])


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, 8),
        ({"prompt_tokens": 3, "completion_tokens": 5}, 8),
        ({"total_tokens": 0}, 0),
    ],
)
def test_reported_usage_is_taken(usage, tokens):
    assert spent({"usage": usage}) == Spending(tokens, estimated=False)


@pytest.mark.parametrize("usage", [None, [], {}, {"total_tokens": "8"}, {"total_tokens": True}, {"total_tokens": -1}])
def test_without_a_usable_report_there_is_an_estimate(usage):
    assert spent({"usage": usage}) == Spending(7 + 2, estimated=True)


def test_a_stream_reports_in_one_of_its_last_events():
    events = [{"usage": None}, {"choices": [], "usage": {"total_tokens": 11}}]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    assert spent(body, streamed=True) == Spending(11, estimated=False)
    assert spent(b'data: {"choices": []}\n\ndata: [DONE]\n\n', streamed=True).estimated


@given(st.binary(max_size=100), st.booleans())
def test_any_body_has_a_cost(body, streamed):
    assert spent(body, streamed).tokens >= 0


@given(st.lists(st.text(alphabet=st.characters(), max_size=20), max_size=5))
def test_longer_texts_are_never_estimated_shorter(texts):
    assert estimated_tokens(texts) <= estimated_tokens([*texts, "more"])

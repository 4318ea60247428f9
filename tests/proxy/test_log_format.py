"""Lines that no value can forge, and tracebacks without what exceptions say."""

from __future__ import annotations

import json
import logging
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.log_format import LogFormat, formatter

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


def record(fields=None, exc_info=None):
    made = logging.LogRecord("proxy.x", logging.INFO, "x.py", 1, "did %s", ("it",), exc_info)
    made.fields = fields or {}
    return made


@given(st.dictionaries(st.sampled_from(["model", "path", "key"]), VALUES))
def test_a_record_is_one_line_and_its_fields_come_back(fields):
    line = formatter(LogFormat.JSON, include_text=False).format(record(fields))
    read = json.loads(line)
    assert "\n" not in line
    assert read["message"] == "did it"
    assert {name: read[name] for name in fields} == fields


@given(st.text())
def test_no_value_forges_a_field_in_text(value):
    line = formatter(LogFormat.TEXT, include_text=False).format(record({"model": value, "status": 200}))
    assert "\n" not in line
    before, _, after = line.partition(" model=")
    assert before.endswith("did it")
    read, end = json.JSONDecoder().raw_decode(after) if after.startswith('"') else (value, len(value))
    assert read == value
    assert after[end:] == " status=200"


@given(st.lists(st.integers(1_600_000_000_000, 1_600_000_003_000), min_size=1, max_size=5))
def test_each_line_has_the_time_of_its_record(milliseconds):
    lines = formatter(LogFormat.TEXT, include_text=False)
    for moment in milliseconds:
        made = record()
        made.created = moment / 1000
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment // 1000))
        assert lines.format(made).startswith(f"{written} INFO ")


@pytest.mark.parametrize("log_format", list(LogFormat))
@pytest.mark.parametrize("include_text", [False, True])
def test_tracebacks(log_format, include_text):
    try:
        try:
            raise ValueError("the prompt")
        except ValueError as error:
            raise RuntimeError("with the prompt") from error
    except RuntimeError:
        line = formatter(log_format, include_text=include_text).format(record(exc_info=sys.exc_info()))
    assert "ValueError" in line
    assert "RuntimeError" in line
    assert "test_tracebacks" in line
    assert ("the prompt\n" in line or "the prompt\\n" in line) is include_text


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    exc_info = (ValueError, first, None)
    assert formatter(LogFormat.TEXT, include_text=False).format(record(exc_info=exc_info)).count("ValueError") == 2

"""The note of step clarify: its languages, and how it joins what the client said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import language
from detectors.manifest import ValidatedStep
from proxy.clarify import clarified, clarify_exists, load_notes
from proxy.dependencies import reference_bundle
from proxy.ladder import ClarifyWhen
from proxy.wires.protocol import Surface

LANGUAGES = ["en", "de", "es", "zh", "fr", "it", "pt", "nl", "pl", "ru", "ja", "ko", "ar", "hi", "tr", "vi", "sw", "th"]
USER = {"role": "user", "content": "u"}
NOTE = "the note"


@pytest.mark.parametrize("code", LANGUAGES)
def test_each_language_has_a_note_in_it(code):
    note = load_notes().note(code)
    assert language.detect(note) == code


def test_other_languages_get_the_english_note():
    notes = load_notes()
    assert notes.note("other") == notes.note("en")
    assert set(notes.by_language) == set(LANGUAGES)
    assert len(set(notes.by_language.values())) == len(LANGUAGES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([USER], [{"role": "system", "content": NOTE}, USER]),
        (
            [{"role": "system", "content": "s"}, USER],
            [{"role": "system", "content": f"s\n\n{NOTE}"}, USER],
        ),
        (
            [{"role": "developer", "content": "d", "name": "n"}, USER],
            [{"role": "developer", "content": f"d\n\n{NOTE}", "name": "n"}, USER],
        ),
        (
            [{"role": "system", "content": [{"type": "text", "text": "s"}]}, USER],
            [{"role": "system", "content": [{"type": "text", "text": "s"}, {"type": "text", "text": NOTE}]}, USER],
        ),
        ([{"role": "system", "content": None}, USER], [{"role": "system", "content": NOTE}, USER]),
        (
            [{"role": "system", "content": "a"}, USER, {"role": "system", "content": "b"}, USER],
            [{"role": "system", "content": "a"}, USER, {"role": "system", "content": f"b\n\n{NOTE}"}, USER],
        ),
    ],
)
def test_the_note_stands_after_the_clients_own_words(before, after):
    payload = {"model": "m", "messages": before, "temperature": 0}
    untouched = json.dumps(payload)
    assert clarified(Surface.CHAT, payload, NOTE) == {**payload, "messages": after}
    assert json.dumps(payload) == untouched


@pytest.mark.parametrize("messages", [None, "odd", [7], [{"role": "system", "content": {"x": 1}}]])
def test_what_is_not_understood_is_not_changed(messages):
    assert clarified(Surface.CHAT, {"messages": messages}, NOTE) is None


@pytest.mark.parametrize(("before", "after"), [(None, NOTE), ("", NOTE), ("be brief", f"be brief\n\n{NOTE}")])
def test_a_responses_note_stands_in_its_instructions(before, after):
    payload = {"model": "m", "input": "hello"} | ({} if before is None else {"instructions": before})
    assert clarified(Surface.RESPONSES, payload, NOTE) == {**payload, "instructions": after}


def test_where_there_is_no_place_for_a_note():
    assert clarified(Surface.RESPONSES, {"input": "hello", "instructions": [{"x": 1}]}, NOTE) is None
    assert clarified(Surface.COMPLETIONS, {"prompt": "hello"}, NOTE) is None


TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": st.text()})
)


@given(TURNS)
def test_no_word_of_the_client_is_lost(turns):
    noted = clarified(Surface.CHAT, {"messages": turns}, NOTE)
    assert noted is not None
    added = len(noted["messages"]) - len(turns)
    assert added in (0, 1)
    for old, new in zip(turns, noted["messages"][added:], strict=True):
        assert new["role"] == old["role"]
        assert new["content"].startswith(old["content"])
    assert sum(NOTE in turn["content"] for turn in noted["messages"]) >= 1


def test_a_bundle_that_does_not_say_validated_steering_alone():
    from detectors.bundle import load

    bundle = load(reference_bundle())
    assert bundle.manifest.validation.steps == (ValidatedStep.STEER,)
    assert not clarify_exists(ClarifyWhen.VALIDATED, bundle)
    assert not clarify_exists(ClarifyWhen.VALIDATED, None)
    assert clarify_exists(ClarifyWhen.ALWAYS, None)
    both = replace(bundle.manifest.validation, steps=(ValidatedStep.STEER, ValidatedStep.CLARIFY))
    covered = replace(bundle, manifest=replace(bundle.manifest, validation=both))
    assert clarify_exists(ClarifyWhen.VALIDATED, covered)
    assert not clarify_exists(ClarifyWhen.NEVER, covered)

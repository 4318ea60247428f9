"""Hotwire's slots are few and never come back: the proxy counts them, and asks for none beyond them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.bundle import Steering
from proxy.steering.hotwire import Hotwire, SlotBook

triples = st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0]))


@given(st.lists(st.lists(triples, max_size=4), max_size=40), st.integers(0, 16))
def test_no_order_makes_the_book_exceed_the_slots(orders, slots):
    book = SlotBook(slots)
    taken: set = set()
    for order in orders:
        fits = len(taken | set(order)) <= slots
        assert book.has_room(order) is fits
        assert book.take(order) is fits
        if fits:
            taken |= set(order)
        assert book.taken == len(taken) <= slots


@pytest.fixture
def dialect(bundle):
    return Hotwire(bundle, SlotBook(16))


def orders(request):
    return json.loads(request.payload["vllm_xargs"]["hotwire"])


def test_the_order_names_vector_layer_and_scale(dialect, bundle):
    vector = bundle.vector_id("refusal-zh")
    assert orders(dialect.steered({}, Steering(vector, 1.0))) == [
        {"id": vector, "layer": 1, "scale": 1.0},
        {"id": vector, "layer": 3, "scale": 1.0},
    ]


def test_the_seventeenth_triple_is_refused_and_the_first_sixteen_go_on(dialect, bundle):
    vector = bundle.vector_id("refusal-en")
    strengths = [0.25 * step for step in range(1, 17)]
    assert all(dialect.steered({}, Steering(vector, strength)) is not None for strength in strengths)
    beyond = Steering(vector, 9.0)
    assert not dialect.expresses(beyond)
    assert dialect.steered({}, beyond) is None
    assert all(dialect.steered({}, Steering(vector, strength)) is not None for strength in strengths)
    assert dialect.book.taken == 16


def test_a_vector_of_two_layers_needs_two_free_slots(bundle):
    dialect = Hotwire(bundle, SlotBook(2))
    assert dialect.steered({}, Steering(bundle.vector_id("refusal-en"), 2.0)) is not None
    assert dialect.steered({}, Steering(bundle.vector_id("refusal-zh"), 1.0)) is None
    assert dialect.book.taken == 1

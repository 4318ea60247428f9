"""What lives long is left out of garbage collection, and let in again when it no longer does."""

from __future__ import annotations

import gc
import weakref

import pytest

from proxy.heap import set_aside, settled_heap


class Cycle:
    def __init__(self):
        self.me = self


@pytest.fixture(autouse=True)
def everything_counts_again():
    yield
    gc.unfreeze()


def test_it_is_as_before_once_the_context_is_left():
    before = gc.get_threshold()
    with settled_heap():
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


def test_what_is_left_out_can_still_go():
    cycle = Cycle()
    gone = weakref.ref(cycle)
    with settled_heap():
        del cycle
        gc.collect()
        assert gone() is not None
        set_aside()
        assert gone() is None
        assert gc.get_freeze_count() > 1000

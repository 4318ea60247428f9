"""What Python's garbage collector looks at: not, again and again, what lives as long as the application does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["set_aside", "settled_heap"]

# Requests leave next to no cycles behind, so that looking for them after every 700 new objects finds nothing.
_NEW_OBJECTS = 10_000


@contextmanager
def settled_heap() -> Iterator[None]:
    """Collect seldom, and leave out what is there on entry, until the context is left. For the whole process."""
    before = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *before[1:])
    set_aside()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def set_aside() -> None:
    """Collect everything once, what was left out before included, and leave out what remains from now on."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()

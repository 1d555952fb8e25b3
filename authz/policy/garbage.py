"""When the garbage collector rests: while millions of values are made that all stay, it would walk them in vain."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Keep the garbage collector from running; what is made meanwhile holds no cycles.

    It halves the time of a load, and takes nine tenths off that of compiling what was loaded.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

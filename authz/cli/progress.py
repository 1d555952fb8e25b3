"""How far a long command has come, for a person who waits: on the terminal of standard error, and gone afterwards."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What takes no longer needs no word.
QUIET_S: Final = 1.0
_EVERY_S: Final = 0.2


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give the function that shows `what: 42 of 100`, None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    shown_until_s = time.monotonic() + QUIET_S
    shown = False

    def show(done: int, total: int) -> None:
        nonlocal shown_until_s, shown
        now_s = time.monotonic()
        if now_s >= shown_until_s:
            shown_until_s, shown = now_s + _EVERY_S, True
            sys.stderr.write(f"\r\033[K{what}: {done} of {total}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

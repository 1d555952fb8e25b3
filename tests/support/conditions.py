"""Waiting for what another process does and tells nobody."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 60.0
_ASK_EVERY_S = 0.05


def eventually(true: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Ask until it is so."""
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        if true():
            return True
        time.sleep(_ASK_EVERY_S)
    return False

"""The clocks that a check is judged by."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.sidecar.clock_cell import ClockCell

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckClock:
    """`now_ns` is what policies are judged by, and raises ClockError where it cannot be told.

    `latest` is a word of memory with the latest instant that it has shown, to be kept by who reads it. `proof_now_ns`
    is what certificates and tokens are judged by where that is another clock.
    """

    now_ns: Callable[[], int]
    latest: memoryview[int]
    proof_now_ns: Callable[[], int] | None = None

    @classmethod
    def of(cls, cell: ClockCell, *, unsafe: bool) -> Self:
        """Give the clocks of a sidecar; `unsafe`: tests say what is taken for the time."""
        # What reads the word directly pays no call for it.
        if unsafe:
            return cls(now_ns=cell.now_ns, latest=cell.words[:1], proof_now_ns=time.time_ns)
        return cls(now_ns=time.time_ns, latest=cell.words[:1])

    @classmethod
    def alone(cls, now_ns: Callable[[], int] = time.time_ns) -> Self:
        """Give a clock whose latest instant nobody else knows."""
        return cls(now_ns=now_ns, latest=ClockCell().words[:1])

"""The beat of a stream: one tick each 100 ms until its time has passed, or one tick and then silence.

The number of ticks is decided at the start, so a busy machine delays ticks but loses none.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from authz.mesh.echo.answer import TICK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.mesh.echo.answer import StreamWish

#: so that 1.0 s is ten ticks and never an eleventh by the rounding of floats
_ROUNDING = 1e-6


class Ticks:
    """Calls `tick(number)` on each beat and then `end()`; after :meth:`stop` neither is called again."""

    __slots__ = ("_count", "_end", "_end_at", "_first_at", "_loop", "_tick", "_timer", "idle")

    def __init__(
        self, wish: StreamWish, *, started_s: float, tick: Callable[[int], None], end: Callable[[], None]
    ) -> None:
        """Plan the beats; `started_s` is the loop's time when the request started."""
        self._loop = asyncio.get_running_loop()
        self._tick, self._end, self.idle = tick, end, wish.idle
        self._end_at = started_s + wish.seconds
        self._first_at = self._end_at
        self._count = 1
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin with the first tick, at once."""
        self._first_at = self._loop.time()
        if not self.idle:
            self._count = max(1, math.ceil((self._end_at - self._first_at) / TICK_S - _ROUNDING))
        self._beat(0)

    def stop(self) -> None:
        """Call nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, number: int) -> None:
        following = number + 1
        if following < self._count:
            self._timer = self._loop.call_at(self._first_at + following * TICK_S, self._beat, following)
        else:
            self._timer = self._loop.call_at(self._end_at, self._end)
        # Last, because the tick may find that nobody listens any more and stop the beat.
        self._tick(number)

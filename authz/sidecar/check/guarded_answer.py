"""Between transport and checker: what is refused without being decided, and where the records of a worker go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from authz.sidecar.check.ring_entry import RECORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.check_server import Answer
    from authz.sidecar.check.overload import Overload
    from authz.sidecar.record_ring import RingProducer
    from authz.sidecar.worker_cells import Cell

#: how often the clock is read for it: a look costs little beside so many checks
CHECKS_A_LOOK: Final = 64
#: of so many checks in an overload one is decided, so that not everything is refused; of the others one is recorded,
#: and its refusal is given to all
SHED_TOGETHER: Final = 64


class RingRecorder:
    """Puts packed decisions into a ring; with a strict audit, one that finds no room counts as refused."""

    __slots__ = ("_cell", "_ring", "_strict")

    def __init__(self, ring: RingProducer, *, cell: Cell, strict: bool) -> None:
        self._ring = ring
        self._cell = cell
        self._strict = strict

    def __call__(self, packed: bytes) -> bool:
        """Put a record and say whether it is in the ring; never waits."""
        if self._ring.put(RECORD + packed):
            return True
        if self._strict:
            self._cell.refuse()
        return False


class GuardedAnswer:
    """Answers checks, but for those that come too fast to be decided: they are shed, and counted."""

    __slots__ = ("_answer", "_cell", "_clock", "_overload", "_refusal", "_shed", "_turn", "_until_look")

    def __init__(
        self,
        answer: Answer,
        shed: Answer,
        *,
        cell: Cell,
        overload: Overload,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer = answer
        self._shed = shed
        self._cell = cell
        self._overload = overload
        self._clock = clock
        self._until_look = CHECKS_A_LOOK
        self._refusal = b""
        self._turn = 0

    def __call__(self, message: bytes) -> bytes:
        """Answer the bytes of a CheckRequest."""
        if self._overload.on:
            return self._in_overload(message)
        self._turn = 0
        self._until_look -= 1
        if not self._until_look:
            self._until_look = CHECKS_A_LOOK
            self._overload.look(self._clock())
        return self._answer(message)

    def _in_overload(self, message: bytes) -> bytes:
        turn = self._turn
        self._turn = (turn + 1) % SHED_TOGETHER
        if turn == SHED_TOGETHER - 1:
            return self._answer(message)
        self._cell.refuse()
        if not turn:
            self._refusal = self._shed(message)
        return self._refusal

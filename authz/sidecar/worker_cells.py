"""What workers say of themselves, in memory that all processes of a sidecar share: a cell each.

A worker writes its pid, its phase and, every `HEARTBEAT_S`, a beat; the supervisor reads them. Writing is a store of
eight bytes: no lock, no system call. A bell beside the page says that a phase has changed.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final

from authz.sidecar.doorbell import Doorbell

#: how often a worker says that it lives
HEARTBEAT_S: Final = 0.1

_WORDS: Final = 8
_TICKET, _PID, _PHASE, _BEATS, _REFUSED, _HELD, _GENERATION = range(7)


class Phase(IntEnum):
    """How far a worker is."""

    #: nobody has this cell
    FREE = 0
    #: a process is being made
    ASKED = 1
    #: it accepts connections and answers
    SERVING = 2
    #: it accepts no more, and ends when what is under way has ended
    DRAINING = 3


class Cell:
    """One worker's cell; `number` is also its record ring's."""

    __slots__ = ("_words", "number")

    def __init__(self, words: memoryview[int], number: int) -> None:
        self.number = number
        self._words = words

    @property
    def ticket(self) -> int:
        """Which worker the cell is for: one that comes late, with another ticket, ends at once."""
        return self._words[_TICKET]

    @property
    def pid(self) -> int:
        """The worker's process, 0 while there is none."""
        return self._words[_PID]

    @property
    def phase(self) -> Phase:
        """How far the worker is."""
        return Phase(self._words[_PHASE])

    @property
    def beats(self) -> int:
        """How often the worker has said that it lives."""
        return self._words[_BEATS]

    @property
    def refused(self) -> int:
        """How many checks the workers of this cell have answered `overloaded`."""
        return self._words[_REFUSED]

    @property
    def held(self) -> bool:
        """Whether the worker has stopped itself, and waits for the supervisor to have it go on."""
        return self._words[_HELD] != 0

    @property
    def generation(self) -> int:
        """Which set the worker decides by: a later one has a larger number."""
        return self._words[_GENERATION]

    def ask(self, ticket: int, generation: int = 0) -> None:
        """Keep the cell for the worker with this ticket, of this generation."""
        self._words[_PID] = self._words[_BEATS] = self._words[_HELD] = 0
        self._words[_TICKET] = ticket
        self._words[_GENERATION] = generation
        self._words[_PHASE] = Phase.ASKED

    def free(self) -> None:
        """Take the cell back."""
        self._words[_TICKET] = self._words[_PID] = 0
        self._words[_PHASE] = Phase.FREE

    def own(self, pid: int) -> None:
        """Say which process the worker is."""
        self._words[_PID] = pid

    def enter(self, phase: Phase) -> None:
        """Say how far the worker is now."""
        self._words[_PHASE] = phase

    def beat(self) -> None:
        """Say that the worker lives."""
        self._words[_BEATS] += 1

    def hold(self, *, held: bool) -> None:
        """Say whether the worker stops with its supervisor."""
        self._words[_HELD] = held

    def refuse(self) -> None:
        """Count a check that is answered `overloaded`."""
        self._words[_REFUSED] += 1


class WorkerCells:
    """The page of cells, and the bell that wakes the supervisor."""

    def __init__(self, count: int) -> None:
        words = memoryview(mmap.mmap(-1, count * _WORDS * 8)).cast("Q")
        self.cells = tuple(Cell(words[at * _WORDS : (at + 1) * _WORDS], at) for at in range(count))
        #: rung when a phase has changed
        self.bell = Doorbell()

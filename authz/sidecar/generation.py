"""One compiled set and the workers that answer by it, as the supervisor sees them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from authz.sidecar.backoff import Backoff
from authz.sidecar.channel import ForkWorker
from authz.sidecar.worker_cells import Phase

if TYPE_CHECKING:
    from authz.sidecar.channel import Channel, SetCompiled
    from authz.sidecar.worker_cells import Cell

_log = logging.getLogger(__name__)

#: looks without a heartbeat after which a worker is hung. Looks are counted and not seconds: where the whole machine
#: stood still, or has no time for anyone, nobody is killed for it.
HUNG_AFTER_LOOKS: Final = 10
#: how long a fork may take; a compiler that does not do it is hung
START_PATIENCE_S: Final = 5.0
#: what has not ended so long after it was told is killed
DRAIN_PATIENCE_S: Final = 4.0


@dataclass(slots=True, kw_only=True)
class WorkerSeen:
    """A worker that was asked for: its cell, and what the last look at it saw."""

    slot: int
    cell: Cell
    asked_s: float
    beats: int = 0
    missed_looks: int = 0
    told_to_end_s: float | None = None

    @property
    def serves(self) -> bool:
        """Whether it accepts connections."""
        return self.cell.phase is Phase.SERVING

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; the process is a child that nobody has reaped yet."""
        if self.cell.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.cell.pid, number)

    def is_hung(self) -> bool:
        """Look at the heartbeat; gives whether there was none for too long."""
        beats = self.cell.beats
        self.missed_looks = 0 if beats != self.beats else self.missed_looks + 1
        self.beats = beats
        return self.missed_looks >= HUNG_AFTER_LOOKS

    def end(self, now_s: float) -> None:
        """Tell it to drain; one that does not serve yet is killed."""
        if self.told_to_end_s is None:
            self.told_to_end_s = now_s
            self.signal(signal.SIGTERM if self.cell.phase is not Phase.ASKED else signal.SIGKILL)


@dataclass(slots=True, kw_only=True)
class Generation:
    """A compiler's set; `channel` is None once the compiler has gone.

    `again` and `empty` are as in the order that made it. `replaces`: its own workers take over; one that does not
    only forks for the generation in force, whose compiler has gone.
    """

    channel: Channel | None
    #: a later one has a larger number
    number: int = 0
    again: bool = False
    empty: bool = False
    replaces: bool = True
    compiler_pid: int = 0
    result: SetCompiled | None = None
    source: int | None = None
    workers: list[WorkerSeen] = field(default_factory=list)
    starts: dict[int, Backoff] = field(default_factory=dict)
    failed_starts: int = 0

    @property
    def is_being_made(self) -> bool:
        """Whether its compiler still makes a set of what stands in the folder."""
        return self.result is None and not self.again and not self.empty

    @property
    def revision(self) -> str | None:
        """The revision that its workers answer by."""
        return None if self.result is None else self.result.revision

    @property
    def serving_slots(self) -> set[int]:
        """The sockets on which a worker of this generation accepts connections."""
        return {worker.slot for worker in self.workers if worker.serves}

    def lacking_slots(self, slots: int, now_s: float) -> list[int]:
        """Give the sockets that have no worker and may have one now."""
        there = {worker.slot for worker in self.workers if worker.told_to_end_s is None}
        return [slot for slot in range(slots) if slot not in there and self.backoff(slot).due_s <= now_s]

    def backoff(self, slot: int) -> Backoff:
        """Give when a socket may have its next worker."""
        return self.starts.setdefault(slot, Backoff())

    def ask(self, slot: int, cell: Cell, ticket: int, now_s: float) -> bool:
        """Have a worker forked; False where there is no compiler to do it."""
        if self.channel is None:
            return False
        cell.ask(ticket, self.number)
        if not self.channel.send(ForkWorker(slot=slot, cell=cell.number, ticket=ticket)):
            cell.free()
            return False
        self.workers.append(WorkerSeen(slot=slot, cell=cell, asked_s=now_s))
        return True

    def worker(self, pid: int) -> WorkerSeen | None:
        """Give the worker that is this process."""
        return next((worker for worker in self.workers if worker.cell.pid == pid), None)

    def kill_compiler(self) -> None:
        """End the compiler: it holds nothing that must be put in order."""
        if self.compiler_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.compiler_pid, signal.SIGKILL)

    def forget_source(self) -> None:
        """Give the source's memory back."""
        if self.source is not None:
            os.close(self.source)
            self.source = None

"""The memory that all processes of a sidecar share: made by the supervisor before it forks the first of them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from authz.sidecar.clock_cell import ClockCell
from authz.sidecar.doorbell import Doorbell
from authz.sidecar.record_ring import ring_memory
from authz.sidecar.worker_cells import WorkerCells

if TYPE_CHECKING:
    from typing import Self

    from authz.sidecar.worker_cells import Cell

#: workers of two generations at a handover, and those of two more that still drain
GENERATIONS_AT_ONCE: Final = 4
#: a SPIFFE ID has at most 2,048 bytes (SPIFFE ID 2.3), and JSON may make six of each
IDENTITY_BYTES: Final = 16 * 1024
#: the bundles that a sidecar trusts: an authority has 1 to 2 KiB in them, so a thousand of them find room
TRUST_BYTES: Final = 2 * 1024 * 1024
#: the authorities of callers without SPIFFE IDs: two of the largest, or a thousand of the usual size
AUTHORITIES_BYTES: Final = 2 * 1024 * 1024
#: what an edit takes away: the names of 4,000 policies of at most 63 characters
TIGHTENING_BYTES: Final = 256 * 1024
_JOURNAL_BYTES: Final = 4096
#: some hundred calls of 4 KiB (a certificate, the headers) that begin before the hold looks
NOTICE_RING_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """`rings` has one ring for each worker's cell: its records, which its successor in the cell goes on with.

    The cell after those is control's own, and the last one the hold's, which has a ring for its log, too. `notices` has
    one more ring for each worker's cell: the calls that are to be held; none where there is no hold.
    """

    cells: WorkerCells
    rings: tuple[mmap.mmap, ...]
    identity: mmap.mmap
    trust: mmap.mmap
    authorities: mmap.mmap
    tightening: mmap.mmap
    journal: mmap.mmap
    notices: tuple[mmap.mmap, ...]
    #: rung for the first record after a pause
    records_bell: Doorbell
    #: the same for the first notice
    notices_bell: Doorbell
    #: what is taken for the time, and the latest instant seen
    clock: ClockCell = field(default_factory=ClockCell)

    @property
    def worker_cells(self) -> tuple[Cell, ...]:
        """The cells that workers may have."""
        return self.cells.cells[:-2]

    @property
    def control_cell(self) -> Cell:
        """Where control says that it lives."""
        return self.cells.cells[-2]

    @property
    def hold_cell(self) -> Cell:
        """Where the hold says that it lives."""
        return self.cells.cells[-1]

    @property
    def hold_ring(self) -> mmap.mmap:
        """What the hold logs."""
        return self.rings[-1]

    @classmethod
    def for_workers(cls, workers: int, *, ring_bytes: int, holds: bool = False, clock: ClockCell | None = None) -> Self:
        """Make the memory for so many workers at once; `holds`: there is a hold."""
        count = workers * GENERATIONS_AT_ONCE
        return cls(
            cells=WorkerCells(count + 2),
            rings=tuple(ring_memory(ring_bytes) for _ in range(count + holds)),
            notices=tuple(ring_memory(NOTICE_RING_BYTES) for _ in range(count * holds)),
            identity=mmap.mmap(-1, IDENTITY_BYTES),
            trust=mmap.mmap(-1, TRUST_BYTES),
            authorities=mmap.mmap(-1, AUTHORITIES_BYTES),
            tightening=mmap.mmap(-1, TIGHTENING_BYTES),
            journal=mmap.mmap(-1, _JOURNAL_BYTES),
            records_bell=Doorbell(),
            notices_bell=Doorbell(),
            clock=ClockCell() if clock is None else clock,
        )

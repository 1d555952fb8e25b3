"""The memory that all processes of a sidecar share: made by the supervisor before it forks the first of them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
_JOURNAL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """`rings` has one ring for each worker's cell: its records, which its successor in the cell goes on with.

    The cell after those is control's own.
    """

    cells: WorkerCells
    rings: tuple[mmap.mmap, ...]
    identity: mmap.mmap
    trust: mmap.mmap
    journal: mmap.mmap
    #: rung for the first record after a pause
    records_bell: Doorbell

    @property
    def worker_cells(self) -> tuple[Cell, ...]:
        """The cells that workers may have."""
        return self.cells.cells[:-1]

    @property
    def control_cell(self) -> Cell:
        """Where control says that it lives."""
        return self.cells.cells[-1]

    @classmethod
    def for_workers(cls, workers: int, *, ring_bytes: int) -> Self:
        """Make the memory for so many workers at once."""
        count = workers * GENERATIONS_AT_ONCE
        return cls(
            cells=WorkerCells(count + 1),
            rings=tuple(ring_memory(ring_bytes) for _ in range(count)),
            identity=mmap.mmap(-1, IDENTITY_BYTES),
            trust=mmap.mmap(-1, TRUST_BYTES),
            journal=mmap.mmap(-1, _JOURNAL_BYTES),
            records_bell=Doorbell(),
        )

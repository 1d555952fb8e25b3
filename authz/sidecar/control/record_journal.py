"""How far control has come, in memory that survives it: whoever follows one that was killed goes on exactly there.

For each ring the position up to which its records stand in the decision log, and the one up to which those that are
kept in full stand in the spool. (Up to which flows stand there is what the ring itself calls committed.) Beside them
what is being written, so that a successor can find out whether it was, and the numbers of what was lost.

Words of 64 bits, each written at once; the one that says that something is being written is written last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.sidecar.control.decision_log import LogPlace

if TYPE_CHECKING:
    import mmap

#: so many words of the memory are for all rings together, then come LANES for each of them
_WORDS: Final = 32
_LANES: Final = 4
_LOGGING, _DEVICE, _INODE, _SIZE = range(4)
_SPOOLING, _SPOOLING_LAST, _BOOT, _BOOT_DRAWN, _SEQUENCE = range(4, 9)
#: Each number stands beside what it becomes if control is killed now, or what it will be when something is done: a
#: successor takes that over, once or several times with the same result.
_LOST, _LOST_THEN, _UNJOINED, _UNJOINED_THEN, _DROPPED, _DROPPED_THEN, _HANDSHAKES = range(9, 16)
_NEXT_UNJOINED, _NEXT_UNJOINED_THEN = range(16, 18)
_LANE_LOGGED, _LANE_KEPT, _LANE_NEXT_COMMITTED, _LANE_NEXT_KEPT = range(_LANES)
_END: Final = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledUpTo:
    """Positions, by ring: flows of what lies before `committed` are in the spool, and records before `kept`."""

    committed: tuple[int, ...]
    kept: tuple[int, ...]


class RecordJournal:
    """The words; for control's main loop. Counters only grow, but for `at_risk` and `pending`."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._words = memoryview(memory).cast("Q")

    # --- the decision log

    def begin(self, ring: int, place: LogPlace) -> None:
        """Say what is about to be written into the decision log, and where that ends."""
        words = self._words
        words[_DEVICE], words[_INODE], words[_SIZE] = place.device, place.inode, place.size_bytes
        words[_LOGGING] = ring + 1

    def end(self) -> None:
        """Say that nothing is being written into the decision log."""
        self._words[_LOGGING] = 0

    @property
    def begun(self) -> tuple[int, LogPlace] | None:
        """What was being written when the last writer ended, if anything."""
        words = self._words
        if not words[_LOGGING]:
            return None
        place = LogPlace(device=words[_DEVICE], inode=words[_INODE], size_bytes=words[_SIZE])
        return words[_LOGGING] - 1, place

    def logged(self, ring: int) -> int:
        """Give the position up to which a ring's records are in the decision log."""
        return self._words[_lane(ring) + _LANE_LOGGED]

    def set_logged(self, ring: int, position: int) -> None:
        """Say up to which position a ring's records are in the decision log."""
        self._words[_lane(ring) + _LANE_LOGGED] = position

    # --- the spool

    @property
    def boot(self) -> str | None:
        """What the batches of this start of the sidecar are named by, None where there was none yet."""
        began_ns, drawn = self._words[_BOOT], self._words[_BOOT_DRAWN]
        return f"{began_ns:016x}{drawn:016x}" if began_ns else None

    def set_boot(self, began_ns: int, drawn: int) -> None:
        """Name the batches; sequences begin anew."""
        self._words[_BOOT_DRAWN] = drawn
        self._words[_SEQUENCE] = 0
        self._words[_BOOT] = began_ns

    @property
    def sequence(self) -> int:
        """The number of the last batch that was written."""
        return self._words[_SEQUENCE]

    def begin_spooling(self, first: int, last: int, up_to: SpooledUpTo, *, unjoined: int, pending: int) -> None:
        """Say which batches are about to be written, and how far what was counted is in them.

        With them so many decisions are `unjoined`, in all, and of so many others the ends are still to come.
        """
        words = self._words
        for ring, (committed, kept) in enumerate(zip(up_to.committed, up_to.kept, strict=True)):
            words[_lane(ring) + _LANE_NEXT_COMMITTED] = committed
            words[_lane(ring) + _LANE_NEXT_KEPT] = kept
        words[_NEXT_UNJOINED] = unjoined % _END
        words[_NEXT_UNJOINED_THEN] = (unjoined + max(0, pending)) % _END
        words[_SPOOLING_LAST] = last
        words[_SPOOLING] = first

    @property
    def spooling(self) -> tuple[int, int] | None:
        """Give what was about to be written when the last writer ended, if anything: the first and the last batch."""
        words = self._words
        return (words[_SPOOLING], words[_SPOOLING_LAST]) if words[_SPOOLING] else None

    def spooled(self, rings: int) -> SpooledUpTo:
        """Take over what was said of the batches that are written now; gives how far they go.

        `forget_spooling` is to follow, once that has been acted upon.
        """
        words = self._words
        for ring in range(rings):
            words[_lane(ring) + _LANE_KEPT] = words[_lane(ring) + _LANE_NEXT_KEPT]
        words[_UNJOINED] = words[_NEXT_UNJOINED]
        words[_UNJOINED_THEN] = words[_NEXT_UNJOINED_THEN]
        words[_LOST_THEN] = words[_LOST]
        words[_SEQUENCE] = words[_SPOOLING_LAST]
        return SpooledUpTo(
            committed=tuple(words[_lane(ring) + _LANE_NEXT_COMMITTED] for ring in range(rings)),
            kept=tuple(words[_lane(ring) + _LANE_NEXT_KEPT] for ring in range(rings)),
        )

    def forget_spooling(self) -> None:
        """Say that no batch is being written."""
        self._words[_SPOOLING] = 0

    def kept(self, ring: int) -> int:
        """Give the position up to which a ring's kept records are in the spool."""
        return self._words[_lane(ring) + _LANE_KEPT]

    # --- numbers

    @property
    def lost(self) -> int:
        """Decisions that were counted in the memory of a control that was killed, and nowhere else."""
        return self._words[_LOST]

    @property
    def unjoined(self) -> int:
        """Decisions in spooled flows of whose calls nothing else was, or will be, heard."""
        return self._words[_UNJOINED]

    @property
    def pending(self) -> int:
        """Decisions in spooled flows whose ends are in none of them yet."""
        return (self._words[_UNJOINED_THEN] - self._words[_UNJOINED]) % _END

    @property
    def dropped(self) -> int:
        """Decisions in batches that the spool had no room for any more."""
        return self._words[_DROPPED]

    @property
    def failed_handshakes(self) -> int:
        """Handshakes that failed."""
        return self._words[_HANDSHAKES]

    def set_at_risk(self, count: int) -> None:
        """Say how many decisions are counted in control's memory only, and no more in their rings."""
        self._words[_LOST_THEN] = (self._words[_LOST] + count) % _END

    def add_failed_handshakes(self, count: int) -> None:
        """Count handshakes that failed."""
        self._words[_HANDSHAKES] = (self._words[_HANDSHAKES] + count) % _END

    def begin_drop(self, decisions: int) -> None:
        """Say how many decisions go with a batch that is about to be dropped."""
        self._words[_DROPPED_THEN] = (self._words[_DROPPED] + decisions) % _END

    @property
    def drops(self) -> bool:
        """Whether a batch was about to be dropped when the last writer ended."""
        return self._words[_DROPPED] != self._words[_DROPPED_THEN]

    def end_drop(self, *, dropped: bool) -> None:
        """Say whether it was."""
        words = self._words
        if dropped:
            words[_DROPPED] = words[_DROPPED_THEN]
        else:
            words[_DROPPED_THEN] = words[_DROPPED]

    def succeed(self) -> None:
        """Count what went with the memory of a control that was killed; called by its successor."""
        words = self._words
        words[_LOST] = words[_LOST_THEN]
        words[_UNJOINED] = words[_UNJOINED_THEN]


def _lane(ring: int) -> int:
    return _WORDS + ring * _LANES

"""A bounded ring of records in shared memory: one process puts, another takes, and neither ever waits for the other.

`put` copies a record and moves `head`, the last thing that it does: who is killed before has put nothing. `take` gives
what stands between `tail` and `head`, and only `commit` moves `tail`: who is killed before takes the same again. Both
positions count bytes since the ring was made, so that a record's position is its sequence number. A killed producer or
consumer is followed by another one that goes on where the memory says.

A consumer that finds nothing for a while says that it sleeps; the next `put` wakes it, by one write that never waits. A
consumer that is awake looks by itself: then `put` makes no system call at all.

The layout: 64 bytes of header, then the entries: length, CRC-32 and position, then the record, in steps of 8 bytes. An
entry does not wrap: what is left at the end of the memory is padding. The CRC begins with the complement of position
and length, so that zeros, which memory has that nobody has written to, are no entry.

INVARIANT (bytes are claims): whatever stands in the memory, `take` ends, raises nothing, and gives only entries whose
position and CRC are right; from the first that is not, it skips to `head` and counts it.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable

#: about 24,000 records of 350 bytes: a second of a busy worker's answers
DEFAULT_CAPACITY_BYTES: Final = 8 * 1024 * 1024
#: what is taken at once at most, unless one record alone is longer
DEFAULT_TAKE_BYTES: Final = 256 * 1024

_HEADER_BYTES: Final = 64
_HEAD, _TAIL, _LOST, _CORRUPT, _SLEEPS = range(5)
_ENTRY: Final = struct.Struct("<IIQ")
_ENTRY_BYTES: Final = _ENTRY.size
_PACKED_ENTRY: Final = _ENTRY.pack
_LENGTH: Final = struct.Struct("<I")
_STEP_BYTES: Final = 8
_PADDING: Final = 0xFFFF_FFFF
_MASK_32: Final = 0xFFFF_FFFF


def ring_memory(capacity_bytes: int = DEFAULT_CAPACITY_BYTES) -> mmap.mmap:
    """Give the memory of a new ring; processes that are forked from this one share it."""
    if capacity_bytes <= 0 or capacity_bytes % _STEP_BYTES:
        raise ValueError(f"a ring has a multiple of {_STEP_BYTES} bytes, not {capacity_bytes}")
    return mmap.mmap(-1, _HEADER_BYTES + capacity_bytes)


class Entry(NamedTuple):
    """A record that was put, and the position that is committed once it has been dealt with."""

    record: bytes
    end: int


class RingProducer:
    """The end that puts; there is one at a time."""

    __slots__ = ("_capacity", "_largest", "_memory", "_wake", "_words")

    def __init__(self, memory: mmap.mmap, *, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._memory = memory
        self._words = memoryview(memory)[:_HEADER_BYTES].cast("Q")
        self._capacity = len(memory) - _HEADER_BYTES
        # An entry and the padding before it then always fit into an empty ring.
        self._largest = self._capacity // 4 - _ENTRY_BYTES

    def put(self, record: bytes) -> bool:
        """Put a record; False, and counted, where there is no room for it. Never waits."""
        length = len(record)
        size = (_ENTRY_BYTES + length + _STEP_BYTES - 1) & -_STEP_BYTES
        words = self._words
        capacity = self._capacity
        head = words[_HEAD]
        used = head - words[_TAIL]
        offset = head % capacity
        end = head + size
        if offset + size > capacity:
            end += capacity - offset
        if not 0 <= used <= capacity - (end - head) or length > self._largest:
            words[_LOST] = (words[_LOST] + 1) % 2**64
            return False
        if offset + size > capacity:
            _LENGTH.pack_into(self._memory, _HEADER_BYTES + offset, _PADDING)
            head += capacity - offset
            offset = 0
        start = _HEADER_BYTES + offset
        self._memory[start : start + _ENTRY_BYTES + length] = (
            _PACKED_ENTRY(length, crc32(record, ~(head ^ length) & _MASK_32), head) + record
        )
        words[_HEAD] = end
        if words[_SLEEPS]:
            words[_SLEEPS] = 0
            self._wake()
        return True

    @property
    def lost(self) -> int:
        """How many records found no room since the ring was made."""
        return self._words[_LOST]


class RingConsumer:
    """The end that takes; there is one at a time.

    It may read on beyond what is committed: who is killed then is followed by one that reads the same again.
    """

    __slots__ = ("_capacity", "_doubted", "_memory", "_read", "_words")

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._words = memoryview(memory)[:_HEADER_BYTES].cast("Q")
        self._capacity = len(memory) - _HEADER_BYTES
        self._doubted = -1
        #: as far as `read_on` has come
        self._read = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to be taken, or read on."""
        return self._words[_HEAD] == max(self._words[_TAIL], self._read)

    @property
    def lost(self) -> int:
        """How many records found no room since the ring was made."""
        return self._words[_LOST]

    @property
    def corrupt(self) -> int:
        """How often something was skipped that no producer had put so."""
        return self._words[_CORRUPT]

    @property
    def committed(self) -> int:
        """The position up to which everything was dealt with."""
        return self._words[_TAIL]

    @property
    def capacity(self) -> int:
        """How many bytes of entries the ring holds."""
        return self._capacity

    @property
    def used_share(self) -> float:
        """How much of the room is taken: 1 where nothing more finds any."""
        return min(1.0, max(0, self._words[_HEAD] - self._words[_TAIL]) / self._capacity)

    def sleep(self) -> bool:
        """Say that the next record is to wake this end; False where there is one already."""
        self._words[_SLEEPS] = 1
        return self.is_empty

    def take(self, limit_bytes: int = DEFAULT_TAKE_BYTES, *, after: int = 0) -> list[Entry]:
        """Give the oldest records that are not committed, in order; the same again until they are.

        `after` leaves out what stands before that position.
        """
        return self._entries(max(after, self._words[_TAIL]), limit_bytes)

    def read_on(self, limit_bytes: int = DEFAULT_TAKE_BYTES) -> list[Entry]:
        """Give the records behind those that were read on before, committed or not."""
        taken = self._entries(max(self._read, self._words[_TAIL]), limit_bytes)
        if taken:
            self._read = taken[-1].end
        return taken

    def _entries(self, position: int, limit_bytes: int) -> list[Entry]:
        head = self._words[_HEAD]
        capacity, start_position = self._capacity, position
        if not 0 <= head - position <= capacity or head % _STEP_BYTES or position % _STEP_BYTES:
            self._skip(head, start_position)
            return []
        memory, unpack = self._memory, _ENTRY.unpack_from
        taken: list[Entry] = []
        total = 0
        while position < head and (not taken or total < limit_bytes):
            offset = position % capacity
            rest = capacity - offset
            start = _HEADER_BYTES + offset
            if rest >= _ENTRY_BYTES:
                length, checksum, said = unpack(memory, start)
            else:
                length, checksum, said = _LENGTH.unpack_from(memory, start)[0], 0, -1
            if length == _PADDING:
                position += rest
                continue
            size = _ENTRY_BYTES + length
            # INVARIANT (bytes are claims)
            if said == position and size <= rest and size <= head - position:
                record = memory[start + _ENTRY_BYTES : start + size]
                if crc32(record, ~(position ^ length) & _MASK_32) == checksum:
                    position += (size + _STEP_BYTES - 1) & -_STEP_BYTES
                    total += length
                    taken.append(Entry(record, position))
                    continue
            # A processor that reorders stores may show `head` before the entry: it is looked at twice.
            if self._doubted == position and not taken:
                self._skip(head, start_position)
            elif not taken:
                self._doubted = position
            break
        return taken

    def commit(self, end: int) -> None:
        """Give the room of everything up to `end` back; it is never taken again."""
        self._words[_TAIL] = end

    def _skip(self, head: int, position: int) -> None:
        """Go on behind what no producer can have put; what was read on before it and is not committed stays."""
        self._words[_CORRUPT] = (self._words[_CORRUPT] + 1) % 2**64
        # A head that no producer can have written is put right as well, or nothing would ever fit again.
        if head % _STEP_BYTES:
            head = self._words[_HEAD] = (head + _STEP_BYTES) & -_STEP_BYTES % 2**64
        if position == self._words[_TAIL] or not 0 <= head - self._words[_TAIL] <= self._capacity:
            self._words[_TAIL] = head
        self._read = head
        self._doubted = -1

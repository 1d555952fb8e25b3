"""From the workers' rings to the decision log: every record once, in its worker's order, whoever is killed when.

A record leaves its ring after it was written. Before each write the journal, in shared memory, says which ring is being
written and where the file ends; a drain that was killed in between is followed by one that reads what stands behind
that place, and takes it for written. Where that cannot be read (a pipe, a file that has gone) a record may come twice.

What the disk refuses stays in its ring and is tried again: records are lost only when a ring is full, and counted.

Control's own records (of handshakes that failed) are written in between. They wait in control's memory and end with
it, and never stand within another record's line.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from authz.records.errors import RecordError
from authz.sidecar.check.ring_entry import LOG_LINE, LOST_GRANT, RECORD
from authz.sidecar.control.decision_log import LogPlace

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence

    from authz.sidecar.control.decision_log import DecisionLog
    from authz.sidecar.record_ring import Entry, RingConsumer

_log = logging.getLogger(__name__)

_KIND_BYTES: Final = 1
#: lines of control's own that wait for the disk; more come only while it takes nothing
_MOST_OWN_LINES: Final = 1000
_NOTHING, _DEVICE, _INODE, _SIZE = range(4)


def _nobody_asks(_content: bytes) -> None:
    """Take the word of a call that has lost its grant where nothing is written of it."""


class Journal:
    """Which ring is being written, and where the file ended before; survives who writes."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._words = memoryview(memory).cast("Q")

    def begin(self, ring: int, place: LogPlace) -> None:
        """Say what is about to be written."""
        words = self._words
        words[_DEVICE], words[_INODE], words[_SIZE] = place.device, place.inode, place.size_bytes
        words[_NOTHING] = ring + 1

    def end(self) -> None:
        """Say that nothing is being written."""
        self._words[_NOTHING] = 0

    @property
    def begun(self) -> tuple[int, LogPlace] | None:
        """What was being written when the last writer ended, if anything."""
        words = self._words
        if not words[_NOTHING]:
            return None
        place = LogPlace(device=words[_DEVICE], inode=words[_INODE], size_bytes=words[_SIZE])
        return words[_NOTHING] - 1, place


class RecordDrain:
    """Empties the rings; without a log only the workers' own log lines are of interest.

    `line` gives the line of a record, the same one each time; raises RecordError for what is none.
    """

    def __init__(
        self,
        *,
        rings: Sequence[RingConsumer],
        log: DecisionLog | None,
        journal: Journal,
        line: Callable[[bytes], bytes],
        lost_grant: Callable[[bytes], None] = _nobody_asks,
    ) -> None:
        """Take what makes lines of records, and whom to tell of calls that have lost their grant."""
        self._line_of = line
        self._lost_grant = lost_grant
        self._rings = rings
        self._log = log
        self._journal = journal
        #: the ring whose oldest record is partly in the file that was opened so-manieth, and how much of it
        self._partly: tuple[int, int, int] | None = None
        self._opened = 0
        #: control's own lines, and how much of the first one is in the file that was opened so-manieth
        self._own: deque[bytes] = deque()
        self._own_partly: tuple[int, int] | None = None
        #: control's own lines that found no room
        self.own_lost = 0
        if log is not None:
            self._recover(log)

    def put(self, line: bytes) -> None:
        """Have a line of control's own written, its line end included; one that finds no room is counted."""
        if len(self._own) < _MOST_OWN_LINES:
            self._own.append(line)
        else:
            self.own_lost += 1

    def drain(self) -> bool:
        """Write what there is, at most a batch of each ring; gives whether any of it could be dealt with."""
        moved = self._log is not None and self._partly is None and self._write_own(self._log)
        if self._own_partly is not None:
            return moved
        for number, ring in self._in_order():
            if ring.is_empty:
                continue
            entries = ring.take()
            if not entries:
                continue
            if self._log is None:
                self._say_lines(entries)
                ring.commit(entries[-1].end)
                moved = True
            elif self._write(self._log, number, ring, entries):
                moved = True
            elif self._partly is not None:
                break
        return moved

    @property
    def is_empty(self) -> bool:
        """Whether everything that was recorded is written."""
        return not self._own and all(ring.is_empty for ring in self._rings)

    def _in_order(self) -> list[tuple[int, RingConsumer]]:
        """Give the rings; the one whose record is partly written comes first, as its line must be ended first."""
        first = -1 if self._partly is None else self._partly[0]
        return sorted(enumerate(self._rings), key=lambda one: one[0] != first)

    def _write_own(self, log: DecisionLog) -> bool:
        """Write control's own lines, as many as are taken; one that was begun in this file is ended first."""
        if not self._own:
            return False
        begun = 0
        if self._own_partly is not None and self._own_partly[0] == log.opened:
            begun = self._own_partly[1]
        ahead = b""
        if self._opened != log.opened:
            ahead = b"\n" if not begun and log.ends_within_a_line() else b""
        text = ahead + b"".join(self._own)[begun:]
        taken = log.write(text)
        if taken:
            self._opened = log.opened
        written = begun + max(0, taken - len(ahead))
        moved = False
        while self._own and len(self._own[0]) <= written:
            written -= len(self._own.popleft())
            moved = True
        self._own_partly = (log.opened, written) if written else None
        return moved

    def _write(self, log: DecisionLog, number: int, ring: RingConsumer, entries: list[Entry]) -> bool:
        begun = self._begun(log, number)
        lines = self._lines(entries)
        ahead = b""
        if self._opened != log.opened:
            ahead = b"\n" if not begun and log.ends_within_a_line() else b""
        place = log.place()
        if place is not None:
            self._journal.begin(number, place)
        text = ahead + b"".join(lines)[begun:]
        taken = log.write(text) if text else 0
        if taken:
            self._opened = log.opened
        written = begun + max(0, taken - len(ahead))
        self._partly = None
        done = entries
        if taken < len(text):
            done = []
            for entry, line in zip(entries, lines, strict=True):
                if len(line) > written:
                    if written:
                        self._partly = (number, log.opened, written)
                    break
                written -= len(line)
                done.append(entry)
        if done:
            if not all(lines):
                self._say_lines(done)
            ring.commit(done[-1].end)
        self._journal.end()
        return bool(done)

    def _begun(self, log: DecisionLog, number: int) -> int:
        """How much of the ring's oldest record stands at the end of the file already."""
        if self._partly is None:
            return 0
        ring, opened, length = self._partly
        return length if (ring, opened) == (number, log.opened) else 0

    def _recover(self, log: DecisionLog) -> None:
        begun = self._journal.begun
        if begun is None or not 0 <= begun[0] < len(self._rings):
            return
        number, place = begun
        ring = self._rings[number]
        written = log.written_since(place)
        at, end = 0, None
        for entry in ring.take():
            line = self._line(entry)
            if not line:
                continue
            found = written.find(line, at)
            if found < 0:
                rest, now = written[at:], log.place()
                if rest and line.startswith(rest) and now == replace(place, size_bytes=place.size_bytes + len(written)):
                    self._partly = (number, log.opened, len(rest))
                    self._opened = log.opened
                break
            at, end = found + len(line), entry.end
        if end is not None:
            ring.commit(end)
        self._journal.end()

    def _say_lines(self, entries: list[Entry]) -> None:
        for record, _ in entries:
            if record.startswith(LOG_LINE) and len(record) > _KIND_BYTES:
                level, text = record[_KIND_BYTES], record[_KIND_BYTES + 1 :]
                _log.log(level, "%s", text.decode("utf-8", "replace"))
            elif record.startswith(LOST_GRANT):
                self._lost_grant(record[_KIND_BYTES:])

    def _lines(self, entries: list[Entry]) -> list[bytes]:
        """Give what of each entry belongs into the decision log."""
        line_of = self._line_of
        try:
            return [line_of(record[_KIND_BYTES:]) if record.startswith(RECORD) else b"" for record, _ in entries]
        except RecordError:  # one of them: which, is found out more slowly
            return [self._line(entry) for entry in entries]

    def _line(self, entry: Entry) -> bytes:
        """Give what of an entry belongs into the decision log."""
        record = entry.record
        if not record.startswith(RECORD):
            return b""
        try:
            return self._line_of(record[_KIND_BYTES:])
        except RecordError as error:
            _log.error("a record is lost: %s", error)
            return b""

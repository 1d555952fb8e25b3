"""From the workers' rings to the decision log and what else is made of records: every one once, whoever is killed when.

Records are read on from their rings, and wait there, for a moment, for the ends of their calls (`Recording` says how
long). Then their lines are written, and they are counted. A record leaves its ring when everything that is made of it
is on disk (`commit`); until then whoever is killed is followed by one that reads it again, and knows by the journal how
far the decision log goes: what stands in the file behind the place where the last write began is taken for written.
Where that cannot be read (a pipe, a file that has gone) a record may stand there twice.

What the disk refuses stays in its ring and is tried again a moment later, and not at every look, which would keep a
processor from those who check: records are lost only when a ring is full, and counted.

Control's own records (of handshakes that failed) are written in between. They wait in control's memory and end with
it, and never stand within another record's line.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from authz.instant import NS_PER_MS
from authz.records.errors import RecordError
from authz.sidecar.check.ring_entry import LOG_LINE, LOST_GRANT, RECORD
from authz.sidecar.record_ring import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz.records.call_end import CallEnd
    from authz.records.flow import FlowKey
    from authz.records.recorded_decision import RecordedDecision
    from authz.sidecar.control.decision_log import DecisionLog, LogPlace
    from authz.sidecar.control.record_journal import RecordJournal
    from authz.sidecar.record_ring import RingConsumer

_log = logging.getLogger(__name__)

_KIND_BYTES: Final = 1
#: lines of control's own that wait for the disk; more come only while it takes nothing
_MOST_OWN_LINES: Final = 1000
#: lines are written so many bytes at once, and the last line's more
_WRITE_BYTES: Final = 256 * 1024
#: A log that took nothing is tried again after so long: what waits for it is put together for each try.
_RETRY_NS: Final = 100 * NS_PER_MS
#: Where so much of a ring waits for the ends of calls, records wait no longer.
_MOST_WAITING_SHARE: Final = 0.25
#: By its first bytes a line is known again in the decision log: the decision's id is among them.
_MARK_BYTES: Final = len('{"decision_id":"') + 32


def _nobody_asks(_content: bytes) -> None:
    """Take the word of a call that has lost its grant where nothing is written of it."""


class Held:
    """A record that was read on from its ring: it waits for the end of its call, then for the disk.

    `recorded` is None for what is no decision. `end` is filled in when it is known; `until_ns`, of a clock that only
    goes on, is how long it is waited for. `text` is the line, once there is one.
    """

    __slots__ = ("end", "entry", "key", "recorded", "text", "time_ns", "unjoined", "until_ns")

    def __init__(self, entry: Entry, recorded: RecordedDecision | None = None, until_ns: int = 0) -> None:
        self.entry = entry
        self.recorded = recorded
        self.until_ns = until_ns
        self.end: CallEnd | None = None
        self.text: bytes | None = None
        #: of its flow and its interval, from when it is counted on: all that is kept while its call runs
        self.key: FlowKey | None = None
        self.time_ns = 0
        #: it is not waited for any longer
        self.unjoined = False


class Recording(Protocol):
    """What is made of records beside the decision log."""

    def read(self, packed: bytes, entry: Entry) -> Held:
        """Read a record; raises RecordError for what is none. Nothing follows from it yet."""

    def expect(self, held: Held) -> None:
        """Take a record that was read on: from now on its call's end may come."""

    def line(self, held: Held) -> bytes:
        """Give its line, with what is known of its call's end by now."""

    def end(self, held: Held, ring: int) -> None:
        """Count a record whose line was written; those of a ring come in their order."""


class Lane:
    """One ring, and what was read on from it."""

    __slots__ = ("begun", "done", "held", "number", "opened", "ready", "ring")

    def __init__(self, ring: RingConsumer, number: int) -> None:
        self.ring = ring
        self.number = number
        self.held: deque[Held] = deque()
        #: of these the lines are made
        self.ready: deque[Held] = deque()
        #: the position up to which everything was done
        self.done = ring.committed
        #: how much of the oldest record's line is in the file that was opened so-manieth
        self.begun = self.opened = 0


class RecordDrain:
    """Empties the rings; without a log only what else is made of records, and the workers' own log lines, are.

    With `commits` a record leaves its ring as soon as its line is written; without it, when `commit` says so.
    """

    def __init__(
        self,
        *,
        rings: Sequence[RingConsumer],
        log: DecisionLog | None,
        journal: RecordJournal,
        recording: Recording,
        commits: bool = True,
        lost_grant: Callable[[bytes], None] = _nobody_asks,
    ) -> None:
        """Take what is made of records, and whom to tell of calls that have lost their grant."""
        self._recording = recording
        self._lost_grant = lost_grant
        self._log = log
        self._journal = journal
        self._commits = commits
        #: how often the file was opened when something was written last
        self._opened = 0
        #: control's own lines, and how much of the first one is in the file that was opened so-manieth
        self._own: deque[bytes] = deque()
        self._own_partly: tuple[int, int] | None = None
        #: control's own lines that found no room
        self.own_lost = 0
        self.lanes = [Lane(ring, number) for number, ring in enumerate(rings)]
        self._now_ns = 0
        #: until then nothing is written: the log took nothing
        self._retry_ns = 0
        if log is not None:
            self._recover(log)

    def put(self, line: bytes) -> None:
        """Have a line of control's own written, its line end included; one that finds no room is counted."""
        if len(self._own) < _MOST_OWN_LINES:
            self._own.append(line)
        else:
            self.own_lost += 1

    def drain(self, now_ns: int, *, at_once: bool = False) -> bool:
        """Read on, and write what waits no longer; gives whether any of it could be dealt with.

        `at_once` waits for no end of a call, and not until a log that took nothing is tried again.
        """
        self._now_ns = now_ns
        if now_ns < self._retry_ns and not at_once:
            for lane in self.lanes:
                self._read_on(lane)
            return False
        moved = self._log is not None and not self._is_within_a_line and self._write_own(self._log)
        if self._own_partly is not None:
            return moved
        for lane in self._in_order():
            self._read_on(lane)
            self._make_ready(lane, now_ns, at_once=at_once)
            if not lane.ready:
                continue
            if self._log is None:
                self._done(lane, len(lane.ready))
                moved = True
            elif self._write(self._log, lane):
                moved = True
            elif lane.begun:
                break
        return moved

    def commit(self, up_to: Sequence[int]) -> None:
        """Give the room of the records before these positions back, by ring; never more than what was done."""
        for lane, position in zip(self.lanes, up_to, strict=True):
            lane.ring.commit(max(lane.ring.committed, min(position, lane.done)))

    @property
    def is_empty(self) -> bool:
        """Whether everything that was recorded is written."""
        return not self._own and all(lane.ring.is_empty and not lane.held and not lane.ready for lane in self.lanes)

    @property
    def _is_within_a_line(self) -> bool:
        return any(lane.begun for lane in self.lanes)

    def _in_order(self) -> list[Lane]:
        """Give the lanes; the one whose record is partly written comes first, as its line must be ended first."""
        return sorted(self.lanes, key=lambda lane: not lane.begun)

    def _read_on(self, lane: Lane) -> None:
        read, expect = self._recording.read, self._recording.expect
        for entry in lane.ring.read_on():
            record = entry.record
            if not record.startswith(RECORD):
                lane.held.append(Held(entry))
                continue
            try:
                held = read(record[_KIND_BYTES:], entry)
            except RecordError as error:
                _log.error("a record is lost: %s", error)
                lane.held.append(Held(entry))
                continue
            expect(held)
            lane.held.append(held)

    def _make_ready(self, lane: Lane, now_ns: int, *, at_once: bool) -> None:
        held, ready = lane.held, lane.ready
        room = _WRITE_BYTES - sum(len(one.text or b"") for one in ready)
        while held and room > 0:
            one = held[0]
            if one.end is None and one.until_ns > now_ns and not at_once and not self._is_pressed(lane):
                break
            held.popleft()
            one.text = self._text(one, lane)
            room -= len(one.text)
            ready.append(one)

    @staticmethod
    def _is_pressed(lane: Lane) -> bool:
        waiting = lane.held[-1].entry.end - lane.held[0].entry.end
        return waiting > _MOST_WAITING_SHARE * lane.ring.capacity

    def _text(self, held: Held, lane: Lane) -> bytes:
        """Give what of a record belongs into the decision log, b"" for what does not or is there already."""
        if held.recorded is None or self._log is None or held.entry.end <= self._journal.logged(lane.number):
            return b""
        return self._recording.line(held)

    def _write_own(self, log: DecisionLog) -> bool:
        """Write control's own lines, as many as are taken; one that was begun in this file is ended first."""
        if not self._own:
            return False
        begun = 0
        if self._own_partly is not None and self._own_partly[0] == log.opened:
            begun = self._own_partly[1]
        ahead = self._ahead(log, begun)
        text = ahead + b"".join(self._own)[begun:]
        taken = self._taken(log, text)
        written = begun + max(0, taken - len(ahead))
        moved = False
        while self._own and len(self._own[0]) <= written:
            written -= len(self._own.popleft())
            moved = True
        self._own_partly = (log.opened, written) if written else None
        return moved

    def _taken(self, log: DecisionLog, text: bytes) -> int:
        """Write a text that is not empty; gives how much of it was taken."""
        taken = log.write(text)
        if taken:
            self._opened = log.opened
        else:
            self._retry_ns = self._now_ns + _RETRY_NS
        return taken

    def _ahead(self, log: DecisionLog, begun: int) -> bytes:
        """Give what ends the line that somebody else has begun in a file that was opened just now."""
        return b"\n" if self._opened != log.opened and not begun and log.ends_within_a_line() else b""

    def _write(self, log: DecisionLog, lane: Lane) -> bool:
        begun = lane.begun if lane.opened == log.opened else 0
        text = b"".join([one.text or b"" for one in lane.ready])[begun:]
        taken = 0
        if text:
            text = (ahead := self._ahead(log, begun)) + text
            place = log.place()
            if place is not None:
                self._journal.begin(lane.number, place)
            taken = self._taken(log, text)
            taken = max(0, taken - len(ahead))
        written = begun + taken
        done = 0
        for one in lane.ready:
            length = len(one.text or b"")
            if length > written:
                break
            written -= length
            done += 1
        lane.begun, lane.opened = (written, log.opened) if done < len(lane.ready) else (0, 0)
        if done and (position := lane.ready[done - 1].entry.end) > self._journal.logged(lane.number):
            # What a control that was killed has written is read again, and in pieces: the log goes further than that.
            self._journal.set_logged(lane.number, position)
        self._journal.end()
        self._done(lane, done)
        if not lane.begun:
            log.rotate()
        return bool(done)

    def _done(self, lane: Lane, count: int) -> None:
        end = self._recording.end
        for _ in range(count):
            held = lane.ready.popleft()
            lane.done = held.entry.end
            if held.recorded is None:
                self._say(held.entry.record)
            else:
                end(held, lane.number)
        if count and self._commits:
            lane.ring.commit(lane.done)

    def _say(self, record: bytes) -> None:
        if record.startswith(LOG_LINE) and len(record) > _KIND_BYTES:
            level, text = record[_KIND_BYTES], record[_KIND_BYTES + 1 :]
            _log.log(level, "%s", text.decode("utf-8", "replace"))
        elif record.startswith(LOST_GRANT):
            self._lost_grant(record[_KIND_BYTES:])

    def _recover(self, log: DecisionLog) -> None:
        begun = self._journal.begun
        if begun is None or not 0 <= begun[0] < len(self.lanes):
            return
        number, place = begun
        ring = self.lanes[number].ring
        written = log.written_since(place)
        at, end = 0, None
        for record, position in ring.take(_WRITE_BYTES * 2, after=self._journal.logged(number)):
            mark = self._mark(record)
            if not mark:
                continue
            found = written.find(mark, at)
            line_end = -1 if found < 0 else written.find(b"\n", found)
            if line_end < 0:
                rest = written[at:] if found < 0 else written[found:]
                if rest and rest.startswith(mark[: len(rest)]):
                    _take_back(log, replace(place, size_bytes=place.size_bytes + len(written)), len(rest))
                break
            at, end = line_end + 1, position
        if end is not None:
            self._journal.set_logged(number, end)
        self._journal.end()

    def _mark(self, record: bytes) -> bytes:
        """Give what the line of a record begins with, b"" where it has none."""
        if not record.startswith(RECORD):
            return b""
        try:
            return self._recording.line(self._recording.read(record[_KIND_BYTES:], Entry(record, 0)))[:_MARK_BYTES]
        except RecordError:
            return b""


def _take_back(log: DecisionLog, place: LogPlace, length: int) -> None:
    """Take the beginning of a line, which stands at the end of the file, out of it: the line is written anew."""
    if log.place() == place:
        log.cut_off(length)

"""From rings to the decision log: once each, also when the one before was killed in the middle of its work."""

from __future__ import annotations

import itertools
import logging
import mmap
import os
from typing import TYPE_CHECKING, cast

import pytest

from authz.instant import NS_PER_MS, NS_PER_S
from authz.sidecar.check.ring_entry import LOG_LINE, RECORD
from authz.sidecar.control.decision_log import DecisionLog
from authz.sidecar.control.record_drain import Held, RecordDrain
from authz.sidecar.control.record_journal import RecordJournal as Journal
from authz.sidecar.errors import SidecarError
from authz.sidecar.record_ring import RingConsumer, RingProducer, ring_memory

if TYPE_CHECKING:
    from pathlib import Path

    from authz.records.recorded_decision import RecordedDecision
    from authz.sidecar.record_ring import Entry

LINES = [b'{"n":%d}\n' % number for number in range(5)]


class Plain:
    """Makes the line of a record of its own bytes, and waits for nothing."""

    def read(self, packed: bytes, entry: Entry) -> Held:
        return Held(entry, cast("RecordedDecision", packed))

    def expect(self, held: Held) -> None:
        pass

    def line(self, held: Held) -> bytes:
        return cast("bytes", held.recorded)

    def end(self, held: Held, ring: int) -> None:
        pass


class Rings:
    """Two workers' rings, and the drains that follow one another at their other end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        memories = [ring_memory(4096) for _ in range(2)]
        self.producers = [RingProducer(memory, wake=lambda: None) for memory in memories]
        self.consumers = [RingConsumer(memory) for memory in memories]
        self._journal = mmap.mmap(-1, 4096)

    def put(self, *lines: bytes, ring: int = 0) -> None:
        for line in lines:
            assert self.producers[ring].put(RECORD + line)

    def drain(self) -> RecordDrain:
        return RecordDrain(
            rings=self.consumers, log=DecisionLog(str(self.path)), journal=Journal(self._journal), recording=Plain()
        )

    def die_after_writing(self, text: bytes, *, ring: int = 0) -> None:
        """Do what a drain does until it is killed, with so much of its text in the file."""
        log = DecisionLog(str(self.path))
        place = log.place()
        assert place is not None
        Journal(self._journal).begin(ring, place)
        assert log.write(text) == len(text)
        log.close()


@pytest.fixture
def rings(tmp_path: Path) -> Rings:
    return Rings(tmp_path / "decisions.jsonl")


def test_records_of_all_rings_are_written_in_their_rings_order(rings: Rings) -> None:
    rings.put(*LINES[:3])
    rings.put(*LINES[3:], ring=1)
    drain = rings.drain()
    assert drain.drain(0)
    assert not drain.drain(0)
    assert drain.is_empty
    assert rings.path.read_bytes() == b"".join(LINES)


@pytest.mark.parametrize("written", range(len(LINES) + 1))
def test_what_was_written_but_not_committed_is_not_written_again(rings: Rings, written: int) -> None:
    rings.put(*LINES)
    rings.die_after_writing(b"".join(LINES[:written]))
    rings.drain().drain(0)
    assert rings.path.read_bytes() == b"".join(LINES)


@pytest.mark.parametrize("written", range(1, len(b"".join(LINES))))
def test_a_line_that_was_half_written_is_ended(rings: Rings, written: int) -> None:
    rings.put(*LINES, ring=1)
    rings.die_after_writing(b"".join(LINES)[:written], ring=1)
    rings.put(b"other\n", ring=0)
    drain = rings.drain()
    while drain.drain(0):
        pass
    assert sorted(rings.path.read_bytes().splitlines(keepends=True)) == sorted([*LINES, b"other\n"])


def test_a_half_line_that_somebody_else_left_does_not_spoil_a_record(rings: Rings) -> None:
    rings.path.write_bytes(b'{"half')
    rings.put(LINES[0])
    rings.drain().drain(0)
    assert rings.path.read_bytes() == b'{"half\n' + LINES[0]


def test_lines_of_others_in_between_change_nothing(rings: Rings) -> None:
    rings.put(*LINES)
    rings.die_after_writing(LINES[0] + b"somebody else's\n" + LINES[1])
    rings.drain().drain(0)
    assert rings.path.read_bytes() == LINES[0] + b"somebody else's\n" + b"".join(LINES[1:])


def test_a_file_that_was_rotated_meanwhile_is_still_found(rings: Rings, tmp_path: Path) -> None:
    rings.put(*LINES)
    rings.die_after_writing(b"".join(LINES[:2]))
    rings.path.rename(tmp_path / "decisions.jsonl.1")
    rings.drain().drain(0)
    assert rings.path.read_bytes() == b"".join(LINES[2:])
    assert (tmp_path / "decisions.jsonl.1").read_bytes() == b"".join(LINES[:2])


def test_records_that_a_full_pipe_refuses_wait_and_come_whole(rings: Rings) -> None:
    os.mkfifo(rings.path)
    reader = os.open(rings.path, os.O_RDONLY | os.O_NONBLOCK)
    line = b"x" * 900 + b"\n"
    drain = rings.drain()
    put = 0
    while True:  # ends when the pipe is full and the ring, too
        if not rings.producers[0].put(RECORD + line):
            if not drain.drain(0):
                break
            continue
        put += 1
    read = b""
    for now_s in itertools.count(1):
        if drain.is_empty:
            break
        read += os.read(reader, 5000)
        drain.drain(now_s * NS_PER_S)
    while True:
        try:
            read += os.read(reader, 65536)
        except BlockingIOError:
            break
        if len(read) >= put * len(line):
            break
    os.close(reader)
    assert read == line * put


def test_a_workers_own_words_go_to_the_log_of_the_process(rings: Rings, caplog: pytest.LogCaptureFixture) -> None:
    rings.producers[0].put(LOG_LINE + bytes([logging.ERROR]) + b"a fault")
    rings.put(LINES[0])
    rings.drain().drain(0)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.ERROR, "a fault")]
    assert rings.path.read_bytes() == LINES[0]


def test_without_a_log_rings_are_emptied_all_the_same(rings: Rings) -> None:
    rings.put(*LINES)
    drain = RecordDrain(rings=rings.consumers, log=None, journal=Journal(mmap.mmap(-1, 4096)), recording=Plain())
    assert drain.drain(0)
    assert drain.is_empty
    assert not rings.path.exists()


def test_lines_of_controls_own_are_written_between_the_rings_records(rings: Rings) -> None:
    drain = rings.drain()
    drain.put(b"own\n")
    rings.put(*LINES[:2])
    assert not drain.is_empty
    assert drain.drain(0)
    assert drain.is_empty
    assert sorted(rings.path.read_bytes().splitlines(keepends=True)) == sorted([b"own\n", *LINES[:2]])


class Reluctant(DecisionLog):
    """A log that takes only so many bytes of each write."""

    def __init__(self, path: str, *takes: int) -> None:
        super().__init__(path)
        self.takes = list(takes)
        self.tries = 0

    def write(self, lines: bytes) -> int:
        self.tries += 1
        return super().write(lines[: self.takes.pop(0)]) if self.takes else super().write(lines)


def test_a_log_that_takes_nothing_is_tried_again_after_a_moment_and_not_at_every_look(rings: Rings) -> None:
    log = Reluctant(str(rings.path), 0, 0)
    drain = RecordDrain(rings=rings.consumers, log=log, journal=Journal(mmap.mmap(-1, 4096)), recording=Plain())
    rings.put(*LINES[:2])
    for now_ms in range(0, 200, 5):
        drain.drain(now_ms * NS_PER_MS)
    assert log.tries == 2
    rings.put(*LINES[2:])
    assert drain.drain(200 * NS_PER_MS)
    assert drain.is_empty
    assert rings.path.read_bytes() == b"".join(LINES)


def test_what_a_log_refused_is_tried_at_once_by_a_control_that_ends(rings: Rings) -> None:
    log = Reluctant(str(rings.path), 0)
    drain = RecordDrain(rings=rings.consumers, log=log, journal=Journal(mmap.mmap(-1, 4096)), recording=Plain())
    rings.put(*LINES)
    assert not drain.drain(0)
    assert drain.drain(0, at_once=True)
    assert rings.path.read_bytes() == b"".join(LINES)


@pytest.mark.parametrize("first", range(12))
@pytest.mark.parametrize("second", [0, 1, 5])
def test_no_line_of_controls_own_stands_within_another_however_little_the_disk_takes(
    rings: Rings, first: int, second: int
) -> None:
    drain = RecordDrain(
        rings=rings.consumers,
        log=Reluctant(str(rings.path), first, second, 0, second, first),
        journal=Journal(mmap.mmap(-1, 4096)),
        recording=Plain(),
    )
    rings.put(*LINES)
    drain.put(b"own 1\n")
    drain.put(b"own 2\n")
    for now_s in range(12):
        drain.drain(now_s * NS_PER_S)
    drain.put(b"own 3\n")
    drain.drain(12 * NS_PER_S)
    assert drain.is_empty
    assert sorted(rings.path.read_bytes().splitlines(keepends=True)) == sorted(
        [b"own 1\n", b"own 2\n", b"own 3\n", *LINES]
    )


def test_a_line_of_controls_own_that_was_begun_in_a_file_that_was_moved_is_written_whole_in_the_next(
    rings: Rings,
) -> None:
    log = Reluctant(str(rings.path), 4)
    drain = RecordDrain(rings=rings.consumers, log=log, journal=Journal(mmap.mmap(-1, 4096)), recording=Plain())
    drain.put(b"own 1\n")
    drain.drain(0)
    rings.path.rename(rings.path.with_suffix(".1"))
    log.reopen()
    rings.put(*LINES[:1])
    drain.drain(0)
    assert rings.path.read_bytes() == b"own 1\n" + LINES[0]


def test_lines_of_controls_own_that_no_disk_takes_are_bounded_and_counted(rings: Rings) -> None:
    drain = RecordDrain(
        rings=rings.consumers,
        log=Reluctant(str(rings.path), *([0] * 2000)),
        journal=Journal(mmap.mmap(-1, 4096)),
        recording=Plain(),
    )
    for _ in range(1500):
        drain.put(b"own\n")
    assert drain.own_lost == 500


def test_a_log_that_cannot_be_opened_is_said_with_its_path_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "none" / "log"
    with pytest.raises(SidecarError) as refused:
        DecisionLog(str(path))
    assert str(refused.value) == f"{path}: the decision log cannot be opened: no such file or directory"

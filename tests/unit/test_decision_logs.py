"""Decision logs are read whatever a rotation, a killed writer or a full disk has made of them."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from authz.decision_logs import AttemptFollower, ReadLines, read_attempts
from tests.support.refusals import line

if TYPE_CHECKING:
    from pathlib import Path


def at(second: int, **more: str) -> bytes:
    return line(f"2026-07-01T00:00:{second:02}Z", **more)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "decisions").mkdir()
    return tmp_path / "decisions"


def seconds(state: Path, told: ReadLines | None = None) -> list[int]:
    """Give the seconds of all attempts, as they are given."""
    return [each.time_ns // 10**9 % 60 for each in read_attempts(state, told or ReadLines())]


def test_all_logs_with_what_was_rotated_away_come_in_the_order_of_time(logs: Path) -> None:
    (logs / "orders.jsonl").write_bytes(at(30) + at(50))
    (logs / "orders.jsonl.1").write_bytes(at(20))
    (logs / "orders.jsonl.2.gz").write_bytes(gzip.compress(at(10)))
    (logs / "orders.jsonl.10").write_bytes(at(5))
    (logs / "orders.jsonl-20260630").write_bytes(at(1))
    (logs / "catalog.jsonl").write_bytes(at(15) + at(40))
    (logs / "notes.txt").write_bytes(at(59))
    (logs / ".hidden.jsonl").write_bytes(at(59))
    told = ReadLines()
    assert seconds(logs.parent, told) == [1, 5, 10, 15, 20, 30, 40, 50]
    assert (told.files, told.lines, told.damaged, told.partial, told.unreadable) == (6, 8, 0, 0, {})


def test_a_folder_of_logs_that_is_no_state_of_a_mesh_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "authz.jsonl").write_bytes(at(1))
    assert seconds(tmp_path) == [1]
    assert seconds(tmp_path / "nowhere") == []


def test_a_log_that_is_being_packed_is_read_once(logs: Path) -> None:
    (logs / "orders.jsonl.1").write_bytes(at(1))
    (logs / "orders.jsonl.1.gz").write_bytes(gzip.compress(at(1))[:20])
    assert seconds(logs.parent) == [1]


def test_damaged_lines_and_a_partial_last_one_are_counted_and_hide_nothing(logs: Path) -> None:
    (logs / "orders.jsonl").write_bytes(
        at(1) + at(2)[:100] + b"\n\x00\xff\n\n" + b"x" * 1_000_000 + b"\n" + at(3) + at(4)[:70]
    )
    told = ReadLines()
    assert seconds(logs.parent, told) == [1, 3]
    assert (told.damaged, told.partial) == (3, 1)


def test_a_last_line_that_only_lacks_its_end_counts(logs: Path) -> None:
    (logs / "orders.jsonl").write_bytes(at(1) + at(2).rstrip())
    told = ReadLines()
    assert seconds(logs.parent, told) == [1, 2]
    assert (told.lines, told.damaged, told.partial) == (2, 0, 0)


def test_what_cannot_be_read_is_named_and_the_rest_is_read(logs: Path) -> None:
    (logs / "a.jsonl.1.gz").write_bytes(gzip.compress(at(1) + os.urandom(10_000))[:-500])
    (logs / "b.jsonl").write_bytes(at(2))
    (logs / "c.jsonl").symlink_to("nowhere")
    os.mkfifo(logs / "d.jsonl")
    told = ReadLines()
    assert seconds(logs.parent, told) == [1, 2]
    assert list(told.unreadable) == [str(logs / "a.jsonl.1.gz")]


def test_a_log_of_any_size_takes_the_memory_of_a_line(logs: Path) -> None:
    with (logs / "orders.jsonl").open("wb") as file:
        for _ in range(40):
            file.write(line("2026-07-01T00:00:00Z", reason="allowed") * 1000)
        file.write(b"y" * 20_000_000)
    told = ReadLines()
    tracemalloc.start()
    try:
        assert seconds(logs.parent, told) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (told.lines, told.damaged) == (40_001, 1)
    assert peak_bytes < 4_000_000


def test_a_file_that_is_renamed_while_the_logs_are_read_is_read_once(logs: Path) -> None:
    (logs / "orders.jsonl.1").write_bytes(at(1))
    (logs / "orders.jsonl").write_bytes(at(2))
    found = read_attempts(logs.parent, ReadLines())
    first = next(found)
    (logs / "orders.jsonl.1").rename(logs / "orders.jsonl.2")
    (logs / "orders.jsonl").rename(logs / "orders.jsonl.1")
    (logs / "orders.jsonl").write_bytes(at(3))
    assert [each.time_ns - first.time_ns for each in found] == [10**9]


def new(follower: AttemptFollower) -> list[int]:
    return [each.time_ns // 10**9 % 60 for each in follower.new_attempts()]


def test_a_follower_gives_each_line_once_when_it_is_whole(logs: Path) -> None:
    follower = AttemptFollower(logs.parent)
    assert new(follower) == []
    with (logs / "orders.jsonl").open("ab", buffering=0) as file:
        file.write(at(1) + at(2)[:90])
        assert new(follower) == [1]
        assert new(follower) == []
        file.write(at(2)[90:])
        assert new(follower) == [2]
    assert follower.told.damaged == 0


def test_a_follower_goes_on_through_a_rotation_and_a_cut(logs: Path) -> None:
    log = logs / "orders.jsonl"
    follower = AttemptFollower(logs.parent)
    log.write_bytes(at(1))
    assert new(follower) == [1]
    with log.open("ab", buffering=0) as file:
        log.rename(logs / "orders.jsonl.1")
        file.write(at(2))
        log.write_bytes(at(3))
        assert new(follower) == [2, 3]
    log.write_bytes(b"")
    assert new(follower) == []
    log.write_bytes(at(4))
    assert new(follower) == [4]


def test_a_follower_reads_what_was_there_before_it_compressed_or_not(logs: Path) -> None:
    (logs / "orders.jsonl.1.gz").write_bytes(gzip.compress(at(1)))
    (logs / "orders.jsonl").write_bytes(at(2))
    follower = AttemptFollower(logs.parent)
    assert new(follower) == [1, 2]
    assert new(follower) == []

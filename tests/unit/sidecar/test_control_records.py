"""What control makes of records: counted once whoever is killed when, bounded whatever is full."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

from authz.decision import Reason
from authz.instant import NS_PER_S
from authz.records.call_end import RunningBytes
from authz.records.keeping import BURST
from tests.support.recording_bench import RecordingBench, end_of, killed_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from authz.sidecar.control.control_records import ControlRecords


def lines(bench: RecordingBench) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bench.log.read_bytes().splitlines()]


def finish(bench: RecordingBench, control: ControlRecords | None = None) -> ControlRecords:
    """Let a control write everything, as at its end."""
    control = control or bench.control()
    control.look()
    control.end()
    return control


class TestAnEndWithinItsTime:
    def test_stands_in_the_line_the_record_and_the_flow(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path)
        control = bench.control()
        decision_id, _ = bench.put(reason=Reason.NO_POLICY)
        control.look()
        assert not bench.log.read_bytes()  # it is waited for
        control.recording.heard([end_of(decision_id, status=403, sent=99)])
        control.look()
        (line,) = lines(bench)
        assert (line["status"], line["bytes_received"], line["bytes_sent"], line["duration_ms"]) == (403, 5, 99, 1.5)
        control.end()
        (batch,) = bench.batches()
        assert (batch.records[0].status, batch.records[0].duration_us) == (403, 1500)
        (flow,) = batch.flows
        assert (flow.count, flow.statuses, flow.bytes_sent, flow.durations.total) == (1, ((403, 1),), 99, 1)

    def test_may_come_before_the_decision(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path)
        control = bench.control()
        decision_id, _ = bench.put()
        control.recording.heard([end_of(decision_id)])
        control.look()
        assert lines(bench)[0]["status"] == 200

    def test_is_not_waited_for_longer_than_the_contract_gives(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path)
        control = bench.control()
        decision_id, _ = bench.put()
        control.look()
        control.drain.drain(time.monotonic_ns() + NS_PER_S)
        assert lines(bench)[0]["status"] is None
        control.recording.heard([end_of(decision_id)])
        control.end()
        flows = [flow for batch in bench.batches() for flow in batch.flows]
        assert (sum(flow.count for flow in flows), sum(flow.durations.total for flow in flows)) == (1, 1)


class TestACallThatRunsLong:
    def test_moves_its_bytes_while_it_runs_and_none_of_them_twice(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path)
        control = bench.control()
        decision_id, _ = bench.put()
        control.look()
        now_ns = time.time_ns()
        control.recording.heard([(decision_id.encode(), RunningBytes(now_ns, 1, 10))])
        control.drain.drain(time.monotonic_ns() + NS_PER_S)
        control.recording.heard([(decision_id.encode(), RunningBytes(now_ns, 2, 30))])
        control.recording.heard([end_of(decision_id, sent=70)])
        control.end()
        flows = [flow for batch in bench.batches() for flow in batch.flows]
        assert sum(flow.bytes_sent for flow in flows) == 70
        assert sum(flow.bytes_received for flow in flows) == 5

    def test_is_counted_as_cut_in_the_flow_that_had_allowed_it(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path)
        control = bench.control()
        decision_id, _ = bench.put()
        control.look()
        control.drain.drain(time.monotonic_ns() + NS_PER_S)
        key = control.recording.cut(decision_id, time.time_ns())
        assert key is not None
        assert (key.caller.service, key.route) == ("orders", "/items/{id}")
        control.end()
        (flow,) = [flow for batch in bench.batches() for flow in batch.flows]
        assert (flow.count, flow.cut, flow.key.reason) == (1, 1, Reason.ALLOWED)


#: what is killed leaves its files open
LEFT_OPEN = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@LEFT_OPEN
@pytest.mark.parametrize("log", [True, False])
@given(
    kills=st.lists(st.integers(0, 2000), max_size=4),
    reasons=st.lists(st.sampled_from([Reason.ALLOWED, Reason.NO_POLICY]), min_size=1, max_size=8),
    joined=st.booleans(),
)
@settings(max_examples=60)
def test_whoever_is_killed_at_whatever_line_every_decision_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, *, log: bool, kills: list[int], reasons: list[Reason], joined: bool
) -> None:
    with RecordingBench(tmp_path_factory.mktemp("k"), log=log) as bench:
        for kill in kills:
            ids = [bench.put(reason=reason, ring=number % 2)[0] for number, reason in enumerate(reasons)]

            def live(ids: list[str] = ids) -> None:
                control = bench.control()
                control.look()
                control.recording.heard([end_of(one) for one in ids if joined])
                finish(bench, control)

            killed_at(kill, live)
        bench.put()
        control = finish(bench)
        assert control.lost == control.journal.dropped == 0
        assert bench.counted() == len(bench.put_ids)
        flows = [flow for batch in bench.batches() for flow in batch.flows]
        joined_or_not = sum(flow.durations.total + flow.unjoined for flow in flows) + control.journal.pending
        unjoined = control.journal.unjoined - sum(flow.unjoined for flow in flows)
        assert joined_or_not + unjoined == len(bench.put_ids)
        kept = Counter(record.decision_id for batch in bench.batches() for record in batch.records)
        assert not kept or max(kept.values()) == 1
        assert [batch.sequence for batch in bench.batches()] == list(range(1, len(bench.batches()) + 1))
        if log:
            assert Counter(line["decision_id"] for line in lines(bench)) == Counter(bench.put_ids)


@LEFT_OPEN
def test_what_stands_in_the_log_is_not_written_again_where_it_becomes_ready_piece_by_piece(tmp_path: Path) -> None:
    with RecordingBench(tmp_path) as bench:
        killed = bench.control()
        ids = [bench.put()[0] for _ in range(3)]
        killed.look()
        killed.drain.drain(time.monotonic_ns() + NS_PER_S)
        assert [line["decision_id"] for line in lines(bench)] == ids
        follower = bench.control()
        follower.look()
        # Of the records that are read again the first one waits no longer, the others do.
        follower.recording.heard([end_of(ids[0])])
        follower.look()
        ids.append(bench.put()[0])
        finish(bench, follower)
        assert [line["decision_id"] for line in lines(bench)] == ids
        assert bench.counted() == len(ids)


@pytest.mark.parametrize("ahead_s", [-400 * 86_400, -30, 400 * 86_400])
def test_decisions_by_another_clock_are_shipped_with_the_others_and_counted_once(tmp_path: Path, ahead_s: int) -> None:
    bench = RecordingBench(tmp_path, joins=False)
    control = bench.control()
    now_ns = time.time_ns() // (10 * NS_PER_S) * 10 * NS_PER_S
    for number in range(6):
        bench.put(time_ns=now_ns - 5 * NS_PER_S + (number % 2) * ahead_s * NS_PER_S)
    control.look()
    assert control.batches is not None
    control.batches.flush(control.drain, now_ns)
    assert bench.counted() == 6
    follower = bench.control()
    finish(bench, follower)
    assert bench.counted() == 6


class TestAFullSpool:
    def test_drops_the_oldest_allowed_calls_and_counts_their_decisions_but_no_deny(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path, joins=False, spool_max_bytes=12_000)
        control = bench.control()
        denied = 0
        for number in range(60):
            denies = number % 10 == 0
            bench.put(reason=Reason.NO_POLICY if denies else Reason.ALLOWED, host=f"h{number}.example")
            denied += denies
            control.look()
            assert control.batches is not None
            control.batches.flush(control.drain)
        control.end()
        assert control.journal.dropped > 0
        assert bench.counted() + control.journal.dropped == 60
        flows = [flow for batch in bench.batches() for flow in batch.flows]
        assert sum(flow.count for flow in flows if not flow.key.reason.allows) == denied
        records = [record for batch in bench.batches() for record in batch.records if not record.reason.allows]
        assert len(records) == denied

    def test_of_denies_takes_nothing_more_and_what_comes_is_counted_in_memory(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path, joins=False, spool_max_bytes=6_000)
        control = bench.control()
        assert control.batches is not None
        put = 0
        while not control.batches.refused:
            bench.put(reason=Reason.NO_POLICY, host=f"h{put}.example")
            put += 1
            control.look()
            control.batches.flush(control.drain)
        in_spool = bench.counted()
        for number in range(1500):
            assert bench.put(reason=Reason.NO_POLICY, host=f"h{number}.example", ring=number % 2)[1]
            control.look()
        put += 1500
        assert control.shipping is not None
        assert bench.counted() == in_spool
        assert in_spool + control.shipping.flows.decisions == put
        # Who kills it now loses what is in memory, and knows how much that was.
        follower = bench.control()
        assert in_spool + follower.lost == put

    def test_is_written_again_once_there_is_room(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path, joins=False, spool_max_bytes=6_000)
        control = bench.control()
        assert control.batches is not None
        assert control.spool is not None
        put = 0
        while not control.batches.refused:
            bench.put(reason=Reason.NO_POLICY, host=f"h{put}.example")
            put += 1
            control.look()
            control.batches.flush(control.drain)
        shipped = 0
        while (batch := control.spool.next()) is not None:
            shipped += batch.decisions
            control.spool.remove(batch)
        control.batches.flush(control.drain)
        assert not control.batches.refused
        assert shipped + bench.counted() == put
        assert control.lost == 0


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of 256 KiB."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(path: Path) -> None:
    """Write until the disk takes nothing more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(descriptor, bytes(4096)):
            pass
    os.close(descriptor)


def test_a_full_disk_is_counted_to_the_last_decision_and_over_by_itself(tiny: Path) -> None:
    bench = RecordingBench(tiny, joins=False, log=False)
    control = bench.control()
    assert control.batches is not None
    filler = tiny / "filler"
    bench.put()
    control.look()
    control.batches.flush(control.drain)
    fill(filler)
    for number in range(2000):
        assert bench.put(reason=Reason.NO_POLICY if number % 2 else Reason.ALLOWED)[1]
        if number % 50 == 0:
            control.look()
            control.batches.flush(control.drain)
    assert control.batches.refused
    filler.unlink()
    control.look()
    control.batches.flush(control.drain)
    control.end()
    assert not control.batches.refused
    assert bench.counted() == 2001
    assert control.lost == control.journal.dropped == 0


class TestAFloodOfDenies:
    def test_is_kept_in_full_up_to_an_allowance_and_counted_to_the_last_one(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path, joins=False, log=False)
        control = bench.control()
        many = 5000
        for number in range(many):
            path = "/" + "\x1b[2J<script>" * 700
            assert bench.put(
                reason=Reason.NO_POLICY, caller=None, address=f"10.0.{number % 256}.{number // 256}:9", path=path,
                method=f"M{number}", host=f"{number}.example",
            )[1]  # fmt: skip
            if number % 20 == 0:
                control.look()
        finish(bench, control)
        assert control.shipping is not None
        records = [record for batch in bench.batches() for record in batch.records]
        assert bench.counted() == many
        assert BURST <= len(records) <= BURST + 100 * 120
        assert len(records) + control.shipping.keeping.unkept == many
        assert max(len(record.path or "") for record in records) == 256
        assert control.shipping.flows.coarsened > 0
        assert sum(len(batch.flows) for batch in bench.batches()) < many


class TestTheDecisionLog:
    def test_is_moved_away_by_its_size_between_two_lines_and_so_many_are_kept(self, tmp_path: Path) -> None:
        bench = RecordingBench(tmp_path, joins=False, decision_log_max_bytes=5000, decision_log_files=2)
        control = bench.control()
        for _ in range(60):
            bench.put()
            control.look()
        control.end()
        assert sorted(each.name for each in tmp_path.glob("decisions*")) == [
            "decisions.jsonl",
            "decisions.jsonl.1",
            "decisions.jsonl.2",
        ]
        ids = []
        for name in ("decisions.jsonl.2", "decisions.jsonl.1", "decisions.jsonl"):
            content = (tmp_path / name).read_bytes()
            assert not content or content.endswith(b"\n")
            ids += [json.loads(line)["decision_id"] for line in content.splitlines()]
        assert ids == bench.put_ids[-len(ids) :]

    @LEFT_OPEN
    @given(kills=st.lists(st.integers(0, 900), max_size=4))
    @settings(max_examples=30)
    def test_has_every_line_once_whoever_is_killed_while_it_is_moved(
        self, tmp_path_factory: pytest.TempPathFactory, kills: list[int]
    ) -> None:
        folder = tmp_path_factory.mktemp("r")
        with RecordingBench(folder, joins=False, decision_log_max_bytes=1500, decision_log_files=100) as bench:

            def live() -> None:
                control = bench.control()
                for _ in range(3):
                    bench.put()
                    control.look()

            for kill in kills:
                killed_at(kill, live)
            live()
            finish(bench)
            ids = [
                json.loads(line)["decision_id"]
                for each in folder.glob("decisions*")
                for line in each.read_bytes().splitlines()
            ]
            assert Counter(ids) == Counter(bench.put_ids)


def follow(folder: Path) -> Callable[[], list[str | None]]:
    from authz.decision_logs import AttemptFollower  # noqa: PLC0415

    follower = AttemptFollower(folder)
    return lambda: [attempt.decision_id for attempt in follower.new_attempts()]


def test_readers_of_the_decision_log_follow_it_over_its_rotations(tmp_path: Path) -> None:
    bench = RecordingBench(tmp_path, joins=False, decision_log_max_bytes=2000, decision_log_files=50)
    control = bench.control()
    read, told = follow(tmp_path), []
    for number in range(40):
        bench.put(reason=Reason.CLOSED)
        control.look()
        if number % 3 == 0:
            told += read()
    control.end()
    told += read()
    assert Counter(told) == Counter(bench.put_ids)

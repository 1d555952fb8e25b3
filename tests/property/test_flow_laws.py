"""Laws of flows: every decision is counted once, whatever comes in whichever order, and however much of it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from hypothesis import given, strategies as st

from authz.instant import NS_PER_S
from authz.records.call_end import CallEnd, RunningBytes
from authz.records.flow import Flow, FlowKey, merged
from authz.records.flow_sums import COARSE_S, FlowSums, host_of
from authz.records.join import Joins
from authz.records.keeping import A_SECOND, BURST, Keeping
from authz.records.record_lines import RecordLines
from authz.request import Direction
from tests.property.test_record_laws import RECORDS
from tests.support.decision_record import DecisionRecord, packed

if TYPE_CHECKING:
    from authz.records.recorded_decision import RecordedDecision

DECISIONS = st.lists(
    st.tuples(RECORDS, st.integers(0, 3 * 10**10), st.integers(0, 5 * 10**6)), min_size=1, max_size=12
).map(
    lambda given: [
        (replace(record, decision_id=f"{number:032x}", time_ns=time_ns), duration_us)
        for number, (record, time_ns, duration_us) in enumerate(given)
    ]
)


def end_of(recorded: RecordedDecision, duration_us: int) -> CallEnd:
    return CallEnd(
        recorded.time_ns + duration_us * 1000, duration_us, 200 + duration_us % 4, duration_us % 7, duration_us % 11
    )


def take(sums: FlowSums, before_ns: int | None = None) -> tuple[Flow, ...]:
    flows = sums.flows(before_ns)
    sums.forget(before_ns)
    return flows


def counted(flows: tuple[Flow, ...]) -> dict[tuple[int, int, FlowKey], Flow]:
    """Give the flows, pieces of the same one added up."""
    by_key: dict[tuple[int, int, FlowKey], list[Flow]] = {}
    for flow in flows:
        by_key.setdefault((flow.time_ns, flow.interval_s, flow.key), []).append(flow)
    return {place: reduce(merged, pieces) for place, pieces in by_key.items()}


class TestSums:
    """Decisions and ends add up to what was given."""

    @given(given=DECISIONS, seed=st.integers(0, 2**32), most_keys=st.integers(0, 20), coarse=st.integers(0, 3))
    def test_are_the_same_in_whatever_order_decisions_and_ends_come(
        self, given: list[tuple[DecisionRecord, int]], seed: int, most_keys: int, coarse: int
    ) -> None:
        chooser = random.Random(seed)  # noqa: S311 no secret
        lines = RecordLines("s")
        read = [(lines.read(packed(record)), duration_us) for record, duration_us in given]
        events = [(recorded, None) for recorded, _ in read] + [(recorded, duration) for recorded, duration in read]
        results = []
        for limits in ((10**6, 10**6), (most_keys, coarse)):
            taken: tuple[Flow, ...] = ()
            chooser.shuffle(events)
            sums: FlowSums = FlowSums("s", most_keys=limits[0], most_coarse_keys=limits[1])
            joins: Joins[FlowKey] = Joins()
            for recorded, duration_us in events:
                key = sums.key(recorded.kind, recorded.address)
                if duration_us is None:
                    sums.decided(key, recorded.time_ns, recorded.check_us)
                    end = joins.decided(recorded.decision_id, key, 0)
                    if end is not None:
                        sums.ended(key, end)
                else:
                    found = joins.ended(recorded.decision_id, end_of(recorded, duration_us), 0)
                    if found is not None:
                        sums.ended(*found)
                if chooser.random() < 0.2:
                    taken += take(sums, chooser.choice([None, 10 * NS_PER_S, 20 * NS_PER_S]))
                if chooser.random() < 0.1:
                    sums.put_together(10**12)
            taken += take(sums)
            assert sums.is_empty
            assert joins.joined == len(read)
            results.append(taken)
        for taken in results:
            assert sum(flow.count for flow in taken) == len(read)
            assert sum(flow.check_us_sum for flow in taken) == sum(recorded.check_us for recorded, _ in read)
            assert sum(flow.durations.total for flow in taken) == len(read)
            assert sum((Counter(dict(flow.statuses)) for flow in taken), Counter()).total() == len(read)
            assert sum(flow.bytes_sent for flow in taken) == sum(duration % 11 for _, duration in read)

    @given(given=DECISIONS, seed=st.integers(0, 2**32))
    def test_joined_in_any_order_are_the_same_flows(self, given: list[tuple[DecisionRecord, int]], seed: int) -> None:
        chooser = random.Random(seed)  # noqa: S311 no secret
        lines = RecordLines("s")
        read = [(lines.read(packed(record)), duration_us) for record, duration_us in given]
        events = [(recorded, None) for recorded, _ in read] + [(recorded, duration) for recorded, duration in read]
        results = []
        for _ in range(2):
            chooser.shuffle(events)
            sums, joins = FlowSums("s"), Joins[FlowKey]()
            for recorded, duration_us in events:
                key = sums.key(recorded.kind, recorded.address)
                if duration_us is None:
                    sums.decided(key, recorded.time_ns, recorded.check_us)
                    end = joins.decided(recorded.decision_id, key, 0)
                    if end is not None:
                        sums.ended(key, end)
                else:
                    found = joins.ended(recorded.decision_id, end_of(recorded, duration_us), 0)
                    if found is not None:
                        sums.ended(*found)
            results.append(counted(take(sums)))
        assert results[0] == results[1]

    @given(record=RECORDS, hosts=st.lists(st.text(max_size=5), min_size=1, max_size=40), most=st.integers(1, 5))
    def test_have_no_more_keys_than_allowed_whatever_callers_make_up(
        self, record: DecisionRecord, hosts: list[str], most: int
    ) -> None:
        sums, lines = FlowSums("s", most_keys=most, most_coarse_keys=most), RecordLines("s")
        for host in hosts:
            named = replace(record, call=replace(record.call, host=host, method=host), time_ns=5)
            recorded = lines.read(packed(named))
            sums.decided(sums.key(recorded.kind, host), recorded.time_ns, 0)
        flows = take(sums)
        assert sum(flow.count for flow in flows) == len(hosts)
        assert len(flows) <= 2 * most + 1
        assert sums.coarsened == sum(flow.count for flow in flows if flow.key.method == "*")

    @given(given=DECISIONS)
    def test_that_nobody_takes_for_long_are_put_together_by_the_hour(
        self, given: list[tuple[DecisionRecord, int]]
    ) -> None:
        sums, lines = FlowSums("s"), RecordLines("s")
        for record, _ in given:
            recorded = lines.read(packed(record))
            sums.decided(sums.key(recorded.kind, recorded.address), recorded.time_ns, 1)
        sums.put_together(10**13)
        flows = take(sums, 0)
        assert {(flow.time_ns, flow.interval_s, flow.key.caller.identity) for flow in flows} == {(0, COARSE_S, None)}
        assert sum(flow.count for flow in flows) == len(given)


@given(record=RECORDS)
def test_only_what_was_allowed_to_leave_can_be_unreached(record: DecisionRecord) -> None:
    sums, recorded = FlowSums("s"), RecordLines("s").read(packed(replace(record, time_ns=5)))
    key = sums.key(recorded.kind, recorded.address)
    sums.ended(key, CallEnd(5, 1, None, 0, 0, unreached=True, is_odd=True))
    (flow,) = take(sums)
    leaves = record.call.direction is Direction.OUTBOUND and record.decision.reason.allows
    assert flow.unreached == int(leaves)


class TestJoins:
    """Of each decision's call the end is given once, or it is unjoined; nothing waits beyond its bounds."""

    @given(
        events=st.lists(
            st.tuples(st.sampled_from(["decided", "ended", "running"]), st.integers(0, 9), st.integers(0, 5)),
            max_size=60,
        ),
        most=st.integers(1, 5),
    )
    def test_are_counted_once_and_bounded(self, events: list[tuple[str, int, int]], most: int) -> None:
        joins: Joins[int] = Joins(most_pending=most, pending_ns=10, most_early=most, early_ns=10)
        now_ns = given = 0
        seen: set[int] = set()
        moved: Counter[int] = Counter()
        for what, number, later in events:
            now_ns += later
            decision_id = b"%d" % number
            if what == "decided" and number not in seen:
                seen.add(number)
                given += 1
                end = joins.decided(decision_id, number, now_ns)
                moved[number] += 0 if end is None else end.sent_bytes
            elif what == "ended":
                found = joins.ended(decision_id, CallEnd(0, 1, 200, 0, 100), now_ns)
                moved[number] += 0 if found is None else found[1].sent_bytes
            elif what == "running":
                told = joins.running(decision_id, RunningBytes(0, 0, later * 10), now_ns)
                moved[number] += 0 if told is None else told[1].sent_bytes
            gone = list(joins.expired(now_ns))
            assert len(set(gone)) == len(gone)
            assert joins.pending <= most
            assert given == joins.joined + joins.unjoined + joins.pending
        assert all(bytes_ <= 100 for bytes_ in moved.values())


class TestKeeping:
    """Every deny is kept within the allowance; what is not is counted, to the last one."""

    @given(record=RECORDS, gaps_ns=st.lists(st.integers(0, 10**8), max_size=60), many=st.integers(1, 100))
    def test_is_bounded_and_counts_what_it_left_out(
        self, record: DecisionRecord, gaps_ns: list[int], many: int
    ) -> None:
        kind = RecordLines("s").read(packed(record)).kind
        keeping, now_ns, kept, asked = Keeping(0), 0, 0, 0
        for gap_ns in gaps_ns:
            now_ns += gap_ns
            for _ in range(many):
                asked += 1
                kept += keeping.keeps(kind, now_ns)
        assert kept <= BURST + now_ns * A_SECOND / 10**9 + 1
        if not kind.allows:
            assert kept + keeping.unkept == asked
            assert asked <= BURST or kept >= BURST
            assert kept == asked or asked > BURST

    @given(record=RECORDS)
    def test_of_an_allowed_call_is_of_its_first_sight_and_a_sample(self, record: DecisionRecord) -> None:
        kind = RecordLines("s").read(packed(record)).kind
        keeping = Keeping(0)
        told = [keeping.keeps(kind, second * NS_PER_S) for second in range(121)]
        assert told[0]
        assert sum(told) == (3 if kind.allows else 121)


def test_an_address_is_known_without_its_port() -> None:
    assert [host_of(address) for address in ("10.0.0.1:80", "[::1]:9", "", "unix", "a:b")] == [
        "10.0.0.1",
        "[::1]",
        "",
        "unix",
        "a:b",
    ]

"""Times that a wrong clock has written are brought to what is kept, and each decision stays counted."""

from __future__ import annotations

from hypothesis import given, strategies as st

from authz.hub.arrival_time import MAX_AHEAD_S, timed
from authz.hub.store.store import Retention, Store
from tests.support.hub_process import flow, record
from tests.unit.hub.test_stores import DAY_S, NOON_S, arrival, at, calls, store

__all__ = ["store"]

NOW_MS = (NOON_S + 3) * 1000
KEPT = Retention()
FOREVER_S = 253_402_300_790


def test_what_is_dated_ahead_is_kept_as_of_now_and_counted() -> None:
    far = arrival(
        1,
        flow(time=at(FOREVER_S), count=5),
        flow(time=at(NOON_S), count=2),
        records=[record(1, time=at(FOREVER_S)), record(2, time=at(NOON_S))],
        sent=at(FOREVER_S),
    )
    found = timed(far, NOW_MS, KEPT)
    assert (found.ahead, found.too_old) == (6, 0)
    assert [(row[0], row[2]) for row in found.arrival.rows] == [(NOON_S, 5), (NOON_S, 2)]
    assert [each.time_ms for each in found.arrival.records] == [NOW_MS, NOON_S * 1000]
    assert found.arrival.sent_ms == NOW_MS
    assert found.arrival.records[0].body == far.records[0].body


def test_a_clock_that_is_a_little_ahead_is_believed() -> None:
    soon = NOON_S + MAX_AHEAD_S
    near = arrival(1, flow(time=at(soon)), records=[record(1, time=at(soon))], sent=at(soon))
    found = timed(near, NOW_MS, KEPT)
    assert (found.arrival, found.ahead, found.too_old) == (near, 0, 0)


def test_what_is_older_than_it_is_kept_is_not_added_and_counted() -> None:
    allowed = {"decision": "allow", "reason": "allowed", "policy": "p"}
    times = {days: at(NOON_S - days * DAY_S) for days in (0, 31, 401)}
    old = arrival(
        1,
        *(flow(time=time, count=3) for time in times.values()),
        records=[
            *(record(days, time=time) for days, time in times.items()),
            *(record(1000 + days, time=time, **allowed) for days, time in times.items()),
        ],
    )
    found = timed(old, NOW_MS, KEPT)
    assert [row[0] for row in found.arrival.rows] == [NOON_S, NOON_S - 31 * DAY_S]
    assert [int(each.decision_id, 16) for each in found.arrival.records] == [0, 31, 1000]
    assert found.too_old == 3 + 1 + 2


def test_a_sidecar_whose_clock_was_ahead_is_heard_when_it_is_right_again(store: Store) -> None:
    store.add([timed(arrival(1, flow(time=at(FOREVER_S)), sent=at(FOREVER_S)), NOW_MS, KEPT).arrival], 1)
    later = {"revision": "e" * 64, "svid_expires": None, "spooled": 7, "lost": 0, "unjoined": 0, "dropped": 0}
    told = arrival(2, sent=at(NOON_S + 60), status={**later, "failed_handshakes": 0, "ready": True})
    store.add([timed(told, NOW_MS + 60_000, KEPT).arrival], 2)
    assert store.rows("SELECT spooled FROM sidecars", {}) == [(7,)]
    assert calls(store, NOON_S, NOON_S + 10, NOON_S + 20) == {("storefront", "catalog"): 1}


@given(st.lists(st.tuples(st.integers(1, FOREVER_S // 10).map((10).__mul__), st.integers(1, 2**30)), max_size=20))
def test_every_decision_is_in_a_row_that_is_kept_or_too_old(flows: list[tuple[int, int]]) -> None:
    came = arrival(1, *(flow(time=at(time), count=count) for time, count in flows))
    found = timed(came, NOW_MS, KEPT)
    assert sum(row[2] for row in found.arrival.rows) + found.too_old == sum(count for _, count in flows)
    first_s, last_s = NOON_S - KEPT.hours_days * DAY_S, NOON_S + MAX_AHEAD_S + 3
    assert all(first_s <= row[0] <= last_s for row in found.arrival.rows)

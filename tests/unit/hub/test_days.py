"""Flows by the day say what flows by the hour say, whatever is asked, and whenever a flow came."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from authz.hub.known_series import KnownSeries
from authz.hub.query import Flows
from authz.hub.span import Span
from authz.hub.store.days_table import DAY_S
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import ANY_STEP_S, HOURS, Part, Retention
from authz.instant import rfc3339_from_s
from tests.support.hub_process import flow
from tests.unit.hub.test_stores import EDGE, NOON_S, arrival, at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_S = 3600
BEGIN_S = NOON_S - 6 * DAY_S - 5 * HOUR_S


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path, Retention(), lambda _: None)
    yield made
    made.close()


def tidied(store: SqliteStore, now_s: int) -> None:
    """Tidy up until there was nothing to do twice: then hours are in their days."""
    while store.tidy(now_s) or store.tidy(now_s):
        pass


def by_the_hour(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, *asked: Any) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(store._days, "instead_of", lambda hours, *_: [hours])
        return answered(store, *asked)


def answered(store: SqliteStore, span: Span, now_s: int) -> Any:
    flows = Flows(store)
    return (
        flows.edges(span, now_s, None),
        flows.edges(span, now_s, "orders"),
        flows.policy_use(span, now_s),
        flows.edges_of_policy(span, now_s, "storefront-reads-catalog"),
    )


def some_flows(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Give flows of all kinds: called, refused, running on, told of by the other side, of several edges and routes."""
    found = []
    for _ in range(count):
        caller = {**flow()["caller"], "service": rng.choice(("storefront", "orders"))}
        kind = rng.choice(
            (
                {"count": rng.randrange(1, 5), "unreached": rng.randrange(2)},
                {"decision": "deny", "reason": "no_policy", "policy": None},
                {"count": 0, "statuses": {}, "bytes_received": 0, "bytes_sent": 700, "duration_us_log2": []},
                {"count": 0, "statuses": {}, "bytes_received": 0, "bytes_sent": 0, "duration_us_log2": []},
            )
        )
        when = at(BEGIN_S + 10 * rng.randrange((NOON_S - BEGIN_S) // 10))
        found.append(flow(time=when, caller=caller, route=rng.choice(("/a", "/b", None)), **kind))
    return found


def tables(store: SqliteStore, span: Span, now_s: int) -> set[str]:
    parts = store.parts(span.from_s, span.until_s, now_s, ANY_STEP_S)
    return {"days" for part in parts if "days.first_s" in part.table}


def test_any_span_is_answered_from_days_as_from_hours(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(8)  # noqa: S311 the same every time
    outbound = {"sidecar": "storefront", "direction": "outbound"}
    store.add([arrival(1, *some_flows(rng, 900))], 1)
    told = [each | outbound for each in some_flows(rng, 200) if each["caller"]["service"] == "storefront"]
    store.add([arrival(1, *told, sidecar="storefront", service="storefront")], 1)
    tidied(store, NOON_S)
    of_days = 0
    for number in range(120):
        if number == 40:  # what comes late, waits in the tail first
            store.add([arrival(2, *some_flows(rng, 300))], 1)
        if number == 80:
            tidied(store, NOON_S)
        begin, end = sorted(BEGIN_S + 10 * rng.randrange(-9000, (NOON_S - BEGIN_S) // 10 + 9000) for _ in range(2))
        now_s = rng.choice((NOON_S, NOON_S + 1800, max(end, NOON_S)))
        span = Span(from_s=begin, until_s=rng.choice((end, now_s)))
        of_days += bool(tables(store, span, now_s))
        assert answered(store, span, now_s) == by_the_hour(store, monkeypatch, span, now_s), (span, now_s)
    assert of_days > 40


@pytest.mark.parametrize("late", [False, True])
def test_a_day_does_not_begin_or_end_with_what_the_other_sidecar_tells_of(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    def told(sequence: int, *hours_and_unreached: tuple[int, int]) -> None:
        flows = [
            flow(
                time=at(NOON_S - DAY_S + HOUR_S * hour), sidecar="storefront", direction="outbound", unreached=unreached
            )
            for hour, unreached in hours_and_unreached
        ]
        store.add([arrival(sequence, *flows, sidecar="storefront", service="storefront")], 1)

    # Of a call that arrived the callee's sidecar tells: here it is a decision, and no call of the edge.
    arrived, never = [(-5, 0), (5, 0)], [(-1, 1), (1, 1)]
    if late:
        told(1, *never, (13, 1))
        tidied(store, NOON_S)
        told(2, *arrived)
    else:
        told(1, *arrived, *never, (13, 1))
    tidied(store, NOON_S)
    span = Span(from_s=NOON_S - 2 * DAY_S, until_s=NOON_S - DAY_S // 2)
    assert tables(store, span, NOON_S) == {"days"}
    edge = Flows(store).edges(span, NOON_S, None)[EDGE]
    assert (edge["calls"], edge["first_seen"], edge["last_seen"]) == (
        2,
        rfc3339_from_s(NOON_S - DAY_S - HOUR_S),
        rfc3339_from_s(NOON_S - DAY_S + HOUR_S),
    )
    assert answered(store, span, NOON_S) == by_the_hour(store, monkeypatch, span, NOON_S)


def test_an_hour_that_ends_while_a_question_is_asked_is_counted_once(store: SqliteStore) -> None:
    times = [NOON_S - 3 * DAY_S + HOUR_S * number for number in range(3 * 24)]
    store.add([arrival(1, *(flow(time=at(each), count=1) for each in times))], 1)
    tidied(store, NOON_S - HOUR_S * 30)
    later = iter(range(NOON_S - HOUR_S * 29, NOON_S + 1, HOUR_S))
    kept_rows = store.rows

    class Meanwhile:
        """The store, to which hours are added between the plan of a question and the question."""

        retention = store.retention
        text_of = store.text_of
        parts = store.parts

        def rows(self, question: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
            tidied(store, next(later))
            return kept_rows(question, values)

    for _ in range(30):
        meanwhile: Any = Meanwhile()
        edges = Flows(meanwhile, KnownSeries(store)).edges(
            Span(from_s=NOON_S - 4 * DAY_S, until_s=NOON_S), NOON_S, None
        )
        assert edges[EDGE]["calls"] == len(times)
    assert store._days._until_s == NOON_S - HOUR_S


def test_days_are_as_far_as_hours_are_over_and_a_later_start_knows_it(store: SqliteStore, tmp_path: Path) -> None:
    times = range(NOON_S - 2 * DAY_S, NOON_S, HOUR_S)
    store.add([arrival(1, *(flow(time=at(each)) for each in times))], 1)
    tidied(store, NOON_S)
    store.close()
    again = SqliteStore(tmp_path, Retention(), lambda _: None)
    assert again.rows("SELECT until_s FROM days_until", {}) == [(NOON_S - HOUR_S,)]
    assert again.rows("SELECT SUM(calls), COUNT(*) FROM days", {}) == [(47, 3)]
    span = Span(from_s=NOON_S - 2 * DAY_S, until_s=NOON_S)
    assert tables(again, span, NOON_S) == {"days"}
    assert Flows(again).edges(span, NOON_S, None)[EDGE]["calls"] == 48
    again.close()


def test_a_day_that_is_forgotten_by_the_hour_is_not_told(store: SqliteStore) -> None:
    store.add([arrival(1, *(flow(time=at(NOON_S + HOUR_S * number)) for number in range(72)))], 1)
    tidied(store, NOON_S + 3 * DAY_S)
    now_s = NOON_S + 400 * DAY_S + 30 * HOUR_S  # of the second day the first hours are forgotten
    tidied(store, now_s)
    assert store.rows("SELECT COUNT(*) FROM days WHERE time < :first", {"first": NOON_S - 43_200}) == [(0,)]
    (kept,) = store.rows("SELECT COUNT(*) FROM hours", {})
    assert kept == (42,)
    found = Flows(store).edges(Span(from_s=NOON_S - DAY_S, until_s=NOON_S + 5 * DAY_S), now_s, None)
    assert found[EDGE]["calls"] == 42


def test_hours_wait_for_their_days_while_more_and_more_comes(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    store.add([arrival(1, *(flow(time=at(NOON_S - HOUR_S * number)) for number in range(9)))], 1)
    reached = []
    for number in range(2, 6):
        store.add([arrival(number, flow(time=at(NOON_S)))], 1)
        assert store.tidy(NOON_S)
        store.tidy(NOON_S)
        reached.append(store.rows("SELECT until_s FROM days_until", {})[0][0])
    # One hour at first, and the next when ten seconds have passed, or when there was nothing to do twice.
    assert reached == [NOON_S - 7 * HOUR_S] * 4
    monkeypatch.setattr(time, "monotonic", lambda: 1011.0)
    store.add([arrival(9, flow(time=at(NOON_S)))], 1)
    assert [store.tidy(NOON_S) for _ in range(7)] == [True] * 7
    assert store.rows("SELECT until_s FROM days_until", {}) == [(NOON_S - HOUR_S,)]
    assert not store.tidy(NOON_S)


def test_only_what_does_not_tell_times_apart_is_read_by_the_day(store: SqliteStore) -> None:
    store.add([arrival(1, *(flow(time=at(BEGIN_S + HOUR_S * number)) for number in range(99)))], 1)
    tidied(store, NOON_S)
    of_edge = store.parts(BEGIN_S, NOON_S, NOON_S, ANY_STEP_S, of_edge=True)
    by_hour = store.parts(BEGIN_S, NOON_S, NOON_S, HOUR_S)
    assert of_edge == by_hour
    assert Part(HOURS, BEGIN_S, NOON_S) in by_hour

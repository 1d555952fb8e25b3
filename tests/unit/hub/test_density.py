"""Calls of everybody over time: every call that an edge counts is in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.hub.density import density
from authz.hub.span import Span
from tests.support.hub_process import flow
from tests.unit.hub.test_stores import DAY_S, NOON_S, arrival, at, calls, store, tidied

if TYPE_CHECKING:
    from authz.hub.store.store import Store

__all__ = ["store"]

REFUSED = {"decision": "deny", "reason": "no_policy", "policy": None}


def points(store: Store, from_s: int, until_s: int) -> list[tuple[str, int, int]]:
    found = density(store, Span(from_s=from_s, until_s=until_s), NOON_S)
    return [(each["time"], each["calls"], each["denied"]) for each in found["points"]]


def test_calls_are_counted_by_the_hour_whether_they_are_added_up_or_not(store: Store) -> None:
    store.add([arrival(1, flow(time=at(NOON_S - 3600), count=3), flow(time=at(NOON_S - 10), count=2, **REFUSED))], 1)
    tidied(store)
    store.add([arrival(2, flow("orders", time=at(NOON_S - 3590), count=4))], 1)
    assert points(store, NOON_S - DAY_S, NOON_S) == [(at(NOON_S - 3600), 9, 2)]


def test_a_long_span_has_fewer_and_longer_steps_with_the_same_calls(store: Store) -> None:
    times = [NOON_S - day * DAY_S - 5 * 3600 for day in range(300)]
    store.add([arrival(1, *(flow(time=at(time)) for time in times))], 1)
    tidied(store)
    found = density(store, Span(from_s=NOON_S - 365 * DAY_S, until_s=NOON_S), NOON_S)
    assert len(found["points"]) <= 201
    assert sum(each["calls"] for each in found["points"]) == 300


def test_the_calls_of_all_steps_are_those_of_all_edges(store: Store) -> None:
    outbound = {"sidecar": "storefront", "direction": "outbound"}
    store.add([arrival(1, flow(time=at(NOON_S - 100), count=7))], 1)
    store.add([arrival(1, flow(time=at(NOON_S - 100), count=8, unreached=1, **outbound), sidecar="storefront")], 1)
    total = sum(calls(store, NOON_S - 3600, NOON_S).values())
    assert sum(each[1] for each in points(store, NOON_S - 3600, NOON_S)) == total == 8


def test_where_there_is_nothing_there_are_no_steps(store: Store) -> None:
    assert points(store, NOON_S - DAY_S, NOON_S) == []

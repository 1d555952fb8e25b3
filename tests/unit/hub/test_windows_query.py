"""Attempts on windows are added up as they come, and the sums say what all of their records would say."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from authz.hub.window_attempts import MOST_SOURCES, WINDOW_REASONS, attempt_of_body
from authz.hub.windows_query import WindowsQuery
from authz.insight.attempt import WindowKind
from authz.insight.attempt_tally import Attempts, AttemptTally
from authz.insight.window_dates import WindowDates
from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from tests.support.hub_process import record
from tests.unit.hub.test_migrations import first, opened
from tests.unit.hub.test_stores import DAY_S, NOON_S, arrival, store, tidied

if TYPE_CHECKING:
    from pathlib import Path

    from authz.hub.store.store import Store

__all__ = ["first", "store"]

RULE = "reporting-reads-orders"


def window(opens_s: int | None = None, closes_s: int | None = NOON_S, name: str = RULE) -> WindowDates:
    return WindowDates(
        kind=WindowKind.MICRO_POLICY,
        name=name,
        opens_ns=None if opens_s is None else opens_s * NS_PER_S,
        closes_ns=None if closes_s is None else closes_s * NS_PER_S,
        hours=None,
        owner=None,
        path="p.yaml",
        line=1,
    )


def refused(number: int, time_s: float, source: str = "storefront", **fields: Any) -> dict[str, Any]:
    return record(number, source, **{"time": at_ms(time_s), "reason": "closed", "policy": RULE, **fields})


def at_ms(seconds: float) -> str:
    return rfc3339_from_ns(int(seconds * 1000) * NS_PER_MS)


def after(store: Store, *windows: WindowDates) -> Attempts:
    return WindowsQuery(store, windows).attempts(windows[0].kind, windows[0].name, after=True)


def by_every_record(store: Store, each: WindowDates, *, after: bool) -> Attempts:
    """Count what all records say, one by one."""
    tally = AttemptTally({(each.kind, each.name): each})
    reasons = ", ".join(f"'{reason}'" for reason in WINDOW_REASONS)
    question = f"SELECT body FROM records WHERE reason IN ({reasons}) AND cut = 0 ORDER BY time_ms, n"  # noqa: S608
    for (body,) in store.rows(question, {}):
        attempt = attempt_of_body(body)
        assert attempt is not None
        tally.add(attempt)
    return tally.attempts(each.kind, each.name, after=after)


class TestAttempts:
    def test_are_counted_with_first_and_last_and_by_source(self, store: Store) -> None:
        store.add([arrival(1, records=[refused(1, NOON_S + 1.5), refused(2, NOON_S + 2, "catalog")])], 1)
        store.add([arrival(2, records=[refused(3, NOON_S + 3 * DAY_S)])], 1)
        found = after(store, window())
        assert (found.count, found.records) == (3, 3)
        assert (found.first_ns, found.last_ns) == (NOON_S * NS_PER_S + 1_500_000_000, (NOON_S + 3 * DAY_S) * NS_PER_S)
        assert [(each.source.service, each.count) for each in found.sources] == [("storefront", 2), ("catalog", 1)]
        assert found.sources[0].source.address == "127.0.0.1"

    def test_of_a_batch_that_comes_again_are_counted_once(self, store: Store) -> None:
        one = arrival(1, records=[refused(1, NOON_S + 1)])
        assert [store.add([one], 1), store.add([one], 1)] == [[True], [False]]
        assert after(store, window()).records == 1

    def test_that_tell_of_one_request_are_one_whatever_batch_brings_them(self, store: Store) -> None:
        same = {"request_id": "one"}
        store.add([arrival(1, records=[refused(1, NOON_S + 1, **same), refused(2, NOON_S + 2, **same)])], 1)
        store.add([arrival(2, records=[refused(3, NOON_S + 3, **same), refused(4, NOON_S + 60, **same)])], 1)
        found = after(store, window())
        assert (found.count, found.records) == (2, 4)

    def test_before_an_end_that_was_moved_are_none_on_it(self, store: Store) -> None:
        times = [NOON_S + hour * 3600 for hour in range(-30, 30)]
        store.add([arrival(1, records=[refused(number, time) for number, time in enumerate(times)])], 1)
        for closes_s in (NOON_S - 40 * 3600, NOON_S, NOON_S + 7200, NOON_S + 7201, NOON_S + 40 * 3600):
            assert after(store, window(closes_s=closes_s)).records == sum(time >= closes_s for time in times)

    def test_of_a_rule_and_of_a_third_party_of_one_name_are_told_apart(self, store: Store) -> None:
        party = refused(2, NOON_S + 2, reason="decommissioned")
        store.add([arrival(1, records=[refused(1, NOON_S + 1), party])], 1)
        assert after(store, window()).records == 1

    def test_of_a_call_that_was_cut_are_none(self, store: Store) -> None:
        store.add([arrival(1, records=[refused(1, NOON_S + 1, cut=True)])], 1)
        assert after(store, window()).records == 0

    def test_of_more_sources_than_are_told_apart_are_all_counted(self, store: Store) -> None:
        def caller(number: int) -> dict[str, Any]:
            return {**record()["caller"], "identity": f"spiffe://shop.example/{number}", "service": None}

        many = [refused(n, NOON_S + 1, caller=caller(n)) for n in range(MOST_SOURCES + 50)]
        store.add([arrival(1, records=many)], 1)
        found = after(store, window())
        assert (found.count, len(found.sources)) == (MOST_SOURCES + 50, MOST_SOURCES + 1)
        assert (found.sources[0].source.identity, found.sources[0].count) == (None, 50)

    def test_older_than_denials_are_kept_are_forgotten(self, store: Store) -> None:
        store.add([arrival(1, records=[refused(1, NOON_S - 500 * DAY_S), refused(2, NOON_S)])], 1)
        tidied(store)
        assert after(store, window(closes_s=1)).records == 1

    @pytest.mark.parametrize("seed", range(8))
    def test_are_those_that_all_records_would_tell_of(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 nothing secret
        for sequence in range(1, 5):
            records = []
            for number in range(40):
                reason = chance.choice(["closed", "not_yet_open", "decommissioned", "no_policy"])
                records.append(
                    refused(
                        sequence * 100 + number,
                        NOON_S + sequence * 5000 + number * 100 + chance.random(),
                        chance.choice(["storefront", "catalog", "orders"]),
                        reason=reason,
                        policy=chance.choice([RULE, "another"]),
                        request_id=chance.choice([None, f"r{sequence}{number}", f"r{sequence}{number // 2}"]),
                    )
                )
            store.add([arrival(sequence, records=records)], 1)
        for _ in range(5):
            date_s = NOON_S + chance.randrange(0, 30_000)
            for each in (window(closes_s=date_s), window(opens_s=date_s, closes_s=None)):
                found = WindowsQuery(store, [each])
                for side in (True, False):
                    assert found.attempts(each.kind, each.name, after=side) == by_every_record(store, each, after=side)


class TestAnOlderStore:
    def test_tells_of_the_attempts_that_it_had_before(self, first: Path) -> None:
        store = opened(first)
        found = WindowsQuery(store, [window(closes_s=NOON_S)]).attempts(WindowKind.MICRO_POLICY, RULE, after=True)
        assert (found.count, found.records) == (2, 2)
        assert (found.first_ns, found.last_ns) == ((NOON_S + 3600) * NS_PER_S, (NOON_S + 7200) * NS_PER_S)
        store.close()


@pytest.mark.parametrize("days", [1, 30])
def test_what_is_read_for_a_window_does_not_grow_with_the_denials(tmp_path: Path, days: int) -> None:
    store = opened(tmp_path)
    for sequence in range(1, 4):
        times = [NOON_S + number * days * DAY_S / 1000 for number in range(1000)]
        store.add([arrival(sequence, records=[refused(sequence * 1000 + n, t) for n, t in enumerate(times)])], 1)
    rows = store.rows("SELECT COUNT(*) FROM attempts", {})
    assert rows[0][0] <= days + 1
    assert after(store, window()).records == 3000
    store.close()

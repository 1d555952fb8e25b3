"""What every store has to do: the same claims for SQLite, and for ClickHouse's engine where `make test-store` runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from authz.hub.arrival import Arrival, ArrivalReader
from authz.hub.errors import StoreError
from authz.hub.query import Flows
from authz.hub.records_query import Cursor, Records
from authz.hub.span import Span
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention, Store
from authz.instant import NS_PER_S, rfc3339_from_ns
from tests.support.hub_process import batch, flow, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: a Monday at noon
NOON_S = 1_799_668_800 - 1_799_668_800 % 86_400 + 43_200
DAY_S = 86_400


def _stores() -> list[str]:
    try:
        import chdb  # noqa: F401, PLC0415 it is there in `make test-store` only
    except ImportError:
        return ["sqlite"]
    return ["sqlite", "clickhouse"]


@pytest.fixture(params=_stores())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "sqlite":
        made = SqliteStore(tmp_path, Retention(), lambda _: None)
    else:
        from authz.hub.store.clickhouse import ClickHouseStore  # noqa: PLC0415 as above

        made = ClickHouseStore(f"chdb://{tmp_path}/clickhouse", Retention(), lambda _: None)
    yield made
    made.close()


def arrival(
    sequence: int, *flows: dict[str, Any], records: list[dict[str, Any]] | None = None, **fields: Any
) -> Arrival:
    return ArrivalReader().read(json.dumps(batch(sequence, flows, records or [], **fields)).encode())


def at(seconds: int) -> str:
    return rfc3339_from_ns(seconds * NS_PER_S)


def calls(store: Store, from_s: int, until_s: int, now_s: int = NOON_S) -> dict[tuple[str, str], int]:
    edges = Flows(store).edges(Span(from_s=from_s, until_s=until_s), now_s, None)
    return {ends: edge["calls"] for ends, edge in edges.items()}


def tidied(store: Store, now_s: int = NOON_S) -> None:
    while store.tidy(now_s):
        pass


EDGE = ("storefront", "catalog")


class TestABatch:
    def test_that_comes_again_is_not_added_again(self, store: Store) -> None:
        first = arrival(1, flow(time=at(NOON_S), count=3), records=[record(1)])
        assert store.add([first], 1) == [True]
        assert store.add([first], 2) == [False]
        assert store.add([first, first], 3) == [False, False]
        assert calls(store, NOON_S, NOON_S + 10, NOON_S + 20) == {EDGE: 3}
        assert len(Records(store).calls({}, None, None, 10, None)["calls"]) == 1

    def test_is_known_by_sidecar_boot_and_sequence(self, store: Store) -> None:
        one = flow(time=at(NOON_S))
        assert store.add([arrival(1, one), arrival(2, one), arrival(1, one, boot="ffffffffffffffff")], 1) == [True] * 3
        assert store.add([arrival(1, sidecar="orders")], 1) == [True]
        assert calls(store, NOON_S, NOON_S + 10, NOON_S + 20) == {EDGE: 3}

    def test_that_failed_half_way_is_counted_once_when_it_comes_again(self, store: Store) -> None:
        whole = [arrival(1, flow(time=at(NOON_S), count=3)), arrival(2, flow(time=at(NOON_S), count=4))]
        broken = replace(arrival(3, flow(time=at(NOON_S))), rows=[(NOON_S, "no series")])
        with pytest.raises(StoreError):
            store.add([*whole, broken], 1)
        store.add(whole, 2)
        assert store.add(whole, 3) == [False, False]
        assert calls(store, NOON_S, NOON_S + 10, NOON_S + 20) == {EDGE: 7}

    def test_says_how_its_sidecar_is_and_an_older_one_does_not(self, store: Store) -> None:
        status = {**batch()["status"], "spooled": 7, "svid_expires": at(NOON_S), "revision": "d" * 64}
        store.add([arrival(2, sent=at(NOON_S + 10), status=status)], 5)
        store.add([arrival(1, sent=at(NOON_S))], 6)
        rows = store.rows("SELECT sidecar, sequence, spooled, revision, svid_expires_ms, received_ms FROM sidecars", {})
        assert rows == [("catalog", 2, 7, "d" * 64, NOON_S * 1000, 5)]


class TestCalls:
    @pytest.mark.parametrize("tidy", [False, True])
    def test_of_one_flow_in_pieces_are_added_up(self, store: Store, tidy: bool) -> None:  # noqa: FBT001
        store.add([arrival(1, flow(time=at(NOON_S), count=2))], 1)
        if tidy:
            tidied(store)
        store.add([arrival(2, flow(time=at(NOON_S), count=5))], 1)
        if tidy:
            tidied(store)
        assert calls(store, NOON_S, NOON_S + 10) == {EDGE: 7}
        assert calls(store, NOON_S - DAY_S, NOON_S + 3600) == {EDGE: 7}

    @pytest.mark.parametrize("tidy", [False, True])
    def test_of_a_span_are_those_of_its_seconds_minutes_and_hours(self, store: Store, tidy: bool) -> None:  # noqa: FBT001
        times = [NOON_S - 7200 + 10 * step for step in range(720)]
        store.add([arrival(1, *(flow(time=at(each)) for each in times))], 1)
        if tidy:
            tidied(store)
        for begin, end in ((0, 7200), (10, 7190), (3590, 3610), (3600, 7200), (60, 120), (50, 70), (30, 30)):
            expected = {EDGE: (end - begin) // 10} if end > begin else {}
            assert calls(store, NOON_S - 7200 + begin, NOON_S - 7200 + end) == expected, (begin, end)

    def test_are_counted_once_by_the_rule_of_the_contract(self, store: Store) -> None:
        outbound = {"sidecar": "storefront", "direction": "outbound", "time": at(NOON_S)}
        refused = {**outbound, "decision": "deny", "reason": "no_policy", "policy": None}
        party = {"service": None, "third_party": "payments", "host": "api.payments.example"}
        nobody = {"service": None, "third_party": None, "host": "unknown.example:443"}
        store.add(
            [
                arrival(1, flow(time=at(NOON_S), count=10)),
                arrival(
                    1,
                    flow(**outbound, count=12, unreached=2),
                    flow(**refused, count=3),
                    flow(**outbound, count=4, destination=party),
                    flow(**{**refused, "reason": "unknown_destination"}, count=5, destination=nobody),
                    sidecar="storefront",
                ),
            ],
            1,
        )
        found = Flows(store).edges(Span(from_s=NOON_S, until_s=NOON_S + 10), NOON_S + 60, None)
        numbers = {
            ends: (each["calls"], each["allowed"], each["denied"], each["unreached"]) for ends, each in found.items()
        }
        assert numbers == {
            EDGE: (15, 12, 3, 2),
            ("storefront", "payments"): (4, 4, 0, 0),
            ("storefront", "unknown.example:443"): (5, 0, 5, 0),
        }
        assert found[EDGE]["bytes_received"] == 1000 + 300  # what arrived, and what was refused before it left

    @pytest.mark.parametrize("tidy", [False, True])
    def test_that_run_on_are_counted_where_they_move_bytes_end_and_are_cut(self, store: Store, tidy: bool) -> None:  # noqa: FBT001
        nothing = {"count": 0, "statuses": {}, "bytes_received": 0, "bytes_sent": 0, "duration_us_log2": []}
        running = {**nothing, "bytes_sent": 700}
        ended = {**nothing, "bytes_sent": 30, "cut": 1, "statuses": {"200": 1}, "duration_us_log2": [0] * 23 + [1]}
        other_side = {"sidecar": "storefront", "direction": "outbound"}
        store.add(
            [
                arrival(
                    1,
                    flow(time=at(NOON_S), **{**nothing, "count": 1}),
                    flow(time=at(NOON_S + 10), **running),
                    flow(time=at(NOON_S + 3600), **ended),
                ),
                arrival(
                    1,
                    flow(time=at(NOON_S), **{**nothing, "count": 1}, **other_side),
                    flow(time=at(NOON_S + 20), **ended, **other_side),
                    sidecar="storefront",
                ),
            ],
            1,
        )
        if tidy:
            tidied(store)
        step, points = Flows(store).history(Span(from_s=NOON_S, until_s=NOON_S + 3700), NOON_S + 7200, *EDGE, 10)
        assert step == 10
        assert [(each["time"], each["calls"], each["bytes_sent"], each["p50_ms"] is None) for each in points] == [
            (at(NOON_S), 1, 0, True),
            (at(NOON_S + 10), 0, 700, True),
            (at(NOON_S + 3600), 0, 30, False),
        ]
        edges = Flows(store).edges(Span(from_s=NOON_S + 3590, until_s=NOON_S + 3620), NOON_S + 7200, None)
        assert {ends: (each["calls"], each["cut"], each["bytes_sent"]) for ends, each in edges.items()} == {
            EDGE: (0, 1, 30)
        }
        assert calls(store, NOON_S + 20, NOON_S + 30) == {}  # of that the callee's sidecar tells

    def test_of_callers_without_a_name_stand_under_identity_or_address(self, store: Store) -> None:
        caller = flow()["caller"]
        store.add(
            [
                arrival(
                    1,
                    flow(time=at(NOON_S), caller={**caller, "service": None}),
                    flow(time=at(NOON_S), caller={**caller, "service": None, "identity": None, "address": "::1"}),
                    flow(time=at(NOON_S), caller={**caller, "service": None, "identity": None}),
                )
            ],
            1,
        )
        ends = set(calls(store, NOON_S, NOON_S + 10))
        identity = "spiffe://shop.example/ns/shop/sa/storefront"
        assert ends == {(identity, "catalog"), ("::1", "catalog"), ("(nobody)", "catalog")}

    def test_have_protocols_encryption_routes_and_latency(self, store: Store) -> None:
        plain = {"version": None, "cipher": None, "peer_serial": None}
        store.add(
            [
                arrival(
                    1,
                    flow(time=at(NOON_S), count=90, duration_us_log2=[0] * 10 + [90]),
                    flow(
                        time=at(NOON_S),
                        count=10,
                        protocol="grpc",
                        route="/a/B",
                        tls=plain,
                        duration_us_log2=[0] * 20 + [10],
                    ),
                )
            ],
            1,
        )
        edge = Flows(store).edges(Span(from_s=NOON_S, until_s=NOON_S + 10), NOON_S + 60, "catalog")[EDGE]
        assert edge["protocols"] == {"http/2": 90, "grpc": 10}
        assert edge["tls"] == {"TLSv1_3": 90, "none": 10}
        assert edge["routes"] == 2
        assert edge["p50_ms"] is not None
        assert edge["p99_ms"] is not None
        assert 1.0 <= edge["p50_ms"] <= 2.1
        assert 1000 <= edge["p99_ms"] <= 2100

    def test_of_one_edge_are_one_wherever_they_are_kept(self, store: Store) -> None:
        begin = NOON_S - 3600
        plain = {"version": None, "cipher": None, "peer_serial": None}
        refused = {"decision": "deny", "reason": "no_policy", "policy": None}
        slow = {"duration_us_log2": [0] * 20 + [1]}
        store.add(
            [
                arrival(1, *(flow(time=at(begin + 10 * step), duration_us_log2=[0] * 10 + [1]) for step in range(600))),
                arrival(2, flow(time=at(begin + 60), **refused), flow(time=at(begin + 50), protocol="grpc", tls=plain)),
                arrival(3, flow(time=at(begin + 3000), reason="observed", route="/other", **slow)),
            ],
            1,
        )
        tidied(store)
        store.add([arrival(4, flow(time=at(begin + 3700), count=4, route="/other", protocol="grpc", **slow))], 1)
        # Read by the second, the minute and the hour, and what came last from where it waits.
        edges = Flows(store).edges(Span(from_s=begin - 50, until_s=begin + 5000), NOON_S + 7200, None)
        edge = edges.pop(EDGE)
        assert not edges
        assert (edge["calls"], edge["allowed"], edge["denied"], edge["observed"]) == (507, 506, 1, 1)
        assert (edge["protocols"], edge["tls"], edge["routes"]) == (
            {"http/2": 502, "grpc": 5},
            {"TLSv1_3": 506, "none": 1},
            2,
        )
        assert edge["p50_ms"] is not None
        assert edge["p50_ms"] < 2.1
        assert edge["first_seen"] == at(begin)
        assert calls(store, begin - 50, begin + 5000, NOON_S + 7200) == {EDGE: 507}

    def test_that_were_upgraded_were_answered(self, store: Store) -> None:
        store.add([arrival(1, flow(time=at(NOON_S), count=3, statuses={"101": 2, "200": 1}))], 1)
        edge = Flows(store).edge(Span(from_s=NOON_S, until_s=NOON_S + 10), NOON_S + 60, *EDGE)
        assert edge is not None
        assert edge["statuses"] == {"2xx": 3}


class TestHistory:
    def test_has_a_point_for_each_step_with_calls(self, store: Store) -> None:
        begin = NOON_S - 30 * DAY_S
        hours = [begin + hour * 3600 for hour in (0, 5, 6, 700)]
        store.add([arrival(1, *(flow(time=at(each + 130), count=2) for each in hours))], 1)
        tidied(store)
        step, points = Flows(store).history(Span(from_s=begin, until_s=NOON_S), NOON_S, *EDGE, 3600)
        assert step == 3600
        assert [(each["time"], each["calls"]) for each in points] == [(at(each), 2) for each in hours]

    def test_is_as_coarse_as_what_is_still_kept(self, store: Store) -> None:
        old, recent = NOON_S - 20 * DAY_S, NOON_S - 600
        store.add([arrival(1, flow(time=at(old + 130)), flow(time=at(recent)))], 1)
        tidied(store)
        assert Flows(store).history(Span(from_s=old, until_s=NOON_S), NOON_S, *EDGE, 10)[0] == 3600
        step, points = Flows(store).history(Span(from_s=recent - 600, until_s=NOON_S), NOON_S, *EDGE, 10)
        assert (step, [each["time"] for each in points]) == (10, [at(recent)])

    def test_of_what_was_forgotten_finely_is_the_same_by_the_hour(self, store: Store) -> None:
        old = NOON_S - 20 * DAY_S
        store.add([arrival(1, *(flow(time=at(old + 10 * number)) for number in range(720)))], 1)
        tidied(store)
        assert calls(store, old, old + 7200) == {EDGE: 720}
        assert calls(store, old + 10, old + 20) == {EDGE: 360}  # the hour that it is in is what is still known

    def test_says_when_an_edge_was_seen_first_and_last(self, store: Store) -> None:
        store.add([arrival(1, flow(time=at(NOON_S - DAY_S)), flow(time=at(NOON_S)))], 1)
        tidied(store)
        edge = Flows(store).edge(Span(from_s=NOON_S - 3600, until_s=NOON_S + 10), NOON_S, *EDGE)
        assert edge is not None
        assert (edge["first_seen"], edge["last_seen"], edge["calls"]) == (at(NOON_S - DAY_S), at(NOON_S), 1)
        found = Flows(store).edges(Span(from_s=NOON_S - 7200, until_s=NOON_S + 7200), NOON_S, None)[EDGE]
        assert (found["first_seen"], found["last_seen"]) == (at(NOON_S - DAY_S), at(NOON_S))
        assert Flows(store).edge(Span(from_s=0, until_s=NOON_S), NOON_S, "catalog", "storefront") is None


class TestRecords:
    def test_come_page_by_page_the_newest_first_while_more_come(self, store: Store) -> None:
        same = at(NOON_S)
        store.add(
            [
                arrival(
                    1,
                    records=[record(number, time=same if number % 2 else at(NOON_S - number)) for number in range(25)],
                )
            ],
            1,
        )
        seen: list[str] = []
        cursor = None
        for number in range(20):
            page = Records(store).calls({}, None, None, 4, cursor)
            seen += [each["decision_id"] for each in page["calls"]]
            store.add([arrival(100 + number, records=[record(1000 + number, time=at(NOON_S + 60 + number))])], 1)
            if page["cursor"] is None:
                break
            cursor = Cursor.parse(page["cursor"])
        assert sorted(int(each, 16) for each in seen) == list(range(25))

    def test_are_found_by_each_filter(self, store: Store) -> None:
        allowed = {"decision": "allow", "reason": "allowed", "policy": "p"}
        store.add(
            [arrival(1, records=[record(1), record(2, **allowed), record(3, "orders", reason="closed", policy="q")])], 1
        )

        def found(**filters: str) -> list[int]:
            page = Records(store).calls(filters, None, None, 10, None)
            return sorted(int(each["decision_id"], 16) for each in page["calls"])

        assert found(decision="allow") == [2]
        assert found(decision="deny") == [1, 3]
        assert found(reason="closed") == [3]
        assert found(policy="p") == [2]
        assert found(**{"from": "orders", "to": "catalog"}) == [3]
        assert found(to="nobody") == []

    def test_of_denials_are_counted_by_what_they_have_in_common(self, store: Store) -> None:
        handshake = {"failure": "no client certificate", "claimed": None, "count": 5}
        nobody = {**record()["caller"], "identity": None, "service": None}
        store.add(
            [
                arrival(
                    1,
                    records=[
                        *(record(number) for number in range(3)),
                        record(8, reason="closed", policy="q"),
                        record(9, cut=True),
                        record(10, caller=nobody, reason="unidentified", handshake=handshake, protocol=None),
                    ],
                )
            ],
            1,
        )
        denials = Records(store).denials("source", 0, 2**42)
        assert [(each["key"], each["count"], each["reasons"]) for each in denials] == [
            ("127.0.0.1", 5, {"unidentified": 5}),
            ("storefront", 4, {"closed": 1, "no_policy": 3}),
        ]

    def test_of_a_decision_is_the_decision_and_not_its_end(self, store: Store) -> None:
        began = record(1, decision="allow", reason="allowed", time=at(NOON_S))
        ended = record(1, cut=True, reason="closed", time=at(NOON_S + 60))
        store.add([arrival(1, records=[ended, began]), arrival(2, records=[record(2, cut=True)])], 1)
        found = Records(store).decision(began["decision_id"])
        assert found is not None
        assert found["cut"] is False
        only_end = Records(store).decision(record(2)["decision_id"])
        assert only_end is not None
        assert only_end["cut"] is True
        assert Records(store).decision("0" * 31 + "9") is None

    def test_that_are_old_are_forgotten_allowed_ones_sooner(self, store: Store) -> None:
        allowed = {"decision": "allow", "reason": "allowed"}
        old = at(NOON_S - 60 * DAY_S)
        store.add(
            [
                arrival(
                    1,
                    records=[
                        record(1, time=old),
                        record(2, time=old, **allowed),
                        record(3, time=at(NOON_S), **allowed),
                    ],
                )
            ],
            1,
        )
        tidied(store)
        page = Records(store).calls({}, None, None, 10, None)
        assert [int(each["decision_id"], 16) for each in page["calls"]] == [3, 1]


def test_sqlite_refuses_a_file_that_a_later_program_has_written(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, Retention(), lambda _: None)
    store._writer.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="a later version"):
        SqliteStore(tmp_path, Retention(), lambda _: None)


def test_sqlite_tells_of_all_the_room_that_its_files_take_the_log_among_them(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, Retention(), lambda _: None)
    store.add([arrival(1, *(flow(time=at(NOON_S - 10 * number)) for number in range(2000)))], 1)
    log_bytes = (tmp_path / "hub.sqlite-wal").stat().st_size
    taken_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert log_bytes > 100_000
    assert store.facts().size_bytes == taken_bytes
    store.close()


def test_sqlite_syncs_each_commit(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, Retention(), lambda _: None)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()

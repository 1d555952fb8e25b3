"""What a map knows of its series is what is stored, is asked for once, and is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from authz.hub.known_series import KnownSeries
from authz.hub.query import Flows
from authz.hub.span import Span
from authz.hub.store.sqlite import SqliteStore
from authz.hub.store.store import Retention
from tests.support.hub_process import flow
from tests.unit.hub.test_stores import EDGE, NOON_S, arrival, at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path, Retention(), lambda _: None)
    yield made
    made.close()


def ids(store: SqliteStore) -> set[int]:
    return {number for (number,) in store.rows("SELECT id FROM series", {})}


class Asked:
    """A store that counts what it is asked."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.questions = 0

    def rows(self, question: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        self.questions += 1
        return self._store.rows(question, values)


def test_a_series_is_asked_for_once(store: SqliteStore) -> None:
    plain = {"version": None, "cipher": None, "peer_serial": None}
    store.add([arrival(1, flow(route="/a"), flow(route=None, tls=plain, reason="observed"))], 1)
    asked: Any = Asked(store)
    known = KnownSeries(asked)
    found = known.of(ids(store))
    assert {(ends, route, protocol, version, *kind) for ends, route, protocol, version, *kind in found.values()} == {
        (EDGE, "GET /a", "http/2", "TLSv1_3", 1, 0, 0),
        (EDGE, "GET ", "http/2", "none", 1, 0, 1),
    }
    known.of(ids(store))
    assert (asked.questions, len(known)) == (1, 2)


def test_one_that_is_not_stored_is_left_out_and_asked_for_again(store: SqliteStore) -> None:
    asked: Any = Asked(store)
    known = KnownSeries(asked)
    assert 7 not in known.of({7})
    assert 7 not in known.of({7})
    assert asked.questions == 2


def test_more_than_are_kept_are_given_all_the_same(store: SqliteStore) -> None:
    store.add([arrival(1, *(flow(route=f"/{number}", time=at(NOON_S)) for number in range(50)))], 1)
    every = ids(store)
    known = KnownSeries(store, most=20)
    assert every <= known.of(every).keys()
    assert len(known) == 0
    first, second = set(sorted(every)[:15]), set(sorted(every)[15:30])
    kept = known.of(first)
    assert second <= known.of(second).keys()
    assert len(known) == 15
    assert first <= kept.keys()  # whoever has it goes on with it
    edges = Flows(store, known).edges(Span(from_s=NOON_S, until_s=NOON_S + 10), NOON_S + 60, None)
    assert (edges[EDGE]["routes"], edges[EDGE]["calls"]) == (50, 50)

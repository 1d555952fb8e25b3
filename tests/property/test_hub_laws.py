"""Laws of what the hub reads: any bytes are a batch, a parameter or a file of its own form, or are refused."""

from __future__ import annotations

import json
import string
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from authz.hub.access import Access
from authz.hub.arrival import Arrival, ArrivalReader
from authz.hub.columns import COLUMNS
from authz.hub.errors import ArrivalError, HubError, ParameterError
from authz.hub.intake import unpacked_batch
from authz.hub.kept_record import packed, unpacked
from authz.hub.latency import quantiles_ms
from authz.hub.moment import moment_ns, step_s
from authz.hub.operations import OPERATIONS
from authz.hub.records_query import Cursor
from authz.hub.store.spans import cut, finest_step_s, outwards
from authz.hub.store.store import STEP_S, Retention
from authz.instant import NS_PER_S, rfc3339_from_ns, rfc3339_from_s
from authz.records.batch import batch_from_json
from authz.records.errors import RecordError
from tests.support.hub_process import batch, flow, record

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NOW_NS = 1_800_000_000_000_000_000


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the way to every value inside of a value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.extend(paths(inner, (*path, key)))
    return found


WHOLE = batch(3, [flow(), flow(count=3, shadow={"decision": "deny", "reason": "closed", "policy": "x"})], [record(7)])
PATHS = paths(WHOLE)


def altered(path: tuple[Any, ...], value: Any) -> bytes:
    copy = json.loads(json.dumps(WHOLE))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(copy).encode()


class TestABatch:
    """Any bytes are a batch or refused, and what the sidecars' own reader refuses is refused here too."""

    @given(content=st.binary(max_size=200))
    def test_is_any_bytes_or_they_are_refused(self, content: bytes) -> None:
        with pytest.raises(ArrivalError):
            ArrivalReader().read(content)

    @given(path=st.sampled_from(PATHS), value=ANY)
    def test_with_any_one_value_altered_is_read_or_refused(self, path: tuple[Any, ...], value: Any) -> None:
        reader = ArrivalReader()
        reader.read(json.dumps(WHOLE).encode())  # what was known before lets nothing pass
        content = altered(path, value)
        try:
            arrival = reader.read(content)
        except ArrivalError:
            return
        assert isinstance(arrival, Arrival)
        assert all(len(row) == len(COLUMNS) + 2 and all(type(each) is int for each in row) for row in arrival.rows)

    @given(path=st.sampled_from([each for each in PATHS if each[0] != "flows"]), value=ANY)
    def test_is_refused_wherever_the_sidecars_reader_refuses_it(self, path: tuple[Any, ...], value: Any) -> None:
        content = altered(path, value)
        try:
            batch_from_json(content)
        except RecordError:
            with pytest.raises(ArrivalError):
                ArrivalReader().read(content)

    @given(content=st.binary(max_size=200))
    def test_that_says_it_is_packed_is_unpacked_or_refused(self, content: bytes) -> None:
        with pytest.raises(ArrivalError):
            unpacked_batch(content, "gzip")

    @given(text=st.dictionaries(st.text(max_size=20), st.text(max_size=200)))
    def test_has_records_that_are_unpacked_as_they_were_packed(self, text: dict[str, str]) -> None:
        assert unpacked(packed(json.dumps(text).encode())) == text


def written(whole: Any) -> bytes:
    """Write a batch as sidecars do: no spaces, and its flows last."""
    parts = dict(whole)
    parts["records"], parts["flows"] = parts.pop("records"), parts.pop("flows")
    return json.dumps(parts, separators=(",", ":")).encode("ascii")


WRITTEN = written(
    batch(
        3,
        [
            flow(statuses={"200": 5, "503": 2}, count=7),
            flow(None, route=None, reason="closed", decision="deny", statuses={}, duration_us_log2=[], unreached=1),
            flow(caller={**flow()["caller"], "service": 'quotes "},{"time":"'}, shadow=WHOLE["flows"][1]["shadow"]),
        ],
        [record(7, path='/],"flows":[')],
    )
)
PIECES = [
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"0",
    b"-",
    b"1e3",
    b" ",
    b"\\",
    b'],"flows":[',
    b'},{"time":"',
    b'"cut":0,',
    b"null",
]


def read_as_any_json(content: bytes) -> Arrival:
    """Read a batch in the way that needs no form."""
    return ArrivalReader()._arrival(json.loads(content))


class TestABatchInTheFormOfSidecars:
    """It is read in another way, and never as something else than the JSON that it is."""

    def test_is_read_as_the_json_that_it_is(self) -> None:
        found = ArrivalReader()._of_usual_form(WRITTEN)
        assert found == read_as_any_json(WRITTEN)

    @given(
        at=st.integers(0, len(WRITTEN)),
        length=st.integers(0, 12),
        piece=st.sampled_from(PIECES) | st.binary(max_size=4) | st.text("0123456789", max_size=15).map(str.encode),
    )
    def test_with_any_bytes_altered_is_read_as_that_json_or_refused(self, at: int, length: int, piece: bytes) -> None:
        reader = ArrivalReader()
        reader.read(WRITTEN)  # what was known before lets nothing pass
        content = WRITTEN[:at] + piece + WRITTEN[at + length :]
        try:
            found = reader.read(content)
        except ArrivalError:
            return
        assert found == read_as_any_json(content)

    @given(begin=st.integers(0, len(WRITTEN)), length=st.integers(0, 2000), to=st.integers(0, len(WRITTEN)))
    def test_with_a_part_of_it_elsewhere_is_read_as_that_json_or_refused(
        self, begin: int, length: int, to: int
    ) -> None:
        reader = ArrivalReader()
        reader.read(WRITTEN)
        content = WRITTEN[:to] + WRITTEN[begin : begin + length] + WRITTEN[to:]
        try:
            found = reader.read(content)
        except ArrivalError:
            return
        assert found == read_as_any_json(content)

    @given(path=st.sampled_from(PATHS), value=ANY)
    def test_with_any_one_value_altered_is_read_as_that_json_or_refused(
        self, path: tuple[Any, ...], value: Any
    ) -> None:
        reader = ArrivalReader()
        reader.read(written(WHOLE))
        content = written(json.loads(altered(path, value)))
        try:
            found = reader.read(content)
        except ArrivalError:
            return
        assert found == read_as_any_json(content)

    @given(
        flows=st.lists(st.tuples(st.integers(0, 10**16), st.dictionaries(st.integers(0, 1200), st.integers(0, 10**16))))
    )
    def test_with_any_numbers_is_read_as_that_json_or_refused(self, flows: list[tuple[int, dict[int, int]]]) -> None:
        content = written(
            batch(
                3,
                [flow(count=count, statuses={str(key): value for key, value in each.items()}) for count, each in flows],
            )
        )
        try:
            found = ArrivalReader().read(content)
        except ArrivalError:
            with pytest.raises((ArrivalError, RecordError)):
                read_as_any_json(content)
            return
        assert found == read_as_any_json(content)


class TestAParameter:
    """Any text is a value or refused by the name of its parameter."""

    @given(
        operation=st.sampled_from(OPERATIONS),
        given_=st.lists(st.tuples(st.sampled_from(["since", "until", "limit", "cursor", "step", "x"]), st.text())),
        name=st.text(),
    )
    def test_is_a_value_or_refused_by_its_name(self, operation: Any, given_: list[tuple[str, str]], name: str) -> None:
        path = {each.name: name for each in operation.parameters if each.in_path}
        try:
            values = operation.values(path, given_, NOW_NS)
        except ParameterError as refused:
            named = refused.parameter
        else:
            assert values.keys() == {each.name for each in operation.parameters}
            return
        assert named in {*path, *(each for each, _ in given_)}

    @given(text=st.text(max_size=30) | st.text(string.digits + "smhdTZ:-+. ", max_size=30))
    def test_that_is_a_time_is_a_time_or_refused(self, text: str) -> None:
        for read in (lambda: moment_ns(text, NOW_NS, "since"), lambda: step_s(text, "step")):
            with suppress(ParameterError):
                assert isinstance(read(), int)

    @given(time_ms=st.integers(1 - 10**15, 10**15 - 1), number=st.integers(0, 10**18 - 1))
    def test_that_is_a_cursor_leads_back_to_where_it_was_given(self, time_ms: int, number: int) -> None:
        assert Cursor.parse(str(Cursor(time_ms, number))) == Cursor(time_ms, number)

    @given(text=st.text(max_size=40) | st.text("0123456789.-\n", max_size=40))
    def test_that_is_no_cursor_is_refused(self, text: str) -> None:
        with suppress(ParameterError):
            assert isinstance(Cursor.parse(text), Cursor)


class TestAnAccessFile:
    """Any bytes are an access file or refused."""

    @given(content=st.binary(max_size=100) | ANY.map(lambda value: json.dumps(value).encode()))
    def test_is_any_bytes_or_they_are_refused(self, content: bytes) -> None:
        try:
            access = Access.from_json(content)
        except HubError:
            return
        assert access.of_token("") is None

    @given(entries=ANY, name=st.sampled_from(["tokens", "identities", "hosts"]))
    def test_with_any_entries_is_one_or_refused(self, entries: Any, name: str) -> None:
        with suppress(HubError):
            assert isinstance(Access.from_json(json.dumps({name: entries}).encode()), Access)


SPANS = st.tuples(st.integers(0, 100 * 86_400), st.integers(0, 40 * 86_400), st.sampled_from([10, 60, 90, 3600]))


class TestASpan:
    """It is cut into pieces that touch and do not overlap, whole steps of their tables."""

    @given(span=SPANS)
    def test_is_cut_without_a_gap_and_without_an_overlap(self, span: tuple[int, int, int]) -> None:
        now_s, retention = 1_800_000_000, Retention()
        age, length, coarsest = span
        begin, end = now_s - age, now_s - age + length
        first, last = outwards(begin, end, now_s, retention)
        assert first <= begin
        assert last >= end
        parts = sorted(cut(begin, end, now_s, retention, 3600), key=lambda part: part.from_s)
        at = first
        for part in parts:
            assert part.from_s == at
            assert part.from_s % STEP_S[part.table] == part.until_s % STEP_S[part.table] == 0
            assert finest_step_s(part.from_s, now_s, retention) <= STEP_S[part.table]
            at = part.until_s
        assert at == (last if parts else first)
        assert all(coarsest % STEP_S[part.table] == 0 for part in cut(begin, end, now_s, retention, coarsest))


class TestAQuantile:
    """It grows with the share, and is none where nothing was counted."""

    @given(counts=st.lists(st.integers(0, 1000), min_size=24, max_size=24))
    def test_grows_with_its_share(self, counts: list[int]) -> None:
        half, most = quantiles_ms(counts, (0.5, 0.99))
        assert (half is None) == (most is None) == (not any(counts))
        assert half is None or most is None or half <= most


@given(seconds=st.integers(-(10**12), 10**12))
def test_a_whole_second_is_written_as_any_instant_is(seconds: int) -> None:
    assert rfc3339_from_s(seconds) == rfc3339_from_ns(seconds * NS_PER_S)

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from authz.policy.window import InstantError, Window, WindowState, parse_instant_ns

S = 10**9


@pytest.mark.parametrize(
    ("text", "instant_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001z", 1_000_000),
        ("1970-01-01t01:00:00+01:00", 0),
        ("1969-12-31T23:59:59.5Z", -S // 2),
        ("1970-01-01T00:00:00-00:30", 1800 * S),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * S),
    ],
)
def test_instants_are_exact(text: str, instant_ns: int) -> None:
    assert parse_instant_ns(text) == instant_ns


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001 UTC is added
def test_instants_are_those_of_the_calendar(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    expected = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) * 1_000_000
    assert parse_instant_ns(moment.isoformat(timespec="milliseconds")) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-01-01", "has no offset"),
        ("2026-01-01T00:00:00", "has no offset"),
        ("2026-01-01 00:00:00", "has no offset"),
        ("2026-01-01T00:00:00.1234Z", "more than 3 digits"),
        ("2026-01-01T00:00:00.Z", "is no time"),
        ("2026-01-01T00:00Z", "is no time"),
        ("2026-1-1T00:00:00Z", "is no time"),
        ("2026-01-01 00:00:00Z", "is no time"),
        ("2026-01-01T00:00:00Z\n", "is no time"),
        ("2026-01-01T00:00:00+0100", "is no time"),
        ("2026-02-29T00:00:00Z", "there is no such day"),
        ("2026-13-01T00:00:00Z", "there is no such day"),
        ("0000-01-01T00:00:00Z", "there is no such day"),
        ("2026-01-01T24:00:00Z", "there is no such time"),
        ("2026-01-01T00:60:00Z", "there is no such time"),
        ("2026-12-31T23:59:60Z", "there is no such time"),
        ("2026-01-01T00:00:00+24:00", "there is no such time"),
        ("9999-12-31T23:59:59-00:01", "outside the years"),
        ("0001-01-01T00:00:00+00:01", "outside the years"),
        ("٢٠٢٦-01-01T00:00:00Z", "is no time"),
        ("tomorrow", "is no time"),
        ("", "is no time"),
    ],
)
def test_what_is_no_instant_says_why(text: str, why: str) -> None:
    with pytest.raises(InstantError) as raised:
        parse_instant_ns(text)
    assert why in str(raised.value)


@given(st.text(max_size=40))
def test_any_text_is_an_instant_or_an_error(text: str) -> None:
    try:
        assert isinstance(parse_instant_ns(text), int)
    except InstantError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message


EDGES = st.none() | st.integers(-10, 10)


@given(EDGES, EDGES, st.integers(-12, 12))
def test_a_window_says_the_same_in_all_its_answers(opens_ns: int | None, closes_ns: int | None, at_ns: int) -> None:
    if opens_ns is not None and closes_ns is not None and closes_ns <= opens_ns:
        return
    window = Window(opens_ns=opens_ns, closes_ns=closes_ns)
    is_open = window.is_open(at_ns)
    assert is_open == (window.state(at_ns) is WindowState.OPEN)
    opening_ns = window.next_opening_ns(at_ns)
    assert (opening_ns == at_ns) == is_open
    if opening_ns is None:
        assert window.state(at_ns) is WindowState.CLOSED
    else:
        assert not any(window.is_open(each) for each in range(at_ns, opening_ns))
    if is_open:
        until_ns = window.open_until_ns(at_ns)
        assert all(window.is_open(each) for each in range(at_ns, 13 if until_ns is None else until_ns))
        assert until_ns is None or not window.is_open(until_ns)


@given(EDGES, EDGES, EDGES, EDGES)
def test_cover_is_exact(a: int | None, b: int | None, c: int | None, d: int | None) -> None:
    one, other = Window(opens_ns=a, closes_ns=b), Window(opens_ns=c, closes_ns=d)
    if any(x is not None and y is not None and y <= x for x, y in ((a, b), (c, d))):
        return
    instants = range(-1000, 1000)
    assert one.covers(other) == all(one.is_open(each) for each in instants if other.is_open(each))

"""Recurring hours: what the wall clock says, around every kind of clock change, and what a policy may write."""

from __future__ import annotations

from datetime import timedelta

import pytest

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.instant import rfc3339_from_ns
from authz.policy.deadline import allowed_until_ns
from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.evaluation import evaluate
from authz.policy.hours import AHEAD_NS, BEHIND_NS, Hours, HoursError, parse_from_minute, parse_until_minute
from authz.policy.index import PolicyIndex, compile_index
from authz.policy.lint import lint
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.policy_test import run_policy_tests
from authz.policy.window import ALWAYS, HORIZON_NS, NS_PER_DAY, Window, WindowState
from authz.policy.zone import zone_named
from authz.request import Call, Direction
from tests.support.policy_sets import document, parsed, service
from tests.support.wall_clock import DAYS, EPOCH, WORKDAYS, Written, at, is_inside, zone_info

MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS
#: what a compiler that works every month would do
RENEWED_NS = 30 * NS_PER_DAY

OFFICE = Written(WORKDAYS, "08:00", "18:00", "Europe/Berlin")
NOON = at("2026-06-03T12:00:00+02:00")  # a Wednesday


def window(*written: Written, opens: str | None = None, closes: str | None = None) -> Window:
    return Window(
        opens_ns=None if opens is None else at(opens),
        closes_ns=None if closes is None else at(closes),
        hours=Hours.of(each.entry() for each in written) if written else None,
    )


def openings(hours: Window, since: str, until: str) -> list[tuple[str, str]]:
    """Give the spans that a window is open in, in UTC, by its own answers."""
    found = []
    at_ns, end_ns = at(since), at(until)
    while (start_ns := hours.next_opening_ns(at_ns)) is not None and start_ns < end_ns:
        stop_ns = hours.open_until_ns(start_ns)
        at_ns = end_ns if stop_ns is None else min(stop_ns, end_ns)
        found.append((rfc3339_from_ns(start_ns)[:16], rfc3339_from_ns(at_ns)[:16]))
    return found


# --- every minute of two years --------------------------------------------------------------------------------------


def local_minutes(name: str, first: str, minutes: int) -> list[int]:
    """Give the minute of the week that the clock of a zone shows, for each minute from an instant in UTC on."""
    zone, moment, step = zone_info(name), EPOCH + timedelta(microseconds=at(first) // 1000), timedelta(minutes=1)
    found = []
    for _ in range(minutes):
        local = moment.astimezone(zone)
        found.append(local.weekday() * 1440 + local.hour * 60 + local.minute)
        moment += step
    return found


def by_the_rule(*written: Written) -> list[bool]:
    """Say for each minute of the week that a clock shows whether it is inside any of the entries, all of one zone."""
    return [
        any(each.is_inside(minute // 1440, f"{minute // 60 % 24:02d}:{minute % 60:02d}") for each in written)
        for minute in range(7 * 1440)
    ]


@pytest.mark.parametrize(
    ("timezone", "first_year"),
    [
        ("Europe/Berlin", 2026),
        ("America/New_York", 2026),
        ("Australia/Lord_Howe", 2026),  # half an hour of summer time
        ("Africa/Casablanca", 2025),  # an hour less in Ramadan; no summer time any more from September 2026 on
        ("Pacific/Apia", 2011),  # there was no 30 December
    ],
)
def test_every_minute_of_two_years_is_as_the_clock_on_the_wall_says(timezone: str, first_year: int) -> None:
    first = f"{first_year}-01-01T00:00:00"
    minutes = (at(f"{first_year + 2}-01-01T00:00:00") - at(first)) // MINUTE_NS
    shown = local_minutes(timezone, first, minutes)
    for written, found in (
        ((Written(WORKDAYS, "08:00", "18:00", timezone),), minutes_open),
        ((Written(DAYS, "01:15", "02:15", timezone), Written(("sat",), "02:30", "24:00", timezone)), minutes_open),
        ((Written(("thu", "fri", "sun"), "22:00", "06:00", timezone),), minutes_in_spans),
        ((Written(DAYS, "00:10", "00:00", timezone), Written(("mon",), "01:30", "01:30", timezone)), minutes_in_spans),
        (
            (Written(("sun",), "02:00", "02:30", timezone), Written(("tue",), "23:59", "02:00", timezone)),
            minutes_in_spans,
        ),
    ):
        rule = by_the_rule(*written)
        expected = [rule[minute] for minute in shown]
        is_open = found(window(*written), at(first), minutes)
        wrong = [index for index, inside in enumerate(expected) if inside != is_open[index]]
        assert not wrong, rfc3339_from_ns(at(first) + wrong[0] * MINUTE_NS)
        assert True in expected
        assert False in expected


def minutes_open(hours: Window, first_ns: int, minutes: int) -> list[bool]:
    """Ask a window for each minute whether it is open; it is expanded anew every month."""
    found: list[bool] = []
    for renewed_ns in range(first_ns, first_ns + minutes * MINUTE_NS, RENEWED_NS):
        is_open = hours.expanded(renewed_ns).is_open
        found += [is_open(at_ns) for at_ns in range(renewed_ns, renewed_ns + RENEWED_NS, MINUTE_NS)]
    return found


def minutes_in_spans(hours: Window, first_ns: int, minutes: int) -> list[bool]:
    """Say for each minute whether it is in a span that a window is open in, by where these begin and end."""
    found = [False] * minutes
    at_ns, end_ns = first_ns, first_ns + minutes * MINUTE_NS
    while (start_ns := hours.next_opening_ns(at_ns)) is not None and start_ns < end_ns:
        stop_ns = hours.open_until_ns(start_ns)
        at_ns = end_ns if stop_ns is None else min(stop_ns, end_ns)
        first, last = (start_ns - first_ns) // MINUTE_NS, (at_ns - first_ns) // MINUTE_NS
        found[first:last] = [True] * (last - first)
    return found


@pytest.mark.parametrize(
    "change",
    [
        "2099-03-29T01:00:00",  # long after what the data has one by one
        "2400-10-29T01:00:00",
        "9998-03-29T01:00:00",
        "0002-01-01T00:00:00",
        "1893-03-31T23:06:32",  # until then Berlin's clocks were 53 minutes and 28 seconds ahead
        "1945-05-24T00:00:00",  # two hours of summer time, begun on a Thursday
    ],
)
def test_other_times_are_as_the_clock_on_the_wall_says(change: str) -> None:
    written = (
        Written(("mon", "wed", "thu", "fri", "sun"), "23:30", "03:15", "Europe/Berlin"),
        Written(("sat",), "00:00", "24:00", "Asia/Tokyo"),
        Written(DAYS, "12:00", "12:01", "America/New_York"),
    )
    hours = window(*written).expanded(at(change))
    for at_ns in range(at(change) - 4 * NS_PER_DAY, at(change) + 4 * NS_PER_DAY, 59 * 10**9):
        assert hours.is_open(at_ns) == is_inside(written, at_ns), rfc3339_from_ns(at_ns)


# --- clock changes, one by one ---------------------------------------------------------------------------------------


def test_office_hours_follow_summer_time() -> None:
    assert openings(window(OFFICE), "2026-03-27", "2026-03-31") == [
        ("2026-03-27T07:00", "2026-03-27T17:00"),
        ("2026-03-30T06:00", "2026-03-30T16:00"),
    ]


def test_a_time_that_is_skipped_is_never_inside() -> None:
    night = window(Written(("sun",), "02:00", "03:00", "Europe/Berlin"))
    assert openings(night, "2026-03-22", "2026-04-06") == [
        ("2026-03-22T01:00", "2026-03-22T02:00"),
        ("2026-04-05T00:00", "2026-04-05T01:00"),
    ]


def test_a_span_that_a_skipped_hour_begins_in_begins_after_it() -> None:
    night = window(Written(("sun",), "02:30", "04:00", "Europe/Berlin"))
    assert openings(night, "2026-03-29", "2026-03-30") == [("2026-03-29T01:00", "2026-03-29T02:00")]


def test_a_time_that_is_repeated_is_inside_both_times() -> None:
    night = window(Written(("sun",), "02:00", "03:00", "Europe/Berlin"))
    assert openings(night, "2026-10-25", "2026-10-26") == [("2026-10-25T00:00", "2026-10-25T02:00")]
    night = window(Written(("sun",), "01:30", "02:30", "Europe/Berlin"))
    assert openings(night, "2026-10-24", "2026-10-26") == [
        ("2026-10-24T23:30", "2026-10-25T00:30"),
        ("2026-10-25T01:00", "2026-10-25T01:30"),
    ]


def test_half_an_hour_of_summer_time() -> None:
    night = window(Written(("sun",), "01:45", "02:15", "Australia/Lord_Howe"))
    assert openings(night, "2026-04-04", "2026-04-06") == [  # 02:00 becomes 01:30
        ("2026-04-04T14:45", "2026-04-04T15:00"),
        ("2026-04-04T15:15", "2026-04-04T15:45"),
    ]
    assert openings(night, "2026-10-03", "2026-10-05") == [("2026-10-03T15:15", "2026-10-03T15:30")]  # 02:00 is 02:30


def test_a_night_after_a_day_that_never_was_belongs_to_that_day() -> None:
    # In Apia, Thursday 29 December 2011 was followed by Saturday 31 December.
    friday = window(Written(("fri",), "22:00", "06:00", "Pacific/Apia"))
    thursday = window(Written(("thu",), "22:00", "06:00", "Pacific/Apia"))
    assert openings(friday, "2011-12-28", "2012-01-02") == [("2011-12-30T10:00", "2011-12-30T16:00")]
    assert openings(thursday, "2011-12-28", "2012-01-02") == [("2011-12-30T08:00", "2011-12-30T10:00")]


def test_hours_that_run_past_midnight_belong_to_the_day_they_start_on() -> None:
    night = window(Written(("sun",), "22:00", "06:00", "UTC"))
    assert openings(night, "2026-06-01T12:00:00", "2026-06-08T12:00:00") == [("2026-06-07T22:00", "2026-06-08T06:00")]


@pytest.mark.parametrize(
    ("since", "until", "spans"),
    [
        ("08:00", "08:00", [("2026-06-01T08:00", "2026-06-02T08:00")]),
        ("00:00", "00:00", [("2026-06-01T00:00", "2026-06-02T00:00")]),
        ("00:00", "24:00", [("2026-06-01T00:00", "2026-06-02T00:00")]),
        ("08:00", "24:00", [("2026-06-01T08:00", "2026-06-02T00:00")]),
        ("08:00", "00:00", [("2026-06-01T08:00", "2026-06-02T00:00")]),
        ("23:59", "00:01", [("2026-06-01T23:59", "2026-06-02T00:01")]),
    ],
)
def test_until_at_or_before_from_is_on_the_next_day(since: str, until: str, spans: list[tuple[str, str]]) -> None:
    assert openings(window(Written(("mon",), since, until, "UTC")), "2026-06-01", "2026-06-07") == spans


def test_spans_that_touch_are_one_also_over_entries_zones_and_weeks() -> None:
    hours = window(
        Written(("sun",), "20:00", "24:00", "UTC"),
        Written(("mon",), "00:00", "04:00", "UTC"),
        Written(("mon",), "06:00", "09:00", "Europe/Berlin"),
    )
    assert openings(hours, "2026-06-05", "2026-06-10") == [("2026-06-07T20:00", "2026-06-08T07:00")]


def test_hours_are_open_from_the_first_nanosecond_until_before_the_last() -> None:
    for hours in (window(OFFICE), window(OFFICE).expanded(NOON)):
        opens_ns, closes_ns = at("2026-06-03T08:00:00+02:00"), at("2026-06-03T18:00:00+02:00")
        assert [hours.is_open(each) for each in (opens_ns - 1, opens_ns, closes_ns - 1, closes_ns)] == [
            False,
            True,
            True,
            False,
        ]
        assert hours.open_until_ns(opens_ns) == closes_ns
        assert hours.next_opening_ns(closes_ns - 1) == closes_ns - 1
        assert hours.next_opening_ns(closes_ns) == opens_ns + NS_PER_DAY


# --- with dates ------------------------------------------------------------------------------------------------------


def test_a_window_is_open_inside_its_dates_and_there_inside_its_hours() -> None:
    hours = window(OFFICE, opens="2026-06-02T10:00:00+02:00", closes="2026-06-04T12:00:00+02:00")
    assert openings(hours, "2026-01-01", "2027-01-01") == [
        ("2026-06-02T08:00", "2026-06-02T16:00"),
        ("2026-06-03T06:00", "2026-06-03T16:00"),
        ("2026-06-04T06:00", "2026-06-04T10:00"),
    ]
    for each in (hours, hours.expanded(NOON)):
        assert each.state(at("2026-06-02T09:59:00+02:00")) is WindowState.NOT_YET_OPEN
        assert each.state(at("2026-06-02T10:00:00+02:00")) is WindowState.OPEN
        assert each.state(at("2026-06-02T18:00:00+02:00")) is WindowState.OUTSIDE_HOURS
        assert each.state(at("2026-06-04T12:00:00+02:00")) is WindowState.CLOSED
        assert each.next_opening_ns(at("2026-06-04T12:00:00+02:00")) is None


def test_hours_that_leave_out_nothing_are_always() -> None:
    assert window(Written(DAYS, "00:00", "24:00", "Europe/Berlin")) == ALWAYS
    assert window(Written(DAYS, "08:00", "08:00", "Europe/Berlin"), OFFICE).always
    assert not window(OFFICE).always


def test_equal_hours_are_equal_however_they_are_written() -> None:
    one = window(OFFICE, Written(("sat",), "10:00", "12:00", "UTC"))
    other = window(
        Written(("sat",), "11:00", "12:00", "UTC"),
        Written(("fri", "mon", "tue"), "08:00", "18:00", "Europe/Berlin"),
        Written(("wed", "thu"), "08:00", "18:00", "Europe/Berlin"),
        Written(("sat",), "10:00", "11:30", "UTC"),
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one == one.expanded(NOON)


def test_a_window_says_its_hours() -> None:
    hours = window(OFFICE, Written(("sat",), "22:00", "06:00", "UTC"), Written(("tue",), "08:00", "24:00", "UTC"))
    assert str(hours) == "during mon/tue/wed/thu/fri 08:00-18:00 Europe/Berlin, tue 08:00-24:00, sat 22:00-06:00 UTC"
    assert str(window(Written(("mon", "tue"), "00:00", "24:00", "UTC"))).endswith("during mon 00:00-tue 24:00 UTC")


# --- the horizon -----------------------------------------------------------------------------------------------------


def test_past_the_horizon_hours_are_closed_to_everyone() -> None:
    expanded = window(OFFICE).expanded(NOON)
    spans = expanded.spans
    assert spans is not None
    assert spans.from_ns <= NOON - BEHIND_NS
    assert spans.until_ns > NOON + AHEAD_NS - NS_PER_DAY
    for days in (-100_000, -3000, -40, 401, 402, 403, 404, 410, 800, 3000, 100_000):
        at_ns = NOON + days * NS_PER_DAY
        assert not expanded.is_open(at_ns)
        assert expanded.state(at_ns) is WindowState.OUTSIDE_HOURS
    assert expanded.next_opening_ns(spans.until_ns) is None
    assert expanded.next_opening_ns(spans.from_ns - 10**20) is not None
    assert window(OFFICE).is_open(at("2036-06-03T12:00:00+02:00"))


def test_a_span_that_the_horizon_cuts_ends_there() -> None:
    almost_always = window(Written(WORKDAYS, "00:00", "24:00", "UTC"), Written(("sat", "sun"), "00:00", "24:00", "GMT"))
    expanded = almost_always.expanded(NOON)
    assert expanded.spans is not None
    assert expanded.open_until_ns(NOON) == expanded.spans.until_ns
    assert almost_always.open_until_ns(NOON) is None
    assert allowed_until_ns([expanded], [], NOON) is allowed_until_ns([almost_always], [], NOON) is None


def test_for_34_days_an_expanded_window_sees_366_days_ahead() -> None:
    assert AHEAD_NS - NS_PER_DAY > HORIZON_NS + 32 * NS_PER_DAY
    yearly = window(OFFICE, opens="2027-07-04T00:00:00")
    expanded = yearly.expanded(NOON)
    for days in range(33):
        assert expanded.next_opening_ns(NOON + days * NS_PER_DAY) == yearly.next_opening_ns(NOON)


def test_a_window_that_is_not_expanded_sees_366_days_ahead_from_any_instant() -> None:
    hours = window(OFFICE).hours
    assert hours is not None
    for day in range(100):
        at_ns = NOON + day * NS_PER_DAY
        spans = hours.spans_seen_from(at_ns)
        assert spans.from_ns <= at_ns < at_ns + HORIZON_NS < spans.until_ns


def test_a_day_and_a_night_shift_without_a_gap_never_end_an_allow() -> None:
    day, night = Written(DAYS, "08:00", "20:00", "UTC"), Written(DAYS, "20:00", "08:00", "UTC")
    for expand in (lambda each: each, lambda each: each.expanded(NOON)):
        assert allowed_until_ns([expand(window(day)), expand(window(night))], [], NOON) is None
        ending = window(night, opens="2020-01-01", closes="2026-08-01T06:00:00")
        assert allowed_until_ns([expand(window(day)), expand(ending)], [], NOON) == at("2026-08-01T06:00:00")


# --- the engine ------------------------------------------------------------------------------------------------------

MESH = document("Mesh", "m", "{trustDomains: [shop.example]}")
CALL = Call(
    direction=Direction.INBOUND,
    service="catalog",
    caller=SpiffeId.parse("spiffe://shop.example/orders"),
    method="GET",
    path="/items",
    host="catalog",
)


def rule(name: str, window: str) -> str:
    return document(
        "MicroPolicy",
        name,
        f"{{from: [{{services: [orders]}}], to: [{{services: [catalog], operations: all}}], window: {window}}}",
    )


def policy_set(*documents: str) -> PolicySet:
    return parsed(MESH, service("orders"), service("catalog"), *documents)


def during(*written: Written, more: str = "") -> str:
    return f"{{{more}during: [{', '.join(each.yaml() for each in written)}]}}"


def compiled(*documents: str) -> tuple[PolicyIndex, PolicyIndex]:
    """Give the two indexes that must answer alike: for any instant, and around one."""
    parsed_set = policy_set(*documents)
    return compile_index(parsed_set), compile_index(parsed_set, NOON)


@pytest.mark.parametrize(
    ("at_text", "reason", "policy", "until"),
    [
        ("2026-06-03T12:00:00+02:00", Reason.ALLOWED, "office", "2026-06-03T18:00:00+02:00"),
        ("2026-06-03T18:00:00+02:00", Reason.OUTSIDE_HOURS, "office", "2026-06-04T08:00:00+02:00"),
        ("2026-06-05T18:00:00+02:00", Reason.OUTSIDE_HOURS, "weekend", "2026-06-06T12:00:00+02:00"),
        ("2026-06-06T12:00:00+02:00", Reason.ALLOWED, "weekend", "2026-06-06T14:00:00+02:00"),
        ("2026-06-30T17:59:59+02:00", Reason.ALLOWED, "office", "2026-06-30T18:00:00+02:00"),
        ("2026-06-30T18:00:00+02:00", Reason.OUTSIDE_HOURS, "weekend", "2026-07-04T12:00:00+02:00"),
    ],
)
def test_a_rule_with_hours_allows_inside_them_and_says_until_when(
    at_text: str, reason: Reason, policy: str, until: str
) -> None:
    for index in compiled(
        rule("office", during(OFFICE, more="closes: 2026-07-01T00:00:00+02:00, ")),
        rule("weekend", during(Written(("sat",), "12:00", "14:00", "Europe/Berlin"))),
    ):
        answer = evaluate(index, CALL, at(at_text))
        assert (answer.reason, answer.policy, answer.valid_until_ns) == (reason, policy, at(until))
        other = evaluate(index, CALL, at(until) - 10**6)
        assert (other.verdict, evaluate(index, CALL, at(until)).verdict) == (answer.verdict, not_(answer.verdict))


def not_(verdict: str) -> str:
    return "deny" if verdict == "allow" else "allow"


def test_a_window_over_between_its_hours_is_closed_not_outside_them() -> None:
    for index in compiled(rule("office", during(OFFICE, more="closes: 2026-06-03T20:00:00+02:00, "))):
        late = evaluate(index, CALL, at("2026-06-03T19:00:00+02:00"))
        assert (late.reason, late.valid_until_ns) == (Reason.OUTSIDE_HOURS, None)
        assert evaluate(index, CALL, at("2026-06-03T20:00:00+02:00")).reason is Reason.CLOSED


def test_an_index_says_until_when_its_answers_are_exact() -> None:
    with_hours = policy_set(rule("office", during(OFFICE)))
    index = compile_index(with_hours, NOON)
    assert index.exact_until_ns == at("2026-07-07")
    assert compile_index(with_hours).exact_until_ns is None
    assert compile_index(policy_set(rule("r", "{opens: 2026-01-01T00:00:00Z}")), NOON).exact_until_ns is None
    past_ns = index.exact_until_ns + HORIZON_NS + at("2027-07-08T10:00:00") - at("2027-07-08")
    assert evaluate(compile_index(with_hours), CALL, past_ns).reason is Reason.ALLOWED
    assert evaluate(index, CALL, past_ns).reason is Reason.OUTSIDE_HOURS


def test_rules_with_equal_hours_share_one_table() -> None:
    shared: dict[Hours, object] = {}
    one = window(OFFICE, opens="2026-01-01").expanded(NOON, shared)  # type: ignore[arg-type] # only looked at here
    other = window(OFFICE).expanded(NOON, shared)  # type: ignore[arg-type] # same
    assert one.spans is other.spans
    assert len(shared) == 1


def test_a_policy_test_asks_about_any_instant() -> None:
    cases = ", ".join(
        f"{{name: c{number}, call: {{from: orders, to: catalog, method: GET, path: /}}, at: {moment}, {expect}}}"
        for number, (moment, expect) in enumerate(
            [
                ("2026-06-03T12:00:00Z", "expect: allow"),
                ("2036-06-03T12:00:00Z", "expect: allow"),
                ("1996-06-03T12:00:00Z", "expect: allow"),
                ("9999-12-31T23:59:59Z", "expect: {reason: outside_hours}"),
                ("0001-01-01T00:00:00Z", "expect: {reason: outside_hours}"),
            ]
        )
    )
    tested = policy_set(rule("office", during(OFFICE)), document("PolicyTest", "t", f"{{cases: [{cases}]}}"))
    results = list(run_policy_tests(tested, compile_index(tested)))
    assert [result.passed for result in results] == [True] * 5, [result.got for result in results]


# --- what a policy may write -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "8:00", "24:01", "12:60", "25:00", "12", "12:00:00", "12:00 ", " 12:00", "\u0968\u0968:00"]
)
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    for parse in (parse_from_minute, parse_until_minute):
        with pytest.raises(HoursError, match="is no time of day; write hours and minutes"):
            parse(text)


def test_midnight_at_the_end_of_a_day_is_an_end_only() -> None:
    assert parse_until_minute("24:00") == 1440
    assert [parse_until_minute("00:00"), parse_from_minute("00:00"), parse_from_minute("23:59")] == [0, 0, 1439]
    with pytest.raises(HoursError, match="`24:00` is allowed as `until` only"):
        parse_from_minute("24:00")


def test_unquoted_times_are_refused_where_they_stand_with_what_to_write() -> None:
    assert faults("{during: [{days: [mon], from: 08:00, until: 18:00, timezone: UTC}]}") == [
        '9:31: `08:00` is text for some YAML readers only; write "08:00" in quotes',
        '9:45: `18:00` is text for some YAML readers only; write "18:00" in quotes',
    ]


def faults(window: str, kind: str = "MicroPolicy") -> list[str]:
    """Give the faults of a window, which stands in the ninth line from column 1 on."""
    rest = (
        "{from: [{services: [orders]}], to: [{services: [orders], operations: all}], window:\n"
        if kind == "MicroPolicy"
        else "{hosts: [api.example], window:\n"
    )
    text = f"apiVersion: authz/v1\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  {rest}\n\n\n{window}}}\n"
    others = f"{MESH}---\n{service('orders')}"
    with pytest.raises(PolicySetFaults) as error:
        parse_policy_set([SourceFile("r", text.encode()), SourceFile("set", others.encode())])
    return [str(fault).removeprefix("r:") for fault in error.value.faults]


ENTRY = 'days: [mon], from: "08:00", until: "18:00", timezone: UTC'


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("{}", ["9:1: an empty mapping is not allowed; leave the field out, or give it a value"]),
        ("{during: []}", ["9:10: an empty list is not allowed; leave the field out, or give it a value"]),
        ("{during: {}}", ["9:10: an empty mapping is not allowed; leave the field out, or give it a value"]),
        (
            f"{{during: {{{ENTRY}}}}}",
            ["9:10: must be a list, not a mapping; put `- ` before its first line, or write `[{...}]`"],
        ),
        ("{during: [mon]}", ["9:11: must be a mapping, not the text `mon`"]),
        (f"{{during: [{{{ENTRY}, zone: UTC}}]}}", ["9:71: unknown field `zone`; did you mean `timezone`?"]),
        ('{during: [{days: [mon], from: "08:00", timezone: UTC}]}', ["9:11: `until` is required"]),
        (
            '{during: [{until: "08:00"}]}',
            ["9:11: `days` is required", "9:11: `from` is required", "9:11: `timezone` is required"],
        ),
        (
            '{during: [{days: [], from: "08:00", until: "09:00", timezone: UTC}]}',
            ["9:18: an empty list is not allowed; give it a value"],
        ),
        (
            '{during: [{days: [mon, fri, mon], from: "08:00", until: "09:00", timezone: UTC}]}',
            ["9:29: `mon` is written twice"],
        ),
        (
            f'{{during: [{{{ENTRY}}}, {{days: mon, from: "8:00", until: 9, timezone: Europe/Berln}}]}}',
            [
                "9:79: must be a list, not the text `mon`; write each day, such as `[mon, tue, wed, thu, fri]`",
                '9:90: `8:00` is no time of day; write hours and minutes, such as "08:00"',
                '9:105: must be a time of day in quotes, such as "08:00", not the number `9`',
                "9:118: `Europe/Berln` is no IANA time zone; did you mean `Europe/Berlin`?",
            ],
        ),
        (
            f"{{opens: 2027-01-01T00:00:00Z, closes: 2026-01-01T00:00:00Z, during: [{{{ENTRY}}}]}}",
            ["9:39: the window closes at or before it opens"],
        ),
        (
            "{during: [" + ", ".join([f"{{{ENTRY}}}"] * 65) + "]}",
            ["9:10: 65 entries; 64 are allowed"],
        ),
    ],
)
def test_every_fault_stands_where_it_is_written(window: str, expected: list[str]) -> None:
    assert faults(window) == expected


def test_an_unknown_day_is_a_fault_at_its_place() -> None:
    (fault,) = faults('{during: [{days: [mon, Tue], from: "08:00", until: "09:00", timezone: UTC}]}')
    assert fault.startswith("9:24: `Tue` is none of `mon`, `tue`, ")


def test_a_third_party_has_no_hours() -> None:
    dates = "opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z"
    (fault,) = faults(f"{{{dates}, during: [{{{ENTRY}}}]}}", "ThirdParty")
    assert fault.startswith(
        "9:61: unknown field `during`; a ThirdParty is there from `opens` to `closes`; hours belong"
    )


def test_the_order_of_entries_and_days_never_changes_the_revision() -> None:
    two = Written(("sat", "sun"), "10:00", "12:00", "UTC")
    again = Written(("sun", "sat"), "10:00", "12:00", "UTC")
    assert (
        policy_set(rule("r", during(OFFICE, two))).revision
        == policy_set(rule("r", during(again, OFFICE))).revision
        != policy_set(rule("r", during(OFFICE))).revision
    )


# --- findings --------------------------------------------------------------------------------------------------------


def findings(*documents: str) -> set[str]:
    return {str(finding.code) for finding in lint(policy_set(*documents), now_ns=NOON)} - {"over-broad"}


def test_hours_that_never_come_between_the_dates_are_found() -> None:
    dates = "opens: 2026-06-06T00:00:00+02:00, closes: 2026-06-{}T07:59:00+02:00, "
    assert findings(rule("r", during(OFFICE, more=dates.format("08")))) == {"window-ending", "never-open"}
    assert findings(rule("r", during(OFFICE, more=dates.format("09")))) == {"window-ending"}


SHADOWED = "all that this rule allows is allowed by `wide` in set.yaml:16"


@pytest.mark.parametrize(
    ("wide", "narrow", "found"),
    [
        ((OFFICE,), (Written(("mon",), "09:00", "10:00", "Europe/Berlin"),), 1),
        ((Written(("mon",), "09:00", "10:00", "Europe/Berlin"),), (OFFICE,), 0),
        # Tokyo's clock has not changed since 1951, when it was not more than an hour ahead of what it is.
        ((Written(("mon",), "00:00", "12:00", "UTC"),), (Written(("mon",), "12:00", "18:00", "Asia/Tokyo"),), 1),
        ((Written(("mon",), "06:00", "08:00", "UTC"),), (Written(("mon",), "08:00", "09:00", "Europe/Berlin"),), 0),
    ],
)
def test_a_rule_that_is_open_only_while_another_is_is_superfluous(
    wide: tuple[Written, ...], narrow: tuple[Written, ...], found: int
) -> None:
    both = policy_set(rule("wide", during(*wide)), rule("narrow", during(*narrow)))
    assert [finding.message for finding in lint(both, now_ns=NOON)].count(SHADOWED) == found


def test_hours_of_two_zones_are_compared_within_the_dates_only() -> None:
    utc, berlin = Written(("mon",), "06:00", "08:00", "UTC"), Written(("mon",), "08:00", "10:00", "Europe/Berlin")
    summer = {"opens": "2026-04-01", "closes": "2026-10-01"}
    assert window(utc).covers(window(berlin, **summer))
    assert window(berlin).covers(window(utc, **summer))
    assert not window(utc).covers(window(berlin, opens="2026-04-01", closes="2026-11-01"))
    assert window(utc, **summer).covers(window(berlin, **summer))
    assert not window(utc, **summer).covers(window(berlin))


def test_windows_meet_also_before_all_clock_changes_and_after_the_last_known_one() -> None:
    for closes in ("1800-01-04T12:00:00", "0001-01-04T12:00:00"):
        assert window(OFFICE, closes=closes).meets(ALWAYS)
    assert window(OFFICE, opens="9999-01-01").meets(window(OFFICE))
    morning, evening = Written(("mon",), "08:00", "09:00", "UTC"), Written(("mon",), "18:00", "19:00", "Europe/Berlin")
    assert not window(morning).meets(window(evening))
    # Until 1893 Berlin's clocks were 53 minutes and 28 seconds ahead, since then they are one hour or more.
    early, late = Written(("mon",), "06:06", "06:07", "UTC"), Written(("mon",), "06:59", "07:00", "Europe/Berlin")
    assert window(early).meets(window(late))
    assert window(early).meets(window(late, closes="1893-03-31"))
    assert not window(early).meets(window(late, opens="1893-04-02"))


def test_dates_that_cut_off_nothing_of_the_hours_do_not_count() -> None:
    monday = Written(("mon",), "08:00", "10:00", "UTC")
    # From Saturday to Tuesday there is one Monday.
    one = window(monday, opens="2026-06-06", closes="2026-06-09")
    assert window(opens="2026-06-08T08:00:00", closes="2026-06-08T10:00:00").covers(one)
    assert not window(opens="2026-06-08T08:00:00.001", closes="2026-06-08T10:00:00").covers(one)
    assert not window(opens="2026-06-08T08:00:00", closes="2026-06-08T09:59:59.999").covers(one)
    assert window(monday).covers(window(opens="2026-06-08T08:00:00", closes="2026-06-08T10:00:00"))


def test_zones_are_values_of_the_pinned_data() -> None:
    assert window(OFFICE).hours == Hours.of([OFFICE.entry()])
    assert OFFICE.entry().zone is zone_named("Europe/Berlin")

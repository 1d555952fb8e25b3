"""The laws of recurring hours: one class per law, its docstring the sentence that is tested."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import assume, example, given, strategies as st

from authz.policy.deadline import allowed_until_ns, denied_until_ns
from authz.policy.hours import Hours, merged
from authz.policy.hours_relation import instant_in_both_ns, instant_outside_ns
from authz.policy.window import HORIZON_NS, NS_PER_DAY, Window, WindowState
from authz.policy.zone import zone_named
from authz.zone_data import zone_names
from tests.support.wall_clock import DAYS, Written, at, is_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MINUTE_NS = 60 * 10**9
NOW = at("2026-06-03T10:00:00")
#: instants that datetime can say in every zone
FIRST_NS, LAST_NS = at("0002-01-01"), at("9998-12-31")

# Zones whose clocks do something: changes at midnight, of half an hour, of a day, in Ramadan, back in spring.
LIVELY = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Santiago",
    "Europe/Dublin",
    "Asia/Gaza",
    "Africa/Cairo",
    "America/Nuuk",
    "Antarctica/Troll",
    "Africa/Monrovia",
    "UTC",
)
times = st.one_of(
    st.sampled_from(["00:00", "00:01", "01:30", "02:00", "02:30", "03:00", "12:00", "23:59"]),
    st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59)),
)
timezones = st.one_of(st.sampled_from(LIVELY), st.sampled_from(sorted(zone_names())))
entries = st.builds(
    Written,
    st.sets(st.sampled_from(DAYS), min_size=1).map(lambda days: tuple(sorted(days))),
    times,
    st.one_of(times, st.just("24:00")),
    timezones,
)
written_hours = st.lists(entries, min_size=1, max_size=3)


@st.composite
def instants(draw: st.DrawFn) -> int:
    """Draw an instant, most often beside a clock change, to the nanosecond."""
    zone = zone_named(draw(timezones))
    at_ns = draw(st.one_of(st.integers(at("1880-01-01"), at("2120-01-01")), st.integers(FIRST_NS, LAST_NS)))
    changes = [segment.end_s for segment in zone.segments(at_ns // 10**9, at_ns // 10**9 + 366 * 86_400)]
    near_ns = draw(st.sampled_from([at_ns, *(change_s * 10**9 for change_s in changes)]))
    beside_ns = draw(st.sampled_from([0, 1, MINUTE_NS, 30 * MINUTE_NS, 60 * MINUTE_NS, 120 * MINUTE_NS]))
    drawn_ns = near_ns + draw(st.sampled_from([-1, 1])) * beside_ns + draw(st.integers(-1, 1))
    return min(max(drawn_ns, FIRST_NS), LAST_NS - 60 * NS_PER_DAY)


def window(written: Sequence[Written], opens_ns: int | None = None, closes_ns: int | None = None) -> Window:
    return Window(opens_ns=opens_ns, closes_ns=closes_ns, hours=Hours.of(each.entry() for each in written))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Draw a window with hours, with dates not far from now, or without."""
    opens_ns = draw(st.one_of(st.none(), st.integers(NOW - 500 * NS_PER_DAY, NOW + 500 * NS_PER_DAY)))
    long_ns = draw(st.one_of(st.none(), st.integers(1, 3 * NS_PER_DAY), st.integers(1, 800 * NS_PER_DAY)))
    closes_ns = None if long_ns is None else (NOW if opens_ns is None else opens_ns) + long_ns
    return window(
        draw(st.one_of(written_hours, st.just([]))) or [Written(DAYS, "00:00", "24:00", "UTC")], opens_ns, closes_ns
    )


class TestHoursAreWhatTheClockOnTheWallSays:
    """An instant is inside exactly if the local time is in one of the entries, expanded or not."""

    @given(written_hours, instants())
    @example([Written(("fri",), "22:00", "06:00", "Pacific/Apia")], at("2011-12-30T10:00:00"))
    def test_law(self, written: list[Written], at_ns: int) -> None:
        hours, expected = window(written), is_inside(written, at_ns)
        for each in (hours, hours.expanded(at_ns)):
            assert each.is_open(at_ns) == expected
            assert each.state(at_ns) is (WindowState.OPEN if expected else WindowState.OUTSIDE_HOURS)
            assert (each.next_opening_ns(at_ns) == at_ns) == expected


class TestEveryEdgeIsOne:
    """Of the span told, the last nanosecond is as the first one, every minute between them too, and the next is not."""

    @given(written_hours, instants(), st.booleans())
    def test_law(self, written: list[Written], at_ns: int, expanded: bool) -> None:  # noqa: FBT001 drawn
        hours = window(written).expanded(at_ns) if expanded else window(written)
        inside = is_inside(written, at_ns)
        edge_ns = hours.open_until_ns(at_ns) if inside else hours.next_opening_ns(at_ns)
        if edge_ns is None or edge_ns > LAST_NS:
            assert inside
            assert expanded is False or hours.always
            return
        assert edge_ns > at_ns
        assert is_inside(written, edge_ns - 1) == inside
        if hours.spans is None or edge_ns != hours.spans.until_ns:
            assert is_inside(written, edge_ns) != inside
        for between_ns in range(at_ns, min(edge_ns, at_ns + 3 * NS_PER_DAY), 13 * MINUTE_NS):
            assert is_inside(written, between_ns) == inside


class TestMergingLosesNothing:
    """What is in any of the spans is in the merged ones, and nothing else; they are sorted, and apart."""

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda span: (span[0], sum(span)))))
    def test_law(self, spans: list[tuple[int, int]]) -> None:
        apart = merged(spans)
        assert {each for start, end in apart for each in range(start, end)} == {
            each for start, end in spans for each in range(start, end)
        }
        assert all(one[1] < two[0] for one, two in pairwise(apart))

    @given(written_hours, written_hours, instants())
    def test_hours_of_two_lists(self, some: list[Written], more: list[Written], at_ns: int) -> None:
        both = window([*some, *more])
        assert both == window([*more, *some])
        assert both.is_open(at_ns) == (window(some).is_open(at_ns) or window(more).is_open(at_ns))


class TestWhenItWasExpandedDoesNotMatter:
    """Two windows that are expanded around different instants give the same answers in the 34 days that both see."""

    @given(windows(), st.integers(-33 * NS_PER_DAY, 0), st.integers(-33 * NS_PER_DAY, 0))
    def test_law(self, each: Window, ago_ns: int, other_ago_ns: int) -> None:
        answers = set()
        for expanded in (each, each.expanded(NOW + ago_ns), each.expanded(NOW + other_ago_ns)):
            ends = (
                allowed_until_ns([expanded], [], NOW) if expanded.is_open(NOW) else denied_until_ns([expanded], [], NOW)
            )
            answers.add((expanded.state(NOW), ends))
        assert len(answers) == 1


class TestAnAllowEndsWhenNoRuleIsOpenAnyMore:
    """An allow by several rules is said to end at the first instant, of the next 366 days, at which none is open."""

    @given(st.lists(windows(), min_size=1, max_size=4), st.booleans())
    def test_law(self, rules: list[Window], expanded: bool) -> None:  # noqa: FBT001 drawn
        asked = [each.expanded(NOW) for each in rules] if expanded else rules
        assume(any(each.is_open(NOW) for each in rules))
        end_ns = allowed_until_ns(asked, [], NOW)
        expected_ns = NOW
        while expected_ns <= NOW + HORIZON_NS and (here := [each for each in rules if each.is_open(expected_ns)]):
            ends = [each.open_until_ns(expected_ns) for each in here]
            expected_ns = max(NOW + 2 * HORIZON_NS if each is None else each for each in ends)
        assert end_ns == (expected_ns if expected_ns <= NOW + HORIZON_NS else None)


class TestOneWindowCoversAnotherOrThereIsAnInstantThatShowsOtherwise:
    """What is found to be in both, or in one only, is; and where nothing is found, no instant shows otherwise."""

    @given(written_hours, written_hours, st.lists(instants(), min_size=5), st.booleans())
    def test_law(self, one: list[Written], two: list[Written], asked: list[int], same_zone: bool) -> None:  # noqa: FBT001 drawn
        if same_zone:
            two = [Written(each.days, each.since, each.until, one[0].timezone) for each in two]
        first_ns, last_ns = min(asked), max(asked)
        for from_ns, until_ns in ((None, None), (first_ns, last_ns), (None, last_ns), (first_ns, None)):
            self._judge(
                instant_in_both_ns, lambda in_one, in_two: in_one and in_two, one, two, from_ns, until_ns, asked
            )
            self._judge(
                instant_outside_ns, lambda in_one, in_two: in_one and not in_two, one, two, from_ns, until_ns, asked
            )

    def _judge(
        self,
        find: Callable[[Hours | None, Hours | None, int | None, int | None], int | None],
        expected: Callable[[bool, bool], bool],
        one: list[Written],
        two: list[Written],
        from_ns: int | None,
        until_ns: int | None,
        asked: list[int],
    ) -> None:
        found_ns = find(window(one).hours, window(two).hours, from_ns, until_ns)
        if found_ns is None:
            for at_ns in asked:
                if (from_ns is None or at_ns >= from_ns) and (until_ns is None or at_ns < until_ns):
                    assert not expected(is_inside(one, at_ns), is_inside(two, at_ns))
            return
        assert from_ns is None or found_ns >= from_ns
        assert until_ns is None or found_ns < until_ns
        if FIRST_NS <= found_ns <= LAST_NS:
            assert expected(is_inside(one, found_ns), is_inside(two, found_ns))

    @given(windows(), windows(), st.lists(st.integers(-900, 900), min_size=1))
    def test_windows_with_dates(self, one: Window, two: Window, days: list[int]) -> None:
        for day in days:
            at_ns = NOW + day * NS_PER_DAY + day * MINUTE_NS
            if two.is_open(at_ns):
                assert one.is_open(at_ns) or not one.covers(two)
                assert not one.is_open(at_ns) or one.meets(two)
        assert one.covers(one)
        assert one.meets(two) == two.meets(one)
        assert not (one.covers(two) and two.meets(two) and not one.meets(two))


class TestNoInstantIsTooFar:
    """Whatever integer an instant is, every question about hours is answered."""

    @given(written_hours, st.integers(-(10**40), 10**40))
    @example([Written(DAYS, "00:00", "23:59", "Europe/Berlin")], at("0001-01-01"))
    @example([Written(DAYS, "00:00", "23:59", "Pacific/Apia")], at("9999-12-31") + NS_PER_DAY - 1)
    def test_law(self, written: list[Written], at_ns: int) -> None:
        hours = window(written)
        for each in (hours, hours.expanded(at_ns)):
            opening_ns = each.next_opening_ns(at_ns)
            assert opening_ns is not None
            assert each.is_open(opening_ns)
            assert opening_ns == at_ns or not each.is_open(opening_ns - 1)
            end_ns = each.open_until_ns(opening_ns)
            assert end_ns is None or not each.is_open(end_ns)
        assert hours.covers(hours)
        assert str(hours)

"""The laws of spans of time: whatever is put together of them is right at every instant."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from authz.policy.hours import merged
from authz.policy.open_times import Spans, any_of, common, open_spans, without
from authz.policy.window import HORIZON_NS, NS_PER_DAY, Window, parse_instant_ns
from tests.support.policy_texts import parsed, rule, service

INSTANTS = range(-1, 22)
SPANS = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 20)).filter(lambda span: span[0] < span[1]), max_size=5
).map(merged)
NOW_NS = parse_instant_ns("2026-03-20T00:00:00Z")


def inside(spans: Spans) -> set[int]:
    assert all(end < start for (_, end), (start, _) in pairwise(spans)), "they touch"
    return {at for at in INSTANTS if any(start <= at < end for start, end in spans)}


class TestSpans:
    """`any_of`, `common` and `without` are what they say of the instants in them, and their spans lie apart."""

    @given(one=SPANS, other=SPANS)
    def test_they_are_the_operations_on_instants(self, one: Spans, other: Spans) -> None:
        assert inside(any_of((one, other))) == inside(one) | inside(other)
        assert inside(common(one, other)) == inside(one) & inside(other)
        assert inside(without(one, other)) == inside(one) - inside(other)


class TestOpenSpans:
    """Within 366 days a window's spans are when it is open."""

    @given(opens=st.integers(-40, 400), days=st.integers(1, 400), from_=st.integers(-400, 10), at=st.integers(0, 8783))
    def test_they_are_when_the_window_is_open(self, opens: int, days: int, from_: int, at: int) -> None:
        hours = 'during: [{days: [fri, sat, sun], from: "22:00", until: "04:00", timezone: Europe/Berlin}]'
        policy = parsed(service("a"), service("b"), rule("r", more=f", window: {{{hours}}}")).micro_policies[0]
        opens_ns = NOW_NS + opens * NS_PER_DAY
        window = Window(opens_ns=opens_ns, closes_ns=opens_ns + days * NS_PER_DAY, hours=policy.window.hours)
        from_ns = NOW_NS + from_ * NS_PER_DAY
        at_ns = from_ns + at * NS_PER_DAY // 24
        spans = open_spans(window, from_ns, from_ns + HORIZON_NS)
        assert any(start <= at_ns < end for start, end in spans) is window.is_open(at_ns)

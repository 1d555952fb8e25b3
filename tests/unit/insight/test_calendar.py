"""The calendar feed, as a strict reader of RFC 5545 takes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from authz.insight.attempt import WindowKind
from authz.insight.attempt_tally import NO_ATTEMPTS, AttemptTally
from authz.insight.calendar import calendar
from authz.insight.window_dates import WindowDates
from authz.insight.window_report import WindowReport, window_reports
from authz.policy.window import parse_instant_ns
from tests.support.icalendar import Component, read

NOW_NS = parse_instant_ns("2026-11-23T12:00:00Z")
ACME = WindowDates(
    kind=WindowKind.THIRD_PARTY,
    name="acme-analytics",
    opens_ns=parse_instant_ns("2026-03-01T00:00:00Z"),
    closes_ns=parse_instant_ns("2027-03-01T00:00:00.500Z"),
    hours=None,
    owner="insights",
    path="policies/partners/acme.yaml",
    line=4,
)


def reports(*windows: WindowDates, now_ns: int = NOW_NS) -> tuple[WindowReport, ...]:
    return window_reports(windows, AttemptTally({}), now_ns)


def feed(*windows: WindowDates, now_ns: int = NOW_NS) -> Component:
    text = calendar(reports(*windows, now_ns=now_ns), mesh="shop", trust_domain="shop.example", now_ns=now_ns)
    return read(text.encode())


def test_both_dates_are_events_and_the_close_has_alarms_before_it() -> None:
    opens, closes = feed(ACME).components
    assert opens.text("SUMMARY") == "ThirdParty acme-analytics opens"
    assert closes.text("SUMMARY") == "ThirdParty acme-analytics closes"
    assert opens.time("DTSTART") == datetime(2026, 3, 1, tzinfo=UTC)
    assert closes.time("DTSTART") == datetime(2027, 3, 1, tzinfo=UTC)
    assert closes.time("DTSTAMP") == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert [each.duration("TRIGGER") for each in closes.components] == [
        timedelta(days=-14), timedelta(days=-1), timedelta(hours=-1)
    ]  # fmt: skip
    assert opens.components == []


def test_an_event_keeps_its_uid_when_its_date_or_file_moves_and_kinds_of_one_name_have_their_own() -> None:
    moved = replace(ACME, closes_ns=NOW_NS, path="elsewhere.yaml", line=90, owner=None)
    rule = replace(ACME, kind=WindowKind.MICRO_POLICY)
    uids = [event.properties["UID"] for event in feed(ACME, rule).components]
    assert len(set(uids)) == 4
    assert [event.properties["UID"] for event in feed(moved, rule, now_ns=NOW_NS + 1).components] == uids


def test_an_ended_window_has_no_alarm_and_one_without_an_end_no_close() -> None:
    assert ACME.closes_ns is not None
    _, closed = feed(ACME, now_ns=ACME.closes_ns).components
    assert closed.components == []
    (opens,) = feed(replace(ACME, closes_ns=None)).components
    assert opens.properties["UID"].startswith("opens.")


def test_a_feed_without_dates_is_a_feed_that_shows_nothing() -> None:
    assert [each.name for each in feed(replace(ACME, opens_ns=None, closes_ns=None)).components] == ["VFREEBUSY"]
    assert [each.name for each in feed().components] == ["VFREEBUSY"]


@pytest.mark.parametrize("year", ["0001", "0999", "9999"])
def test_a_year_has_four_digits(year: str) -> None:
    (closes,) = feed(replace(ACME, opens_ns=None, closes_ns=parse_instant_ns(f"{year}-06-01T00:00:00Z"))).components
    assert closes.properties["DTSTART"] == f"{year}0601T000000Z"


@given(owner=st.text(max_size=300) | st.text(alphabet="\r\n\t\0\\;,:\u2028\x85\ud800é\U0001f600", max_size=200))
def test_what_a_policy_says_adds_no_line_and_is_read_as_text(owner: str) -> None:
    opens, closes = feed(replace(ACME, owner=owner)).components
    assert closes.text("DESCRIPTION").startswith("policies/partners/acme.yaml:4\nowner: ")
    assert len(closes.text("DESCRIPTION").split("\n")) == 2
    plain = owner.isprintable() and len(owner) < 200
    assert not plain or opens.text("DESCRIPTION") == f"policies/partners/acme.yaml:4\nowner: {owner}"


def test_attempts_are_told_with_the_date_that_they_missed() -> None:
    (report,) = reports(ACME)
    text = calendar(
        [replace(report, after=replace(NO_ATTEMPTS, count=500))], mesh="m", trust_domain="t.example", now_ns=NOW_NS
    )
    opens, closes = read(text.encode()).components
    assert "attempts since the close: 500" in closes.text("DESCRIPTION")
    assert "attempts" not in opens.text("DESCRIPTION")

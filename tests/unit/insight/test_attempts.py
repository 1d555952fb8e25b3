"""What lines of decision logs tell of attempts on windows, and how they are counted."""

from __future__ import annotations

import json

import pytest

from authz.insight import attempt_tally
from authz.insight.attempt import Attempt, WindowKind, attempt_of_line, without_port
from authz.insight.attempt_tally import AttemptTally
from authz.insight.errors import DamagedLineError
from authz.insight.window_dates import WindowDates, WindowStage
from authz.policy.window import parse_instant_ns
from tests.support.refusals import line

OPENS, CLOSES = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
DAY_NS = 86_400 * 10**9


def dates(
    kind: WindowKind = WindowKind.THIRD_PARTY, name: str = "acme", opens: str = OPENS, closes: str = CLOSES
) -> WindowDates:
    return WindowDates(
        kind=kind,
        name=name,
        opens_ns=parse_instant_ns(opens),
        closes_ns=parse_instant_ns(closes),
        hours=None,
        owner=None,
        path="set.yaml",
        line=1,
    )


def attempt(of: bytes) -> Attempt:
    read = attempt_of_line(of)
    assert read is not None
    return read


def tallied(*lines: bytes) -> AttemptTally:
    windows = (dates(), dates(WindowKind.MICRO_POLICY, "sale"), dates(WindowKind.MICRO_POLICY, "acme"))
    tally = AttemptTally({(each.kind, each.name): each for each in windows})
    for each in lines:
        tally.add(attempt(each))
    return tally


@pytest.mark.parametrize(
    ("reason", "kind", "after"),
    [
        ("decommissioned", WindowKind.THIRD_PARTY, True),
        ("not_commissioned", WindowKind.THIRD_PARTY, False),
        ("closed", WindowKind.MICRO_POLICY, True),
        ("not_yet_open", WindowKind.MICRO_POLICY, False),
    ],
)
def test_a_refusal_for_a_date_is_an_attempt(reason: str, kind: WindowKind, after: bool) -> None:  # noqa: FBT001
    read = attempt(line("2026-07-01T00:00:00.123Z", reason=reason, policy="p", request_id="r-1"))
    assert (read.kind, read.after, read.name) == (kind, after, "p")
    assert read.time_ns == parse_instant_ns("2026-07-01T00:00:00.123Z")
    assert (read.request_id, read.source.address, read.source.sidecar) == ("r-1", "10.0.0.7", "orders")


@pytest.mark.parametrize("reason", ["allowed", "no_policy", "outside_hours", "guardrail", "unidentified"])
def test_every_other_record_is_none(reason: str) -> None:
    assert attempt_of_line(line("2026-07-01T00:00:00Z", reason=reason)) is None


def test_a_word_in_what_a_caller_sent_makes_no_attempt() -> None:
    assert attempt_of_line(line("2026-07-01T00:00:00Z", reason="no_policy", host='x","reason":"closed"')) is None
    assert attempt_of_line(line("2026-07-01T00:00:00Z", reason="no_policy", policy="closed")) is None


def test_a_call_that_was_cut_at_the_close_is_no_attempt() -> None:
    record = json.loads(line("2026-07-01T00:00:00Z"))
    assert attempt_of_line(json.dumps(record).encode()) is not None
    assert attempt_of_line(json.dumps({**record, "cut": True}).encode()) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"x", b"{", b"[]", line("2026-07-01T00:00:00Z")[:-20], b'{"reason":"closed",}',
        b'{"reason":"closed","decision":"deny"}', b'{"reason":"closed","decision":"deny","caller":{}}',
        line("2026-07-01T00:00:00Z").replace(b"2026-07-01T", b"yesterday"),
        line("2026-07-01T00:00:00Z").replace(b'"inbound"', b'"sideways"'),
        line("2026-07-01T00:00:00Z").replace(b'"acme"', b"7"),
        b'{"a":"' + b"x" * 200_000 + b'"}',
    ],
)  # fmt: skip
def test_what_is_no_record_is_damaged(damage: bytes) -> None:
    with pytest.raises(DamagedLineError):
        attempt_of_line(damage)


@pytest.mark.parametrize(
    ("address", "host"),
    [("10.0.0.7:80", "10.0.0.7"), ("[::1]:80", "::1"), ("::1", "::1"), ("fe80::1:80", "fe80::1:80"), ("", ""),
     ("@", "@"), ("10.0.0.7", "10.0.0.7"), ("h:x", "h:x")],
)  # fmt: skip
def test_an_address_is_told_without_its_port(address: str, host: str) -> None:
    assert without_port(address) == host


def test_attempts_are_counted_by_source_with_the_first_and_the_last() -> None:
    tally = tallied(
        line("2026-06-01T00:00:00Z", request_id="1"),
        line("2026-06-02T00:00:00Z", request_id="2", address="10.0.0.7:9"),
        line("2026-06-03T00:00:00Z", request_id="3", identity="spiffe://shop.example/orders", service="orders",
             direction="outbound"),
        line("2026-06-03T00:00:00Z", request_id="4", policy="sale", reason="closed"),
    )  # fmt: skip
    after = tally.attempts(WindowKind.THIRD_PARTY, "acme", after=True)
    assert (after.count, after.records) == (3, 3)
    assert (after.first_ns, after.last_ns) == tuple(
        parse_instant_ns(each) for each in ("2026-06-01T00:00:00Z", "2026-06-03T00:00:00Z")
    )
    assert [(each.count, each.source.identity, each.source.service) for each in after.sources] == [
        (2, "spiffe://acme.example/pull", None),
        (1, "spiffe://shop.example/orders", "orders"),
    ]
    assert tally.attempts(WindowKind.MICRO_POLICY, "sale", after=True).count == 1
    assert tally.attempts(WindowKind.MICRO_POLICY, "acme", after=True).count == 0


def test_what_was_refused_at_an_end_that_was_moved_since_does_not_count() -> None:
    tally = tallied(line("2026-03-01T00:00:00Z"), line("2025-12-31T00:00:00Z", reason="not_commissioned"))
    assert tally.attempts(WindowKind.THIRD_PARTY, "acme", after=True).records == 0
    assert tally.attempts(WindowKind.THIRD_PARTY, "acme", after=False).count == 1


def test_one_request_through_two_sidecars_or_asked_twice_is_one_attempt_of_the_side_that_refused_first() -> None:
    orders = {"identity": "spiffe://shop.example/orders", "service": "orders", "request_id": "same"}
    tally = tallied(
        line("2026-06-02T00:00:00.000Z", sidecar="orders", direction="outbound", **orders),
        line("2026-06-02T00:00:00.350Z", sidecar="orders", direction="outbound", **orders),
        line("2026-06-02T00:00:00.400Z", sidecar="catalog", **orders),
    )
    after = tally.attempts(WindowKind.THIRD_PARTY, "acme", after=True)
    assert (after.count, after.records) == (1, 3)
    assert [each.source.sidecar for each in after.sources] == ["orders"]


def test_a_source_that_repeats_its_request_id_does_not_hide_its_attempts() -> None:
    tally = tallied(*(line(f"2026-06-02T00:{minute:02}:00Z", request_id="always") for minute in range(60)))
    assert tally.attempts(WindowKind.THIRD_PARTY, "acme", after=True).count == 60


def test_nobody_hides_behind_the_request_id_of_another() -> None:
    tally = tallied(
        line("2026-06-02T00:00:00Z", request_id="x"),
        line("2026-06-02T00:00:01Z", request_id="x", identity="spiffe://acme.example/other"),
        line("2026-06-02T00:00:02Z", request_id="x", identity=None),
        line("2026-06-02T00:00:03Z", request_id="x", identity=None, address="10.0.0.8:1"),
        line("2026-06-02T00:00:03Z", request_id="x", identity=None, address="10.0.0.8:2"),
    )
    assert tally.attempts(WindowKind.THIRD_PARTY, "acme", after=True).count == 4


def test_many_sources_are_told_apart_up_to_a_bound_and_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_tally, "MAX_SOURCES", 5)
    monkeypatch.setattr(attempt_tally, "MAX_REQUESTS", 3)
    tally = tallied(*(
        line("2026-06-02T00:00:00Z", address=f"10.0.0.{number}:1", request_id=str(number)) for number in range(20)
    ))  # fmt: skip
    after = tally.attempts(WindowKind.THIRD_PARTY, "acme", after=True)
    assert (after.count, len(after.sources)) == (20, 6)
    assert (after.sources[0].count, after.sources[0].source.identity) == (15, None)
    assert len(tally._requests) == 3


def test_a_window_is_closing_in_its_last_fourteen_days() -> None:
    window = dates()
    assert window.opens_ns is not None
    assert window.closes_ns is not None
    assert [
        window.stage(at_ns)
        for at_ns in (
            window.opens_ns - 1, window.opens_ns, window.closes_ns - 14 * DAY_NS - 1, window.closes_ns - 14 * DAY_NS,
            window.closes_ns - 1, window.closes_ns,
        )
    ] == [
        WindowStage.OPENING, WindowStage.OPEN, WindowStage.OPEN, WindowStage.CLOSING, WindowStage.CLOSING,
        WindowStage.ENDED,
    ]  # fmt: skip

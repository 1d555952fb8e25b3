"""What calls show of other sidecars' clocks: a bound that is right, whatever the network does, and what is no clock."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, strategies as st

from authz.instant import NS_PER_S
from authz.sidecar.control.peer_clocks import APART_NS, INTERVAL_NS, WARNED_INTERVAL_NS, PeerClocks, peer_clock

NOW_NS = 1_795_438_372_152_186_000
MOST_US = 9_999_999_999_999_999
HOUR_NS = 3600 * NS_PER_S


def heard(
    clocks: PeerClocks, *, ahead_ns: int, at_ns: int = NOW_NS, delay_ns: int = 1_000_000, service: str = "catalog"
) -> bool:
    """Have a call heard whose callee's clock is ahead by so much, with the same delay there and back."""
    received_us = (at_ns - delay_ns + ahead_ns) // 1000
    said = str(received_us).encode()
    return clocks.heard(service, said, left_ns=at_ns - 2 * delay_ns, answered_ns=at_ns, at_ns=at_ns)


def seconds(clocks: PeerClocks) -> dict[str, float]:
    return {name: round(clock.skew_ns / NS_PER_S, 3) for name, clock in clocks.clocks().items()}


@given(
    ahead_ns=st.integers(-10 * HOUR_NS, 10 * HOUR_NS),
    there_ns=st.integers(0, 9 * NS_PER_S),
    works_ns=st.integers(0, NS_PER_S // 2),
    back_ns=st.integers(0, NS_PER_S // 4),
)
def test_how_far_a_clock_is_ahead_is_within_what_one_call_shows(
    ahead_ns: int, there_ns: int, works_ns: int, back_ns: int
) -> None:
    received_us = (NOW_NS + there_ns + ahead_ns) // 1000
    answered_ns = NOW_NS + there_ns + works_ns + back_ns
    clock = peer_clock(left_ns=NOW_NS, received_us=received_us, answered_ns=answered_ns, at_ns=answered_ns)
    assert clock is not None
    assert clock.low_ns <= ahead_ns <= clock.high_ns
    assert abs(clock.skew_ns - ahead_ns) <= clock.within_ns + 1
    assert clock.high_ns - clock.low_ns <= there_ns + works_ns + back_ns + 1000
    assert not clock.is_apart or abs(ahead_ns) > APART_NS


def test_slowness_never_makes_clocks_seem_apart_and_an_hour_does() -> None:
    slow = peer_clock(
        left_ns=NOW_NS, received_us=NOW_NS // 1000, answered_ns=NOW_NS + 8 * NS_PER_S, at_ns=NOW_NS + 8 * NS_PER_S
    )
    assert slow is not None
    assert not slow.is_apart
    for ahead_ns in (HOUR_NS, -HOUR_NS):
        clocks = PeerClocks()
        assert heard(clocks, ahead_ns=ahead_ns, delay_ns=NS_PER_S)
        (clock,) = clocks.clocks().values()
        assert clock.is_apart


def test_the_quickest_call_of_an_interval_counts() -> None:
    clocks = PeerClocks()
    heard(clocks, ahead_ns=0, delay_ns=NS_PER_S)
    heard(clocks, ahead_ns=0, delay_ns=1_000_000)
    heard(clocks, ahead_ns=0, delay_ns=NS_PER_S)
    assert clocks.to_json() == [
        {"service": "catalog", "skew_s": 0.0, "within_s": 0.001001, "seen": "2026-11-23T12:52:52.152Z"}
    ]


def test_a_clock_that_is_set_is_seen_within_two_intervals() -> None:
    clocks = PeerClocks()
    heard(clocks, ahead_ns=0, delay_ns=1000)
    for at_s in range(1, 21):
        heard(clocks, ahead_ns=HOUR_NS, delay_ns=1_000_000, at_ns=NOW_NS + at_s * NS_PER_S)
    assert seconds(clocks) == {"catalog": 3600.0}


def test_our_own_clock_that_is_set_begins_anew() -> None:
    for set_ns in (-HOUR_NS, HOUR_NS):
        clocks = PeerClocks()
        heard(clocks, ahead_ns=0, delay_ns=1000)
        heard(clocks, ahead_ns=-set_ns, at_ns=NOW_NS + set_ns)
        assert seconds(clocks) == {"catalog": -set_ns / NS_PER_S}


def test_a_call_that_is_told_of_long_after_its_answer_says_nothing() -> None:
    clocks = PeerClocks()
    said = str(NOW_NS // 1000).encode()
    times = {"left_ns": NOW_NS, "answered_ns": NOW_NS + 1}
    assert not clocks.heard("catalog", said, **times, at_ns=NOW_NS + 1 + INTERVAL_NS)
    assert not clocks.heard("catalog", said, left_ns=NOW_NS + 1, answered_ns=NOW_NS, at_ns=NOW_NS + 1)
    assert clocks.to_json() == []
    assert clocks.heard("catalog", said, **times, at_ns=NOW_NS + INTERVAL_NS)


def test_services_are_told_by_their_clusters_and_third_parties_have_no_clock() -> None:
    clocks = PeerClocks()
    for _ in range(2):
        assert clocks.service_of(b"service_catalog") == clocks.service_of(b"service_catalog_held") == "catalog"
        for other in (b"third_party_acme_api.acme.example_443", b"app", b"", b"service_", b"SERVICE_x"):
            assert clocks.service_of(other) is None


@given(said=st.binary(max_size=40) | st.from_regex(rb"[0-9]{0,20}", fullmatch=True))
def test_any_text_of_a_peer_is_a_time_or_counted(said: bytes) -> None:
    clocks = PeerClocks()
    is_time = len(said) == 16 and said.isdigit() and said[:1] != b"0"
    assert clocks.heard("catalog", said, left_ns=NOW_NS, answered_ns=NOW_NS, at_ns=NOW_NS) == is_time
    assert (clocks.malformed, len(clocks.to_json())) == (not is_time, is_time)


def test_a_clock_at_either_end_of_what_can_be_said_is_shown() -> None:
    for said in (10**15, MOST_US):
        clocks = PeerClocks()
        assert clocks.heard("catalog", b"%d" % said, left_ns=NOW_NS, answered_ns=NOW_NS, at_ns=NOW_NS)
        assert clocks.furthest_s is not None
        assert clocks.furthest_s == pytest.approx((said * 1000 - NOW_NS) / NS_PER_S)


def test_the_furthest_of_all_clocks_is_one_number() -> None:
    clocks = PeerClocks()
    assert clocks.furthest_s is None
    for service, ahead_s in (("a", 1), ("b", -7), ("c", 5)):
        heard(clocks, ahead_ns=ahead_s * NS_PER_S, service=service)
    assert clocks.furthest_s == pytest.approx(-7, abs=0.01)


def test_a_clock_that_is_too_far_off_is_warned_of_once_and_again_only_after_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warned(*, ahead_ns: int, at_ns: int) -> list[str]:
        caplog.clear()
        heard(clocks, ahead_ns=ahead_ns, at_ns=at_ns)
        clocks.warn(at_ns)
        clocks.warn(at_ns)
        return [f"{one.levelname} {one.message}" for one in caplog.records]

    caplog.set_level(logging.INFO)
    clocks = PeerClocks()
    assert warned(ahead_ns=APART_NS, at_ns=NOW_NS) == []
    at_ns = NOW_NS + 2 * INTERVAL_NS
    (said,) = warned(ahead_ns=-5 * NS_PER_S, at_ns=at_ns)
    assert said.startswith("WARNING the clock of `catalog` is 5.000 s (within 0.001 s) behind ours: ")
    at_ns += 2 * INTERVAL_NS
    assert warned(ahead_ns=0, at_ns=at_ns) == ["INFO the clock of `catalog` is within 1 s of ours again"]
    at_ns += 2 * INTERVAL_NS
    assert warned(ahead_ns=5 * NS_PER_S, at_ns=at_ns) == []
    at_ns += WARNED_INTERVAL_NS
    (said,) = warned(ahead_ns=5 * NS_PER_S, at_ns=at_ns)
    assert "ahead of ours" in said


def test_names_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr("authz.sidecar.control.peer_clocks.MOST_CLUSTERS", 3)
    clocks = PeerClocks()
    found = [clocks.service_of(b"service_%d" % number) for number in range(9)]
    assert found == ["0", "1", "2", *[None] * 6]

"""Whoever can connect can fail: how much of it is written down, and that all of it is counted."""

from __future__ import annotations

from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.records.failed_handshake import FailedHandshake
from authz.records.handshake_allowance import (
    INTERVAL_NS,
    MOST_ADDRESSES,
    MOST_IN_FULL,
    MOST_OF_AN_ADDRESS,
    HandshakeAllowance,
)

NOW_NS = 1_780_000_000_000_000_000


def handshake(host: str, port: int = 1, reason: Reason = Reason.UNIDENTIFIED) -> FailedHandshake:
    return FailedHandshake(time_ns=NOW_NS, address=f"{host}:{port}", failure="no tls", reason=reason)


def test_the_first_of_an_address_are_written_in_full_and_the_others_counted() -> None:
    allowance = HandshakeAllowance(NOW_NS)
    written = [one for port in range(37) for one in allowance.add(handshake("192.0.2.7", port), NOW_NS)]
    assert [one.handshake.address for one in written] == [f"192.0.2.7:{port}" for port in range(MOST_OF_AN_ADDRESS)]
    assert allowance.ended(NOW_NS + INTERVAL_NS - 1) == ()
    (more,) = allowance.ended(NOW_NS + INTERVAL_NS)
    assert (more.count, more.handshake.address) == (37 - MOST_OF_AN_ADDRESS, "192.0.2.7")
    assert more.handshake.failure == f"and {37 - MOST_OF_AN_ADDRESS} more from 192.0.2.7"
    assert allowance.ended(NOW_NS + 3 * INTERVAL_NS) == ()


def test_one_address_does_not_take_the_room_of_another() -> None:
    allowance = HandshakeAllowance(NOW_NS)
    for port in range(10_000):
        allowance.add(handshake("192.0.2.7", port), NOW_NS)
    assert allowance.add(handshake("192.0.2.8"), NOW_NS)


def test_after_an_interval_an_address_is_written_in_full_again() -> None:
    allowance = HandshakeAllowance(NOW_NS)
    for port in range(MOST_OF_AN_ADDRESS + 1):
        allowance.add(handshake("192.0.2.7", port), NOW_NS)
    counted, again = allowance.add(handshake("192.0.2.7", 99), NOW_NS + INTERVAL_NS)
    assert (counted.count, again.handshake.address) == (1, "192.0.2.7:99")


def test_a_clock_that_is_set_back_ends_the_interval() -> None:
    allowance = HandshakeAllowance(NOW_NS)
    for port in range(MOST_OF_AN_ADDRESS + 1):
        allowance.add(handshake("192.0.2.7", port), NOW_NS)
    assert len(allowance.ended(NOW_NS - 1)) == 1


def test_a_flood_from_any_number_of_addresses_is_a_bounded_number_of_records() -> None:
    allowance = HandshakeAllowance(NOW_NS)
    written = [
        one
        for number in range(100_000)
        for one in allowance.add(handshake(f"2001:db8::{number:x}", 1, list(Reason)[number % 2 + 3]), NOW_NS)
    ]
    written += allowance.ended(NOW_NS + INTERVAL_NS)
    assert len(written) <= MOST_IN_FULL + MOST_ADDRESSES + 2
    assert sum(one.count for one in written) == 100_000


def test_what_nobody_could_read_is_counted_too() -> None:
    allowance = HandshakeAllowance(NOW_NS)
    allowance.add_unread(12)
    (more,) = allowance.rest(NOW_NS)
    assert (more.count, more.handshake.failure) == (12, "and 12 more from other addresses")


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([Reason.UNIDENTIFIED, Reason.UNTRUSTED]), st.integers(0, 40)),
        max_size=200,
    )
)
def test_every_handshake_is_counted_in_exactly_one_record(steps: list[tuple[int, Reason, int]]) -> None:
    allowance = HandshakeAllowance(NOW_NS)
    now_ns, written = NOW_NS, []
    for host, reason, seconds in steps:
        now_ns += seconds * 1_000_000_000
        written += allowance.add(handshake(f"192.0.2.{host}", 1, reason), now_ns)
    written += allowance.rest(now_ns)
    for reason in (Reason.UNIDENTIFIED, Reason.UNTRUSTED):
        assert sum(one.count for one in written if one.handshake.reason is reason) == sum(
            1 for _, of, _ in steps if of is reason
        )

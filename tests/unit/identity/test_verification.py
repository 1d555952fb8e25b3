from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import PeerVerification, Unidentified, VerifiedIdentity
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES
from tests.support.certificates import DNS, NOW_NS, SPIFFE_ID, URI, leaf, pem

SECOND = 1_000_000_000
BEGINS_NS = NOW_NS - 60 * SECOND
ENDS_NS = NOW_NS + 3600 * SECOND
ORDERS = pem(leaf())


def test_a_valid_certificate_identifies_its_peer() -> None:
    assert PeerVerification().verify(ORDERS, NOW_NS) == VerifiedIdentity(
        spiffe_id=SpiffeId.parse(SPIFFE_ID), serial="abc", not_before_ns=BEGINS_NS, not_after_ns=ENDS_NS
    )


def test_a_certificate_is_valid_from_its_first_to_its_last_instant() -> None:
    verification = PeerVerification()
    for now_ns in (BEGINS_NS, ENDS_NS):
        assert str(verification.verify(ORDERS, now_ns).spiffe_id) == SPIFFE_ID
    with pytest.raises(Unidentified, match=r"not valid before 2026-06-01T11:59:00\.000Z"):
        verification.verify(ORDERS, BEGINS_NS - 1)
    with pytest.raises(Unidentified, match=r"expired at 2026-06-01T13:00:00\.000Z"):
        verification.verify(ORDERS, ENDS_NS + 1)


def test_a_remembered_certificate_still_expires() -> None:
    verification = PeerVerification()
    first = verification.verify(ORDERS, ENDS_NS)
    for _ in range(3):
        with pytest.raises(Unidentified, match="expired"):
            verification.verify(ORDERS, ENDS_NS + 1)
    assert verification.verify(ORDERS, ENDS_NS) is first, "and is valid again for a clock that is set back"


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (b"", "no certificate"),
        (b"garbage", "not a PEM certificate"),
        (pem(leaf([URI(SPIFFE_ID), URI(SPIFFE_ID)])), "exactly one URI SAN"),
        (pem(leaf([DNS("orders")])), "exactly one URI SAN"),
        (b"x" * (MAX_CERTIFICATE_BYTES + 1), "has at most"),
    ],
)
def test_who_presents_no_svid_is_unidentified_each_time(certificate: bytes, why: str) -> None:
    verification = PeerVerification()
    for _ in range(3):
        with pytest.raises(Unidentified, match=why) as refused:
            verification.verify(certificate, NOW_NS)
        assert isinstance(refused.value, IdentityError)


def test_a_certificate_is_read_once() -> None:
    verification = PeerVerification()
    assert verification.verify(ORDERS, NOW_NS) is verification.verify(bytes(bytearray(ORDERS)), NOW_NS)


def test_one_byte_makes_another_certificate() -> None:
    verification = PeerVerification()
    verification.verify(ORDERS, NOW_NS)
    other = pem(leaf([URI(SPIFFE_ID + "2")]))
    assert str(verification.verify(other, NOW_NS).spiffe_id) == SPIFFE_ID + "2"
    with pytest.raises(Unidentified):
        verification.verify(ORDERS[:-40] + b"A" + ORDERS[-39:] + b"x", NOW_NS)


def test_the_memo_is_bounded_whatever_is_presented() -> None:
    verification = PeerVerification(max_entries=16)
    for number in range(1000):
        with pytest.raises(Unidentified):
            verification.verify(b"garbage %d" % number, NOW_NS)
        assert len(verification._younger) + len(verification._older) <= 16
    assert str(verification.verify(ORDERS, NOW_NS).spiffe_id) == SPIFFE_ID


def test_what_is_seen_again_and_again_is_not_forgotten() -> None:
    verification = PeerVerification(max_entries=16)
    first = verification.verify(ORDERS, NOW_NS)
    for number in range(1000):
        with pytest.raises(Unidentified):
            verification.verify(b"garbage %d" % number, NOW_NS)
        assert verification.verify(ORDERS, NOW_NS) is first


def test_a_memo_for_less_than_two_is_refused() -> None:
    with pytest.raises(ValueError, match="two entries"):
        PeerVerification(max_entries=1)


def test_threads_that_share_a_verification_get_the_answers_of_one_alone() -> None:
    certificates = [pem(leaf([URI(f"{SPIFFE_ID}{number}")])) for number in range(12)]
    verification = PeerVerification(max_entries=4)  # smaller than the set: they push each other out all the time
    together = threading.Barrier(4)

    def ask() -> list[str]:
        together.wait()
        return [str(verification.verify(certificates[number % 12], NOW_NS).spiffe_id) for number in range(240)]

    with ThreadPoolExecutor(4) as threads:
        answers = [future.result() for future in [threads.submit(ask) for _ in range(4)]]
    assert answers == [[f"{SPIFFE_ID}{number % 12}" for number in range(240)]] * 4

"""The bundles in shared memory: written by one process, read by others that never wait."""

from __future__ import annotations

import mmap
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, strategies as st

from authz.identity.bundle import Bundle
from authz.identity.spiffe_id import TrustDomain
from authz.identity.trust import Trust
from authz.sidecar.shared_memory import TRUST_BYTES
from authz.sidecar.trust_page import TrustPage
from tests.support.certificates import leaf

CERTIFICATE = leaf()
SHOP, ACME, OTHER = (TrustDomain.parse(name) for name in ("shop.example", "acme.example", "other.example"))


def bundle(trust_domain: TrustDomain, *, keys: int = 1) -> Bundle:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return Bundle(
        trust_domain=trust_domain,
        x509_authorities=(CERTIFICATE,),
        jwt_authorities={f"key-{number}": key for number in range(keys)},
        sequence=7,
        refresh_hint=timedelta(minutes=5),
    )


def test_nobody_is_trusted_before_the_first_write_then_who_was_written_last() -> None:
    memory = mmap.mmap(-1, 65536)
    reader, writer = TrustPage(memory), TrustPage(memory)
    assert reader() == Trust.of(())
    shop, acme = bundle(SHOP), bundle(ACME)
    for trust in (Trust.of([shop, acme]), Trust.of([acme]), Trust.of([]), Trust.of([shop])):
        assert writer.write(trust) == ()
        assert reader() == trust
        assert TrustPage(memory)() == trust


def test_what_is_read_is_the_same_object_until_something_else_is_written() -> None:
    memory = mmap.mmap(-1, 65536)
    reader = TrustPage(memory)
    shop = bundle(SHOP)
    TrustPage(memory).write(Trust.of([shop]))
    read = reader()
    TrustPage(memory).write(Trust.of([shop]))
    assert reader() is read
    TrustPage(memory).write(Trust.of([bundle(SHOP)]))
    assert reader() is not read


def test_a_page_that_is_half_written_leaves_what_was_read_before_and_another_writer_goes_on() -> None:
    memory = mmap.mmap(-1, 65536)
    reader = TrustPage(memory)
    first, second = Trust.of([bundle(SHOP)]), Trust.of([bundle(ACME)])
    TrustPage(memory).write(first)
    assert reader() == first
    memory[0] += 1  # the version is odd while somebody writes
    memory[24:64] = bytes(40)
    assert reader() == first
    TrustPage(memory).write(second)
    assert reader() == second


def test_a_page_whose_version_is_ahead_of_its_content_is_read_when_the_content_is_there() -> None:
    memory = mmap.mmap(-1, 65536)
    reader = TrustPage(memory)
    first, second = Trust.of([bundle(SHOP)]), Trust.of([bundle(ACME)])
    TrustPage(memory).write(first)
    assert reader() == first
    before = memory[24:65536]
    TrustPage(memory).write(second)
    after = memory[24:65536]
    memory[24:65536] = before
    assert reader() == first
    memory[24:65536] = after
    assert reader() == second


def test_a_bundle_that_finds_no_room_is_not_trusted_and_harms_no_other_even_where_it_was_trusted_before() -> None:
    memory = mmap.mmap(-1, 16384)
    reader, writer = TrustPage(memory), TrustPage(memory)
    shop, acme, other = bundle(SHOP), bundle(ACME), bundle(OTHER)
    assert writer.write(Trust.of([shop, acme, other])) == ()
    assert writer.write(Trust.of([shop, bundle(ACME, keys=100), other])) == (ACME,)
    assert reader() == Trust.of([shop, other])
    assert writer.write(Trust.of([shop, acme, other])) == ()
    assert reader() == Trust.of([shop, acme, other])


def test_a_bundle_that_could_not_be_read_again_is_said_to_find_no_room() -> None:
    memory = mmap.mmap(-1, TRUST_BYTES)
    shop = bundle(SHOP)
    assert TrustPage(memory).write(Trust.of([shop, bundle(ACME, keys=9000)])) == (ACME,)
    assert TrustPage(memory)() == Trust.of([shop])


@given(st.binary(max_size=200))
def test_any_bytes_are_bundles_or_nothing(content: bytes) -> None:
    memory = mmap.mmap(-1, 8192)
    memory[: len(content)] = content
    assert isinstance(TrustPage(memory)(), Trust)


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=40))
def test_content_that_was_not_written_by_a_writer_proves_nobody(at: int, content: bytes) -> None:
    memory = mmap.mmap(-1, 8192)
    reader = TrustPage(memory)
    trust = Trust.of([bundle(SHOP)])
    TrustPage(memory).write(trust)
    before = memory[:8192]
    last = 23 + int.from_bytes(memory[8:16], "little")
    at = min(24 + at, last + 1 - len(content))
    memory[at : at + len(content)] = content
    if memory[:8192] == before:
        assert reader() == trust
    else:
        assert reader() == Trust.of(())

"""The workload's identity in shared memory: written by one process, read by others that never wait."""

from __future__ import annotations

import mmap

from hypothesis import given, strategies as st

from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import VerifiedIdentity
from authz.sidecar.identity_page import IdentityPage


def identity(name: str, not_after_ns: int = 2) -> VerifiedIdentity:
    spiffe_id = SpiffeId.parse(f"spiffe://shop.example/{name}")
    return VerifiedIdentity(spiffe_id=spiffe_id, serial="0a", not_before_ns=1, not_after_ns=not_after_ns)


def test_readers_have_nothing_then_what_was_written_last() -> None:
    memory = mmap.mmap(-1, 8192)
    reader, writer = IdentityPage(memory), IdentityPage(memory)
    assert reader() is None
    for one in (identity("a"), identity("b" * 1900), identity("a", 3)):
        writer.write(one)
        assert reader() == one
        assert IdentityPage(memory)() == one


def test_a_page_that_is_half_written_leaves_what_was_read_before_and_another_writer_goes_on() -> None:
    memory = mmap.mmap(-1, 8192)
    reader = IdentityPage(memory)
    IdentityPage(memory).write(identity("a"))
    assert reader() == identity("a")
    memory[0] += 1  # the version is odd while somebody writes
    memory[16:32] = bytes(16)
    assert reader() == identity("a")
    IdentityPage(memory).write(identity("b"))
    assert reader() == identity("b")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_identity_or_nothing(content: bytes) -> None:
    memory = mmap.mmap(-1, 8192)
    memory[: len(content)] = content
    read = IdentityPage(memory)()
    assert read is None or isinstance(read, VerifiedIdentity)

"""Header blocks: what is remembered by its bytes never means anything else (RFC 7541, RFC 9113 4.3)."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder

from authz.sidecar.check.http2.headers import header_block
from authz.sidecar.check.http2.limits import MAX_KNOWN_BLOCK_BYTES, MAX_KNOWN_BLOCKS
from tests.support.http2_frames import (
    CHECK,
    EMPTY_TABLE,
    PREFACE,
    SETTINGS_ACK,
    block,
    call,
    data,
    grpc_fields,
    headers,
    message,
    settings,
)
from tests.support.http2_peer import FAILS, Peer, first

#: RFC 7541 6.2.1: a literal that goes into the table, its name and value spelt out
INSERTS = b"\x40\x01a\x01b"
#: RFC 7541 6.1: the first entry of the dynamic table
FIRST_ENTRY = b"\xbe"


def test_a_block_is_decoded_once_and_then_known_by_its_bytes() -> None:
    peer = Peer(quick=True)
    peer.say(call(5, b"1"))
    assert list(peer.known) == [block(grpc_fields())]
    decoder = peer.connection._blocks._decoder
    del peer.connection._blocks._decoder  # whoever decodes now, fails
    peer.say(call(7, b"2"), headers(9), data(9, message(b"3"), end=True))
    peer.connection._blocks._decoder = decoder
    assert peer.asked == [b"1", b"2", b"3"]


def test_nothing_is_remembered_before_the_peer_has_acknowledged_and_emptied_its_table() -> None:
    peer = Peer(handshake=PREFACE + settings())
    peer.say(call(1, b"1"))
    assert not peer.known
    # the block that empties the table is not the one that later calls begin with
    peer.say(SETTINGS_ACK, headers(3, raw=first()) + data(3, message(b"2"), end=True))
    assert not peer.known
    peer.say(call(5, b"3"))
    assert list(peer.known) == [block(grpc_fields())]
    assert peer.asked == [b"1", b"2", b"3"]


def test_a_block_that_was_learnt_on_another_connection_is_not_looked_up_before_this_ones_table_is_empty() -> None:
    # the same bytes mean something else where a table still has entries
    known: dict[bytes, object] = {}
    teacher = Peer(quick=True, known=known)
    teacher.say(call(5, b"x"))
    (learnt,) = known
    encoder = Encoder()
    uses_table = encoder.encode([*grpc_fields(FAILS)])
    known[uses_table] = known[learnt]  # what a wrong memory would hold
    peer = Peer(handshake=PREFACE + settings(), known=known)
    peer.say(headers(1, raw=uses_table) + data(1, message(b"no echo"), end=True))
    assert peer.asked == []
    assert peer.of(1).grpc_status == 13


def test_a_table_that_is_in_use_before_the_acknowledgement_is_honoured() -> None:
    encoder = Encoder()
    peer = Peer(handshake=PREFACE + settings())
    for stream_id in (1, 3, 5):
        peer.say(headers(stream_id, raw=encoder.encode([*grpc_fields(), ("a", str(stream_id))])))
        peer.say(data(stream_id, message(b"%d" % stream_id), end=True))
    assert peer.asked == [b"1", b"3", b"5"]
    encoder.header_table_size = 0
    peer.say(SETTINGS_ACK, headers(7, raw=encoder.encode(grpc_fields())), data(7, message(b"7"), end=True))
    assert peer.asked[3:] == [b"7"]


def test_an_insertion_into_the_empty_table_leaves_it_empty() -> None:
    # RFC 7541 4.4: no error; INVARIANT (same bytes, same fields) relies on it
    peer = Peer(quick=True)
    inserts = block(grpc_fields()) + INSERTS
    for stream_id in (5, 7):
        peer.say(headers(stream_id, raw=inserts), data(stream_id, message(b"x"), end=True))
    assert peer.asked == [b"x", b"x"]
    refers = block(grpc_fields()) + FIRST_ENTRY
    assert peer.say(headers(9, raw=refers)).goaway == 9


def test_a_block_that_sets_the_tables_size_is_not_remembered() -> None:
    peer = Peer(quick=True)
    before = dict(peer.known)
    peer.say(headers(5, raw=EMPTY_TABLE + block(grpc_fields(CHECK, ("a", "b")))), data(5, message(b"x"), end=True))
    assert peer.asked == [b"x"]
    assert peer.known == before


@pytest.mark.parametrize(
    "sizes",
    [
        EMPTY_TABLE * 3,  # RFC 7541 4.2: two at most
        b"\x3f\xe1\x1f",  # 4096, which the acknowledgement forbids
        b"\x21",
    ],
)
def test_table_sizes_that_may_not_be_set_are_refused(sizes: bytes) -> None:
    peer = Peer(quick=True)
    assert peer.say(headers(5, raw=sizes + block(grpc_fields()))).goaway == 9


def test_a_table_size_behind_a_field_is_refused() -> None:
    # RFC 7541 4.2
    peer = Peer(quick=True)
    assert peer.say(headers(5, raw=block(grpc_fields()) + EMPTY_TABLE)).goaway == 9


def test_what_is_remembered_is_bounded() -> None:
    peer = Peer(quick=True)
    for number in range(3 * MAX_KNOWN_BLOCKS):
        peer.say(call(5 + 2 * number, b"%d" % number, grpc_fields(CHECK, ("n", str(number)))))
        assert len(peer.known) <= MAX_KNOWN_BLOCKS
    assert len(peer.asked) == 3 * MAX_KNOWN_BLOCKS
    after = 5 + 6 * MAX_KNOWN_BLOCKS
    peer.say(call(after, b"large", grpc_fields(CHECK, ("n", "x" * MAX_KNOWN_BLOCK_BYTES))))
    assert peer.asked[-1] == b"large"
    assert max(map(len, peer.known)) <= MAX_KNOWN_BLOCK_BYTES


def test_a_malformed_request_is_never_remembered_as_a_good_one() -> None:
    peer = Peer(quick=True)
    wrong = grpc_fields(CHECK, ("connection", "close"))
    peer.say(call(5, b"1", wrong), call(7, b"2", wrong))
    assert (peer.of(5).reset, peer.of(7).reset, peer.asked) == (1, 1, [])


def test_a_refused_request_is_refused_again_when_it_is_known() -> None:
    peer = Peer(quick=True)
    for stream_id in (5, 7):
        peer.say(call(stream_id, b"x", grpc_fields("/other/Method")))
        assert peer.of(stream_id).grpc_status == 12


def test_a_header_list_beyond_its_limit_ends_the_connection() -> None:
    peer = Peer(quick=True)
    assert peer.say(headers(5, grpc_fields(CHECK, ("a", "x" * 15_000)), end=True)).goaway is None
    # an indexed field takes one byte and counts over forty
    assert peer.say(headers(7, raw=block(grpc_fields()) + b"\x90" * 400)).goaway == 11


def test_a_peer_that_ignores_our_table_size_is_served_where_that_is_wanted_and_nothing_is_remembered() -> None:
    encoder = Encoder()
    peer = Peer(table_bytes=4096)
    for stream_id in (1, 3, 5):
        peer.say(headers(stream_id, raw=encoder.encode(grpc_fields())) + data(stream_id, message(b"x"), end=True))
    assert peer.heard.settings[1] == 4096
    assert (peer.asked, peer.known) == ([b"x"] * 3, {})


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16_000])
def test_our_own_blocks_say_what_was_meant(length: int) -> None:
    text = b"x" * length
    assert Decoder().decode(header_block(200, (b"a", text)), raw=True) == [(b":status", b"200"), (b"a", text)]
    assert Decoder().decode(header_block(415, (b"n" * (length or 1), b"")), raw=True)[0] == (b":status", b"415")
    assert Decoder().decode(header_block(None, (b"a", text)), raw=True) == [(b"a", text)]

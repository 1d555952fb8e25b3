"""RFC 9113 6: what each frame may look like and where it may stand; all else ends the connection with its code."""

from __future__ import annotations

import pytest

from tests.support.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HANDSHAKE,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    Frame,
    block,
    call,
    data,
    grpc_fields,
    headers,
    message,
    ping,
    rst_stream,
    settings,
    window_update,
)
from tests.support.http2_peer import Peer, first

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 3, 5, 6, 9
OPEN = headers(1, raw=first())
DONE = headers(1, raw=first()) + data(1, message(b""), end=True)


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return bytes(Frame(kind, flags, stream_id, payload))


@pytest.mark.parametrize(
    ("section", "said", "code"),
    [
        ("3.4 no preface", b"GET / HTTP/1.1\r\n\r\n", PROTOCOL_ERROR),
        ("3.4 a preface that goes wrong at its end", PREFACE[:-1] + b"!", PROTOCOL_ERROR),
        ("3.4 no SETTINGS behind it", PREFACE + ping(), PROTOCOL_ERROR),
        ("3.4 an ACK for SETTINGS behind it", PREFACE + SETTINGS_ACK, PROTOCOL_ERROR),
    ],
)
def test_a_client_that_does_not_begin_with_the_preface_is_refused(section: str, said: bytes, code: int) -> None:
    peer = Peer(handshake=said)
    assert peer.heard.goaway == code, section
    assert peer.connection.finished


@pytest.mark.parametrize(
    ("section", "said", "code"),
    [
        ("4.2 a frame over 2^14 bytes", b"\x00\x40\x01\x00\x01\x00\x00\x00\x01", FRAME_SIZE_ERROR),
        ("4.2 of an unknown type as well", b"\xff\xff\xff\xee\x00\x00\x00\x00\x00", FRAME_SIZE_ERROR),
        ("4.3 PING inside of a header block", frame(HEADERS, 0, 1, first()) + ping(), PROTOCOL_ERROR),
        (
            "4.3 CONTINUATION of another stream",
            frame(HEADERS, 0, 1, first()) + frame(CONTINUATION, END_HEADERS, 3),
            PROTOCOL_ERROR,
        ),
        ("4.3 a block that cannot be decoded", headers(1, raw=first() + b"\xff\xff"), COMPRESSION_ERROR),
        ("4.3.1 no table of size 0 after the ACK", headers(1), COMPRESSION_ERROR),
        ("4.3.1 a larger table after the ACK", headers(1, raw=b"\x21" + block(grpc_fields())), COMPRESSION_ERROR),
        ("5.1 DATA on an idle stream", data(1, b"x"), PROTOCOL_ERROR),
        ("5.1 RST_STREAM on an idle stream", rst_stream(1), PROTOCOL_ERROR),
        ("5.1 WINDOW_UPDATE on an idle stream", window_update(1, 1), PROTOCOL_ERROR),
        ("5.1 WINDOW_UPDATE on a stream of the server", DONE + window_update(2, 1), PROTOCOL_ERROR),
        ("5.1 DATA behind END_STREAM", DONE + data(1, b"x"), STREAM_CLOSED),
        ("5.1 HEADERS behind END_STREAM", DONE + headers(1), STREAM_CLOSED),
        ("5.1 DATA behind RST_STREAM", OPEN + rst_stream(1) + data(1, b"x"), STREAM_CLOSED),
        ("5.1.1 an even stream id", headers(2, raw=first()), PROTOCOL_ERROR),
        ("5.1.1 an id that was skipped", headers(5, raw=first(), end=True) + headers(3), PROTOCOL_ERROR),
        ("6.1 DATA on stream 0", data(0, b"x"), PROTOCOL_ERROR),
        ("6.1 padding as long as the frame", OPEN + frame(DATA, PADDED, 1, b"\x04abc"), PROTOCOL_ERROR),
        ("6.1 padding without its length", OPEN + frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
        ("6.2 HEADERS on stream 0", headers(0, raw=first()), PROTOCOL_ERROR),
        ("6.2 padding beyond the block", frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + first()), PROTOCOL_ERROR),
        ("6.2 a priority that is cut off", frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"123"), FRAME_SIZE_ERROR),
        ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
        ("6.3 PRIORITY of 4 bytes", frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
        ("7540 5.3.1 PRIORITY on itself", frame(PRIORITY, 0, 1, b"\x00\x00\x00\x01\x10"), PROTOCOL_ERROR),
        ("6.4 RST_STREAM on stream 0", rst_stream(0), PROTOCOL_ERROR),
        ("6.4 RST_STREAM of 3 bytes", OPEN + frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
        ("6.5 SETTINGS of a stream", frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
        ("6.5 SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
        ("6.5 an ACK with a payload", frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
        ("6.5.3 an ACK too many", SETTINGS_ACK, PROTOCOL_ERROR),
        ("6.5.2 ENABLE_PUSH 2", settings({2: 2}), PROTOCOL_ERROR),
        ("6.5.2 INITIAL_WINDOW_SIZE 2^31", settings({4: 2**31}), FLOW_CONTROL_ERROR),
        ("6.5.2 MAX_FRAME_SIZE below 2^14", settings({5: 2**14 - 1}), PROTOCOL_ERROR),
        ("6.5.2 MAX_FRAME_SIZE of 2^24", settings({5: 2**24}), PROTOCOL_ERROR),
        ("9218 2.1 NO_RFC7540_PRIORITIES 2", settings({9: 2}), PROTOCOL_ERROR),
        ("8.4 PUSH_PROMISE", OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
        ("6.7 PING of a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
        ("6.7 PING of 7 bytes", ping(bytes(7)), FRAME_SIZE_ERROR),
        ("6.8 GOAWAY of a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
        ("6.8 GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        ("6.9 WINDOW_UPDATE by 0", window_update(0, 0), PROTOCOL_ERROR),
        ("6.9 WINDOW_UPDATE of a stream by 0", OPEN + window_update(1, 0), PROTOCOL_ERROR),
        ("6.9 WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
        ("6.9.1 a window over 2^31-1", window_update(0, 2**31 - 1), FLOW_CONTROL_ERROR),
        ("6.10 CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, first()), PROTOCOL_ERROR),
        (
            "6.10 CONTINUATION behind the end of the block",
            OPEN + frame(CONTINUATION, END_HEADERS, 1, block(grpc_fields())),
            PROTOCOL_ERROR,
        ),
    ],
)
def test_what_breaks_the_framing_ends_the_connection_with_its_code(section: str, said: bytes, code: int) -> None:
    peer = Peer()
    calls = len(peer.say(said).goaways), list(peer.asked)
    assert peer.heard.goaway == code, (section, peer.heard.goaways)
    assert peer.connection.finished
    later = peer.say(call(101, b"too late"))
    assert (len(later.goaways), peer.asked) == calls


def test_a_goaway_names_the_last_stream_that_was_taken_and_why() -> None:
    peer = Peer()
    peer.say(DONE, bytes(Frame(PING, 0, 0, b"short")))
    assert peer.heard.goaways == [(1, FRAME_SIZE_ERROR, "PING of 5 bytes, not 8")]


def test_settings_are_said_first_and_acknowledged() -> None:
    peer = Peer()
    assert peer.heard.settings == {1: 0, 3: 1024, 4: 262_144, 5: 16_384, 6: 16_384}
    assert peer.heard.settings_acks == 1
    assert peer.say(settings({0xABCD: 1, 1: 0, 3: 0, 6: 1})).settings_acks == 2


def test_a_ping_is_answered_with_its_own_bytes_and_an_answer_is_not() -> None:
    peer = Peer()
    assert peer.say(ping(b"abcdefgh"), ping(b"87654321", ack=True)).pongs == [b"abcdefgh"]


@pytest.mark.parametrize(
    "ignored",
    [
        bytes(Frame(0xEE, 0xFF, 1, b"anything")),
        bytes(Frame(0xEE, 0, 0, b"")),
        bytes(Frame(PRIORITY, 0, 77, b"\x00\x00\x00\x03\x10")),
        bytes(Frame(GOAWAY, 0, 0, bytes(4) + b"\x00\x00\x00\xfe" + b"why")),
        ping(ack=True),
        settings({0xABCD: 77}),
    ],
)
def test_frames_that_say_nothing_here_change_nothing(ignored: bytes) -> None:
    peer = Peer()
    peer.say(ignored, headers(1, raw=first()), ignored, data(1, message(b"hello"), end=True), ignored)
    assert peer.of(1).message == b"hello"
    assert not peer.heard.goaways


def test_a_reserved_bit_of_a_stream_id_means_nothing() -> None:
    # RFC 9113 4.1
    peer = Peer(quick=True)
    peer.say(headers(0x8000_0005) + data(0x8000_0005, message(b"hello"), end=True))
    assert peer.of(5).message == b"hello"


def test_padding_and_priorities_of_a_request_are_dropped() -> None:
    # RFC 9113 6.1, 6.2
    peer = Peer()
    padded = b"\x04" + b"\x80\x00\x00\x00\x10" + first() + bytes(4)
    peer.say(bytes(Frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, padded)))
    peer.say(bytes(Frame(DATA, PADDED, 1, b"\x02" + message(b"hello")[:3] + bytes(2))))
    peer.say(bytes(Frame(DATA, PADDED | END_STREAM, 1, b"\x00" + message(b"hello")[3:])))
    assert peer.of(1).message == b"hello"


def test_a_header_block_may_come_in_pieces() -> None:
    # RFC 9113 6.10
    peer = Peer()
    whole = first()
    peer.say(
        bytes(Frame(HEADERS, 0, 1, whole[:5]))
        + bytes(Frame(CONTINUATION, 0, 1, whole[5:6]))
        + bytes(Frame(CONTINUATION, END_HEADERS, 1, whole[6:]))
        + data(1, message(b"hello"), end=True)
    )
    assert peer.of(1).message == b"hello"


def test_end_stream_stands_on_headers_also_when_continuations_follow() -> None:
    # RFC 9113 6.2: END_STREAM is HEADERS' own; the request has no message
    peer = Peer()
    whole = first()
    peer.say(bytes(Frame(HEADERS, END_STREAM, 1, whole[:5])) + bytes(Frame(CONTINUATION, END_HEADERS, 1, whole[5:])))
    assert peer.of(1).grpc_status == 13
    assert peer.of(1).ended


def test_no_bytes_of_a_client_are_answered_before_all_of_the_preface_is_there() -> None:
    peer = Peer(handshake=HANDSHAKE[:20])
    assert peer.heard.settings_acks == 0
    assert peer.say(HANDSHAKE[20:]).settings_acks == 1

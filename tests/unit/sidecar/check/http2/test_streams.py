"""RFC 9113 5 and 8: the life of a stream, flow control both ways, and what of a request is malformed."""

from __future__ import annotations

import pytest

from authz.sidecar.check.http2.limits import (
    CONNECTION_WINDOW_BYTES,
    MAX_FRAME_BYTES,
    MAX_HELD_BYTES,
    MAX_STREAMS,
    MAX_WAITING_BYTES,
    STREAM_WINDOW_BYTES,
)
from tests.support.http2_frames import (
    CHECK,
    END_HEADERS,
    END_STREAM,
    HANDSHAKE,
    HEADERS,
    PREFACE,
    SETTINGS_ACK,
    Frame,
    block,
    call,
    data,
    frames_in,
    grpc_fields,
    headers,
    message,
    ping,
    rst_stream,
    settings,
    window_update,
)
from tests.support.http2_peer import LARGE, LARGE_ANSWER, Peer, first

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL, CALM = 1, 3, 5, 7, 8, 11


def without(name: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [*((key, value) for key, value in grpc_fields() if key != name), *more]


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("8.2.1 an upper-case name", [*grpc_fields(), ("X-Upper", "1")]),
        ("8.2.1 a name with a space", [*grpc_fields(), ("a b", "1")]),
        ("8.2.1 an empty name", [*grpc_fields(), ("", "1")]),
        ("8.2.1 a value with a line break", [*grpc_fields(), ("a", "1\r\nb: 2")]),
        ("8.2.1 a value with NUL", [*grpc_fields(), ("a", "1\0")]),
        ("8.2.1 a value with a space before it", [*grpc_fields(), ("a", " 1")]),
        ("8.2.1 a value with a tab behind it", [*grpc_fields(), ("a", "1\t")]),
        ("8.2.1 a path with a line break", [*without(":path"), (":path", "/\n")]),
        ("8.2.2 connection", [*grpc_fields(), ("connection", "close")]),
        ("8.2.2 keep-alive", [*grpc_fields(), ("keep-alive", "1")]),
        ("8.2.2 proxy-connection", [*grpc_fields(), ("proxy-connection", "1")]),
        ("8.2.2 transfer-encoding", [*grpc_fields(), ("transfer-encoding", "chunked")]),
        ("8.2.2 upgrade", [*grpc_fields(), ("upgrade", "h2c")]),
        ("8.2.2 te other than trailers", [*without("te"), ("te", "gzip, trailers")]),
        ("8.3 a pseudo-header behind a header", [*without(":path"), (":path", CHECK)]),
        ("8.3 an unknown pseudo-header", [(":foo", "1"), *grpc_fields()]),
        ("8.3 a pseudo-header of answers", [(":status", "200"), *grpc_fields()]),
        ("8.3.1 no :method", without(":method")),
        ("8.3.1 no :scheme", without(":scheme")),
        ("8.3.1 no :path", without(":path")),
        ("8.3.1 an empty :path", [(":path", ""), *without(":path")]),
        ("8.3.1 two of :path", [(":path", CHECK), *grpc_fields()]),
        ("8.3.1 two of :method", [(":method", "POST"), *grpc_fields()]),
        ("8.3.1 a host that is not the authority", [*grpc_fields(), ("host", "other")]),
        ("8.5 CONNECT with a path", [(":method", "CONNECT"), *without(":method")]),
        ("8.1.1 a content-length that is none", [*grpc_fields(), ("content-length", "-1")]),
        ("8.1.1 two content-lengths", [*grpc_fields(), ("content-length", "7"), ("content-length", "7")]),
        ("8.1.1 a content-length that is too small", [*grpc_fields(), ("content-length", "9")]),
        ("8.1.1 a content-length that is too large", [*grpc_fields(), ("content-length", "11")]),
    ],
)
def test_a_malformed_request_ends_its_stream_and_no_other(section: str, fields: list[tuple[str, str]]) -> None:
    pseudo_first = fields if "behind" in section else sorted(fields, key=lambda field: not field[0].startswith(":"))
    peer = Peer(quick=True)
    peer.say(headers(5, pseudo_first), data(5, message(b"wrong"), end=True), call(7, b"right"))
    assert peer.of(5).reset == PROTOCOL_ERROR, section
    assert not peer.of(5).head
    assert peer.asked == [b"right"]
    assert peer.of(7).message == b"right"


def test_a_right_content_length_and_an_equal_host_are_no_fault() -> None:
    peer = Peer(quick=True)
    peer.say(call(5, b"right", grpc_fields(CHECK, ("content-length", "10"), ("host", "check"))))
    assert peer.of(5).message == b"right"


def test_a_wrong_content_length_is_no_less_wrong_when_its_block_is_known() -> None:
    peer = Peer(quick=True)
    fields = grpc_fields(CHECK, ("content-length", "10"))
    peer.say(call(5, b"right", fields), call(7, b"wrong length", fields), headers(9, fields), headers(11, fields))
    peer.say(data(9, message(b"right"), end=True), data(11, message(b"wrong length"), end=True))
    assert peer.asked == [b"right", b"right"]
    assert (peer.of(7).reset, peer.of(11).reset) == (PROTOCOL_ERROR, PROTOCOL_ERROR)


def test_trailers_end_a_request() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5), data(5, message(b"hello")), headers(5, [("a", "b")], end=True))
    assert peer.of(5).message == b"hello"


@pytest.mark.parametrize(
    ("trailers", "end"),
    [([(":path", "/")], True), ([("A", "b")], True), ([("connection", "x")], True), ([("a", "b")], False)],
)
def test_malformed_trailers_are_a_malformed_request(trailers: list[tuple[str, str]], end: bool) -> None:  # noqa: FBT001
    peer = Peer(quick=True)
    peer.say(headers(5), data(5, message(b"hello")), headers(5, trailers, end=end), call(7, b"right"))
    assert peer.of(5).reset == PROTOCOL_ERROR
    assert peer.asked == [b"right"]


def test_a_stream_that_its_client_resets_is_forgotten() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5), data(5, message(b"hello")[:4]), rst_stream(5), call(7, b"right"), rst_stream(7))
    assert 5 not in peer.heard.streams
    assert peer.asked == [b"right"]


def test_late_frames_of_a_stream_that_we_have_reset_are_dropped() -> None:
    # RFC 9113 5.1: they may have been under way
    peer = Peer(quick=True)
    peer.say(headers(5, [*grpc_fields(), ("connection", "close")]), data(5, b"x" * 100), window_update(5, 1))
    peer.say(headers(5, [("a", "b")], end=True), call(7, b"right"), rst_stream(5))
    assert peer.of(5).reset == PROTOCOL_ERROR
    assert peer.of(7).message == b"right"
    assert not peer.heard.goaways


def test_late_data_does_not_go_beyond_the_window_that_the_stream_had() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5, [*grpc_fields(), ("connection", "close")]))
    peer.say(*[data(5, bytes(16_384))] * (STREAM_WINDOW_BYTES // 16_384))
    assert not peer.heard.goaways
    assert peer.say(data(5, b"1")).goaway == FLOW_CONTROL_ERROR


def test_more_streams_than_allowed_are_refused_and_the_others_go_on() -> None:
    # RFC 9113 5.1.2
    peer = Peer(quick=True)
    ids = range(5, 5 + 2 * MAX_STREAMS, 2)
    peer.say(b"".join(headers(each) for each in ids), call(ids.stop, b"too many"))
    assert peer.of(ids.stop).reset == REFUSED_STREAM
    assert not peer.asked
    peer.say(data(ids[7], message(b"held"), end=True), call(ids.stop + 2, b"again"))
    assert peer.asked == [b"held", b"again"]


def test_a_request_that_ends_before_its_table_is_known_to_be_empty_is_answered_too() -> None:
    # RFC 9113 3.4: a client may ask before it has seen any settings, and may use its table until it has
    peer = Peer(handshake=PREFACE + settings() + headers(1) + data(1, message(b"early"), end=True))
    assert peer.of(1).message == b"early"


# --- windows


def test_an_answer_waits_for_the_streams_window_and_the_connections() -> None:
    # RFC 9113 6.9
    peer = Peer(handshake=PREFACE + settings({4: 10}) + SETTINGS_ACK)
    peer.say(headers(1, raw=first()) + data(1, message(b"0123456789abcdef"), end=True))
    assert peer.of(1).body == message(b"0123456789abcdef")[:10]
    assert not peer.of(1).ended
    peer.say(window_update(1, 3))
    assert peer.of(1).body == message(b"0123456789abcdef")[:13]
    peer.say(settings({4: 15}))
    assert peer.of(1).body == message(b"0123456789abcdef")[:18]
    peer.say(window_update(1, 100))
    assert peer.of(1).message == b"0123456789abcdef"


def test_a_window_may_become_negative_and_has_to_be_opened_beyond_that() -> None:
    # RFC 9113 6.9.2
    peer = Peer(handshake=PREFACE + settings({4: 10}) + SETTINGS_ACK)
    peer.say(headers(1, raw=first()) + data(1, message(b"0123456789abcdef"), end=True), settings({4: 0}))
    peer.say(window_update(1, 10))
    assert len(peer.of(1).body) == 10
    peer.say(window_update(1, 11))
    assert peer.of(1).message == b"0123456789abcdef"


def test_the_connections_window_is_shared_in_the_order_of_the_answers() -> None:
    peer = Peer(quick=True)
    large = grpc_fields(LARGE)
    peer.say(settings({4: 2**20}), call(5, b"", large), call(7, b"", large))
    assert len(peer.of(5).body) == 65_535
    assert not peer.of(7).body
    assert peer.of(7).head
    peer.say(window_update(0, len(LARGE_ANSWER) + 5 - 65_535))
    assert peer.of(5).message == LARGE_ANSWER
    assert not peer.of(7).body
    peer.say(window_update(0, 2**20))
    assert peer.of(7).message == LARGE_ANSWER


def test_answers_are_cut_into_frames_that_every_peer_takes() -> None:
    peer = Peer(handshake=PREFACE + settings({4: 2**20, 5: 2**20}) + SETTINGS_ACK + window_update(0, 2**20))
    peer.say(headers(1, raw=first(grpc_fields(LARGE))) + data(1, message(b""), end=True))
    assert max(len(each.payload) for each in frames_in(peer.said)) == 16_384
    assert peer.of(1).message == LARGE_ANSWER


def test_a_small_answer_waits_too_where_the_connections_window_is_closed() -> None:
    peer = Peer(quick=True)
    peer.say(call(5, b"", grpc_fields(LARGE)), call(7, b"small"))
    assert peer.of(7).head
    assert not peer.of(7).body
    peer.say(window_update(5, 2**20), window_update(0, 2**20))
    assert peer.of(7).message == b"small"


def test_a_stream_whose_answer_waits_is_closed_to_its_client() -> None:
    peer = Peer(handshake=PREFACE + settings({4: 0}) + SETTINGS_ACK)
    peer.say(headers(1, raw=first()) + data(1, message(b"hello"), end=True), data(1, b"x"))
    assert peer.of(1).reset == STREAM_CLOSED
    peer.say(headers(3) + data(3, message(b"hello"), end=True), headers(3, [("a", "b")], end=True))
    assert peer.of(3).reset == STREAM_CLOSED


def test_a_reset_stream_gets_nothing_more_of_its_answer() -> None:
    peer = Peer(handshake=PREFACE + settings({4: 3}) + SETTINGS_ACK)
    peer.say(headers(1, raw=first()) + data(1, message(b"hello"), end=True), rst_stream(1), settings({4: 65_535}))
    assert len(peer.of(1).body) == 3


def test_a_streams_window_beyond_its_bound_ends_that_stream() -> None:
    # RFC 9113 6.9.1
    peer = Peer(quick=True)
    peer.say(headers(5), window_update(5, 2**31 - 1), call(7, b"right"))
    assert peer.of(5).reset == FLOW_CONTROL_ERROR
    assert peer.of(7).message == b"right"


def test_a_setting_that_takes_a_window_beyond_its_bound_ends_the_connection() -> None:
    # RFC 9113 6.9.2
    peer = Peer(quick=True)
    peer.say(headers(5), window_update(5, 2**31 - 1 - 65_535))
    assert peer.say(settings({4: 65_536})).goaway == FLOW_CONTROL_ERROR


def test_windows_are_given_back_as_messages_are_read() -> None:
    peer = Peer(quick=True)
    content = bytes(1024 * 1024)
    body = message(content)
    peer.say(
        headers(5), *[data(5, body[at : at + 16_384]) for at in range(0, len(body), 16_384)], data(5, b"", end=True)
    )
    assert peer.asked == [content]
    given = [increment for stream_id, increment in peer.heard.windows if stream_id == 5]
    assert STREAM_WINDOW_BYTES + sum(given) >= len(body)


def test_the_connections_window_stays_open_for_any_number_of_calls() -> None:
    peer = Peer(quick=True, echo=lambda _message: b"")
    peer.say(*(call(5 + 2 * number, bytes(16_000)) for number in range(1000)))
    assert len(peer.asked) == 1000
    given = sum(increment for stream_id, increment in peer.heard.windows if not stream_id)
    assert given + 65_535 >= 1000 * 16_005


def test_half_of_each_receive_window_is_more_than_a_frame() -> None:
    # what `ReceiveWindow` relies on
    assert min(STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES) // 2 > MAX_FRAME_BYTES


def test_padding_counts_in_a_window_and_is_given_back() -> None:
    # RFC 9113 6.9.1
    peer = Peer(quick=True)
    padded = bytes(Frame(0, 8, 5, b"\xff" + b"\0" + bytes(255)))
    peer.say(headers(5), data(5, message(bytes(4000))[:5]), padded * 3000)
    given = sum(increment for stream_id, increment in peer.heard.windows if stream_id == 5)
    assert STREAM_WINDOW_BYTES + given >= 3000 * 257
    peer.say(data(5, bytes(1000), end=True))
    assert peer.asked == [bytes(4000)]


def test_messages_that_do_not_end_are_bounded_together() -> None:
    peer = Peer(quick=True)
    half = message(bytes(1024 * 1024))[: 200 * 1024]
    needed = MAX_HELD_BYTES // len(half) + 1
    for number in range(needed):
        peer.say(
            headers(5 + 2 * number),
            *[data(5 + 2 * number, half[at : at + 16_384]) for at in range(0, len(half), 16_384)],
        )
    refused = [each for each in peer.heard.streams.values() if each.grpc_status == 8]
    assert len(refused) == 1
    assert refused[0].reset == 0
    assert peer.connection._streams._held_bytes <= MAX_HELD_BYTES
    assert not peer.asked
    peer.say(rst_stream(5), call(5 + 2 * needed, b"again"))
    assert peer.asked == [b"again"]


def test_answers_that_nobody_takes_are_bounded_together() -> None:
    peer = Peer(handshake=PREFACE + settings({4: 0}) + SETTINGS_ACK)
    peer.say(headers(1, raw=first(grpc_fields(LARGE))) + data(1, message(b""), end=True))
    for number in range(1, 40):
        peer.say(call(1 + 2 * number, b"", grpc_fields(LARGE)))
    assert peer.connection._flow.waiting_bytes <= MAX_WAITING_BYTES
    cut = [each for each in peer.heard.streams.values() if each.reset == CALM]
    assert len(cut) == 40 - MAX_WAITING_BYTES // (len(LARGE_ANSWER) + 5)
    peer.say(window_update(0, 2**25), settings({4: 2**25}))
    assert peer.of(1).message == LARGE_ANSWER
    assert peer.connection._flow.waiting_bytes == 0


# --- time


def test_a_peer_that_does_not_shake_hands_is_not_waited_for() -> None:
    for said in (b"", PREFACE[:5], PREFACE, PREFACE + settings()):
        peer = Peer(handshake=said)
        peer.wait(9.9)
        assert not peer.connection.finished
        assert peer.wait(0.2).goaway == 4
        assert peer.connection.finished


def test_a_frame_that_does_not_end_is_not_waited_for() -> None:
    peer = Peer(quick=True)
    peer.say(ping()[:-1])
    assert not peer.wait(9.9).goaways
    assert peer.wait(0.2).goaway == CALM


def test_a_header_block_that_does_not_end_is_not_waited_for() -> None:
    peer = Peer(quick=True)
    peer.say(bytes(Frame(HEADERS, END_STREAM, 5, block(grpc_fields())[:9])))
    assert not peer.wait(9.9).goaways
    assert peer.wait(0.2).goaway == CALM


def test_a_request_that_does_not_end_is_cancelled_alone() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5), data(5, b"\0"))
    peer.wait(29.9)
    peer.say(headers(7))
    peer.wait(0.2)
    assert peer.of(5).reset == CANCEL
    assert 7 not in peer.heard.streams
    peer.say(data(7, message(b"right"), end=True), data(5, b"late", end=True))
    assert peer.asked == [b"right"]


def test_an_answer_that_nobody_takes_is_cancelled() -> None:
    peer = Peer(handshake=PREFACE + settings({4: 0}) + SETTINGS_ACK)
    peer.say(headers(1, raw=first()) + data(1, message(b"hello"), end=True))
    peer.wait(30.1)
    assert peer.of(1).reset == CANCEL
    assert peer.connection._flow.waiting_bytes == 0


def test_nothing_is_due_on_a_connection_that_rests() -> None:
    peer = Peer(quick=True)
    peer.say(call(5, b"hello"), headers(7), data(7, message(b""), end=True))
    assert peer.connection.due_s == float("inf")


# --- the end


def test_a_drain_lets_streams_under_way_end_and_then_closes() -> None:
    # RFC 9113 6.8
    peer = Peer(quick=True)
    peer.say(headers(5))
    peer.drain()
    assert peer.heard.goaways == [(2**31 - 1, 0, "draining")]
    (noticed,) = peer.heard.pings
    peer.say(call(7, b"under way when the GOAWAY was"))
    assert peer.of(7).message == b"under way when the GOAWAY was"
    peer.say(ping(noticed, ack=True))
    assert peer.heard.goaways[1:] == [(7, 0, "drained")]
    assert not peer.connection.finished
    peer.say(call(9, b"too late"), rst_stream(9), window_update(9, 1), data(5, message(b"the last"), end=True))
    assert 9 not in peer.heard.streams
    assert peer.of(5).message == b"the last"
    assert peer.connection.finished
    assert peer.asked == [b"under way when the GOAWAY was", b"the last"]


def test_a_drain_of_a_peer_that_answers_no_ping_goes_on_after_a_second() -> None:
    peer = Peer(quick=True)
    peer.drain()
    assert len(peer.wait(0.9).goaways) == 1
    assert len(peer.wait(0.2).goaways) == 2
    assert peer.connection.finished


def test_a_drain_is_begun_once() -> None:
    peer = Peer()
    peer.drain()
    assert len(peer.drain().goaways) == 1


def test_a_header_block_behind_the_last_goaway_still_changes_the_table() -> None:
    # RFC 9113 4.3, 6.8: what it may not do is change what another block means
    peer = Peer(handshake=PREFACE + settings(), table_bytes=4096)
    peer.say(headers(1))
    peer.drain()
    peer.say(ping(peer.heard.pings[0], ack=True), headers(3, raw=b"\xff\xff"))
    assert peer.heard.goaway == 9


def test_a_connection_that_never_carried_a_call_drains_at_once() -> None:
    peer = Peer(handshake=HANDSHAKE)
    peer.drain()
    peer.say(ping(peer.heard.pings[0], ack=True))
    assert peer.heard.goaways[1:] == [(0, 0, "drained")]
    assert peer.connection.finished


def test_end_headers_is_what_makes_a_block_whole() -> None:
    peer = Peer(quick=True)
    peer.say(bytes(Frame(HEADERS, END_STREAM, 5, block(grpc_fields()))), bytes(Frame(9, END_HEADERS, 5)))
    assert peer.of(5).grpc_status == 13

"""gRPC: statuses for what cannot be answered, deadlines, compression; HTTP's for those who speak no gRPC."""

from __future__ import annotations

import pytest

from tests.support.http2_frames import CHECK, Answered, call, data, grpc_fields, headers, message
from tests.support.http2_peer import FAILS, LARGE, LARGE_ANSWER, REFUSES, Peer

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 5, 8, 12, 13
HEALTH = grpc_fields("/grpc.health.v1.Health/Check")


def answer_to(
    body: bytes, *fields: tuple[str, str], path: str = CHECK, limit: int = 1000
) -> tuple[Answered, list[bytes]]:
    peer = Peer(quick=True, max_message_bytes=limit)
    peer.say(headers(5, grpc_fields(path, *fields)), data(5, body, end=True))
    assert not peer.heard.goaways
    return peer.of(5), peer.asked


def test_a_message_is_answered_with_one_message_and_status_ok() -> None:
    answered, asked = answer_to(message(b"hello"))
    assert asked == [b"hello"]
    assert answered == Answered(
        head={":status": "200", "content-type": "application/grpc"},
        body=message(b"hello"),
        trailers={"grpc-status": "0"},
        ended=True,
    )


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto"])
def test_both_names_of_protobuf_over_grpc_are_taken(content_type: str) -> None:
    fields = [(name, content_type if name == "content-type" else value) for name, value in grpc_fields()]
    peer = Peer(quick=True)
    peer.say(call(5, b"x", fields))
    assert peer.of(5).message == b"x"


@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        (b"", (), INTERNAL),
        (b"\0\0\0\0", (), INTERNAL),
        (message(b"hello")[:-1], (), INTERNAL),
        (message(b"hello") + b"\0", (), INTERNAL),
        (message(b"hello") + message(b"hello"), (), INTERNAL),
        (message(b"hello", flag=2), (), INTERNAL),
        (message(b"hello", flag=0xFF), (("grpc-encoding", "gzip"),), INTERNAL),
        (message(b"hello", flag=1), (), INTERNAL),
        (message(b"hello", flag=1), (("grpc-encoding", "identity"),), INTERNAL),
        (message(b"hello", flag=1), (("grpc-encoding", "gzip"),), UNIMPLEMENTED),
        (message(bytes(1001)), (), RESOURCE_EXHAUSTED),
        (b"\0\xff\xff\xff\xff", (), RESOURCE_EXHAUSTED),
        (message(b"hello"), (("grpc-timeout", "1"),), INTERNAL),
        (message(b"hello"), (("grpc-timeout", "-1S"),), INTERNAL),
        (message(b"hello"), (("grpc-timeout", "123456789S"),), INTERNAL),
        (message(b"hello"), (("grpc-timeout", "1S"), ("grpc-timeout", "2S")), INTERNAL),
        (message(b"hello"), (("grpc-timeout", "0n"),), DEADLINE_EXCEEDED),
        (message(b"hello"), (("grpc-timeout", "0H"),), DEADLINE_EXCEEDED),
    ],
)
def test_what_cannot_be_answered_gets_a_status_and_reaches_no_method(
    body: bytes, fields: tuple[tuple[str, str], ...], status: int
) -> None:
    answered, asked = answer_to(body, *fields)
    assert (answered.grpc_status, asked, answered.body) == (status, [], b"")
    assert answered.head[":status"] == "200"
    assert answered.ended


@pytest.mark.parametrize("first_byte_alone", [False, True])
def test_refusals_do_not_depend_on_how_a_body_is_framed(first_byte_alone: bool) -> None:  # noqa: FBT001
    peer = Peer(quick=True, max_message_bytes=100)
    body = message(bytes(101))
    cut = 1 if first_byte_alone else 3
    peer.say(headers(5), data(5, body[:cut]), data(5, body[cut:], end=True))
    assert peer.of(5).grpc_status == RESOURCE_EXHAUSTED


def test_what_is_too_large_is_refused_by_its_length_alone_and_the_client_told_to_stop() -> None:
    # RFC 9113 8.1: a whole answer, and RST_STREAM with NO_ERROR
    peer = Peer(quick=True)
    peer.say(headers(5), data(5, b"\0\x7f\xff\xff\xff"))
    assert (peer.of(5).grpc_status, peer.of(5).reset) == (RESOURCE_EXHAUSTED, 0)
    peer.say(data(5, bytes(16_000)), data(5, b"", end=True), call(7, b"right"))
    assert peer.of(7).message == b"right"


def test_a_compressed_message_is_refused_with_what_is_taken_instead() -> None:
    answered, _ = answer_to(message(b"hello", flag=1), ("grpc-encoding", "gzip"))
    assert answered.head["grpc-accept-encoding"] == "identity"


def test_a_client_that_could_compress_and_does_not_is_answered() -> None:
    answered, _ = answer_to(message(b"hello"), ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip"))
    assert answered.message == b"hello"


def test_an_unknown_method_is_refused_before_its_stream_ends() -> None:
    # a client that streams, as server reflection's do, sends no end before it has its answer
    peer = Peer(quick=True)
    peer.say(headers(5, grpc_fields("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")))
    assert (peer.of(5).grpc_status, peer.of(5).ended, peer.of(5).reset) == (UNIMPLEMENTED, True, 0)
    peer.say(headers(7, grpc_fields("/grpc.health.v1.Health/Watch")))
    assert peer.of(7).grpc_status == UNIMPLEMENTED


@pytest.mark.parametrize("path", ["*", "/", CHECK + "/", CHECK + "?x", CHECK.lower(), "x" + CHECK])
def test_a_path_that_is_no_methods_is_unknown(path: str) -> None:
    answered, asked = answer_to(message(b"x"), path=path)
    assert (answered.grpc_status, asked) == (UNIMPLEMENTED, [])


@pytest.mark.parametrize(
    ("replaced", "by", "status"),
    [
        ("content-type", "application/json", "415"),
        ("content-type", "application/grpc+json", "415"),
        ("content-type", "application/grpc, application/grpc", "415"),
        (":method", "GET", "405"),
        (":method", "post", "405"),
    ],
)
def test_who_speaks_no_grpc_is_told_so_in_http(replaced: str, by: str, status: str) -> None:
    peer = Peer(quick=True)
    peer.say(call(5, b"x", [(name, by if name == replaced else value) for name, value in grpc_fields()]))
    answered = peer.of(5)
    assert (answered.head[":status"], answered.grpc_status, peer.asked) == (status, None, [])
    assert int(answered.head["content-length"]) == len(answered.body) > 0
    assert answered.ended


def test_head_is_answered_without_a_body() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5, [(":method", "HEAD"), (":scheme", "http"), (":path", "/")], end=True))
    assert (peer.of(5).head[":status"], peer.of(5).body, peer.of(5).ended) == ("415", b"", True)


def test_connect_is_no_method_of_ours() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5, [(":method", "CONNECT"), (":authority", "x"), ("content-type", "application/grpc")], end=True))
    assert peer.of(5).head[":status"] == "405"


def test_a_body_without_end_for_who_speaks_no_grpc_is_cut() -> None:
    peer = Peer(quick=True, max_message_bytes=1000)
    peer.say(headers(5, [(":method", "PUT"), (":scheme", "http"), (":path", "/")]), data(5, bytes(1006)))
    assert (peer.of(5).head[":status"], peer.of(5).reset) == ("415", 0)


def test_a_request_whose_proxy_drops_te_is_refused() -> None:
    peer = Peer(quick=True)
    peer.say(call(5, b"x", [field for field in grpc_fields() if field[0] != "te"]))
    assert (peer.of(5).grpc_status, peer.asked) == (INTERNAL, [])


# --- methods that fail


def test_a_method_that_raises_fails_its_call_alone_and_says_nothing_of_why() -> None:
    peer = Peer(quick=True)
    for stream_id in (5, 9):  # the slow way, and the quick one
        peer.say(call(stream_id, b"x", grpc_fields(FAILS)), call(stream_id + 2, b"right"))
        assert peer.of(stream_id).grpc_status == INTERNAL
        assert "secret" not in peer.of(stream_id).grpc_message
        assert peer.of(stream_id + 2).message == b"right"
    assert [str(error) for error in peer.failures] == ["a secret that nobody else learns"] * 2


def test_a_method_may_refuse_with_a_status_and_a_text() -> None:
    peer = Peer(quick=True)
    for stream_id in (5, 7):
        peer.say(call(stream_id, b"x", grpc_fields(REFUSES)))
        assert peer.of(stream_id).grpc_status == INVALID_ARGUMENT
        # the text may hold anything: it is quoted
        assert peer.of(stream_id).grpc_message == "50 %25 wrong: %C3%A9%0A"
    assert not peer.failures


def test_an_answer_of_any_size_arrives_whole_on_either_way() -> None:
    for size in (0, 1, 16_379, 16_380, 65_530, 65_531):
        peer = Peer(quick=True)
        content = bytes(size)
        peer.say(headers(5), *[data(5, message(content)[at : at + 16_384]) for at in range(0, size + 5, 16_384)])
        peer.say(data(5, b"", end=True))
        if size + 5 <= 65_535:
            assert peer.of(5).message == content
        else:
            assert not peer.of(5).ended
    peer = Peer(quick=True)
    peer.say(call(5, b"", grpc_fields(LARGE)), call(7, b"x", grpc_fields(LARGE)))
    assert peer.of(5).body == message(LARGE_ANSWER)[:65_535]


# --- deadlines


def test_a_call_whose_body_comes_after_its_deadline_is_not_made() -> None:
    peer = Peer(quick=True)
    timed = grpc_fields(CHECK, ("grpc-timeout", "200m"))
    peer.say(headers(5, timed), headers(7, timed))
    peer.now_s += 0.19
    peer.say(data(5, message(b"in time"), end=True))
    peer.now_s += 0.02
    peer.say(data(7, message(b"late"), end=True))
    assert peer.asked == [b"in time"]
    assert peer.of(7).grpc_status == DEADLINE_EXCEEDED


def test_a_call_whose_body_never_comes_ends_at_its_deadline() -> None:
    peer = Peer(quick=True)
    peer.say(headers(5, grpc_fields(CHECK, ("grpc-timeout", "200m"))))
    assert peer.connection.due_s == pytest.approx(1000.2)
    peer.wait(0.2)
    assert (peer.of(5).grpc_status, peer.of(5).reset) == (DEADLINE_EXCEEDED, 0)


def test_calls_behind_a_slow_one_are_not_made_after_their_deadline() -> None:
    def slow(content: bytes) -> bytes:
        peer.now_s += 0.15
        return content

    timed = grpc_fields(CHECK, ("grpc-timeout", "200m"))
    peer = Peer(quick=True, echo=slow)
    peer.say(call(5, b"learn", timed))
    peer.say(call(7, b"first", timed) + call(9, b"second", timed) + call(11, b"third", timed))
    assert peer.asked == [b"learn", b"first", b"second"]
    assert peer.of(11).grpc_status == DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9)]
)
def test_every_unit_of_a_timeout_is_known(timeout: str, seconds: float) -> None:
    peer = Peer(quick=True)
    peer.say(headers(5, grpc_fields(CHECK, ("grpc-timeout", timeout))))
    stream = peer.connection._streams.open[5]
    assert stream.expires_s - peer.now_s == pytest.approx(seconds, abs=1e-7)


# --- health


@pytest.mark.parametrize(
    ("serving", "asked", "status", "answer"),
    [
        (True, b"", OK, b"\x08\x01"),
        (False, b"", OK, b"\x08\x02"),
        (True, b"\x0a\x00", OK, b"\x08\x01"),
        (True, b"\x0a\x05other", NOT_FOUND, None),
        # the last of a field that stands twice is in force; unknown fields are skipped
        (True, b"\x0a\x05other\x0a\x00", OK, b"\x08\x01"),
        (True, b"\x10\xff\x01\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x01x", OK, b"\x08\x01"),
        (True, b"\x0a", INTERNAL, None),
        (True, b"\x0a\x05othe", INTERNAL, None),
        (True, b"\x0a\x01\xff", INTERNAL, None),
        (True, b"\x00\x00", INTERNAL, None),
        (True, b"\x0b", INTERNAL, None),
        (True, b"\x19" + bytes(7), INTERNAL, None),
        (True, b"\xff" * 11, INTERNAL, None),
        (True, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", INTERNAL, None),
        (True, bytes(2000), RESOURCE_EXHAUSTED, None),
    ],
)
def test_a_health_check_is_answered_as_its_callback_says(
    serving: bool,  # noqa: FBT001
    asked: bytes,
    status: int,
    answer: bytes | None,
) -> None:
    peer = Peer(quick=True)
    peer.is_serving = serving
    for stream_id in (5, 7):
        peer.say(call(stream_id, asked, HEALTH))
        assert (peer.of(stream_id).grpc_status, peer.of(stream_id).message) == (status, answer)
    assert not peer.failures

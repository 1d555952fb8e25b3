from __future__ import annotations

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import example, given, strategies as st

from authz.request import Direction, TlsVersion
from authz.sidecar.check.question import MAX_MESSAGE_BYTES, Question, question_from_bytes
from authz.sidecar.errors import CheckMessageError
from tests.support.check_request import check_request


def read(request: external_auth_pb2.CheckRequest) -> Question:
    return question_from_bytes(request.SerializeToString())


def test_the_raw_path_wins_over_what_envoy_made_of_it() -> None:
    request = check_request(path="/a%2Fb/\xff?q=1")
    request.attributes.request.http.path = "/something/else"
    assert read(request).path == "/a%2Fb/\xff?q=1"


def test_without_raw_headers_the_string_fields_are_read() -> None:
    request = external_auth_pb2.CheckRequest()
    request.attributes.context_extensions["direction"] = "outbound"
    http = request.attributes.request.http
    http.method, http.path, http.host = "POST", "/orders", "orders"
    http.headers["content-type"] = "text/plain"
    question = read(request)
    assert (question.direction, question.method, question.path, question.host) == (
        Direction.OUTBOUND,
        "POST",
        "/orders",
        "orders",
    )
    assert question.headers == (("content-type", b"text/plain"),)


def test_repeated_headers_are_kept_in_order() -> None:
    question = read(check_request(headers=(("a", b"1"), ("b", b"2"), ("a", b"3"))))
    assert question.headers == (("a", b"1"), ("b", b"2"), ("a", b"3"))


def test_the_sidecars_own_headers_are_read_and_are_no_headers_of_the_call() -> None:
    question = read(
        check_request(headers=(("x-authz-tls-version", b"TLSv1.3"), ("x-authz-tls-cipher", b"X"), ("x-authz-n", b"1")))
    )
    assert (question.tls, question.tls_cipher, question.headers) == (TlsVersion.TLS_1_3, "X", ())


@pytest.mark.parametrize("direction", [None, "", "Inbound", "sideways", "inbound "])
def test_without_a_direction_there_is_no_question(direction: str | None) -> None:
    with pytest.raises(CheckMessageError):
        read(check_request(direction=direction))


@pytest.mark.parametrize(
    ("headers", "protocol"),
    [
        ((("content-type", b"application/grpc"),), "grpc"),
        ((("content-type", b"application/grpc+proto"),), "grpc"),
        ((("content-type", b"application/grpc;x"),), "grpc"),
        ((("content-type", b"application/grpc-web"),), "http/1.1"),
        ((("upgrade", b"WebSocket"),), "websocket"),
        ((), "http/1.1"),
    ],
)
def test_the_protocol_is_named_as_in_the_record(headers: tuple[tuple[str, bytes], ...], protocol: str) -> None:
    assert read(check_request(headers=headers)).protocol == protocol


def test_http2_is_named() -> None:
    assert read(check_request(protocol="HTTP/2")).protocol == "http/2"


def test_a_message_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(CheckMessageError):
        question_from_bytes(bytes(MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=4096))
@example(b"")
@example(check_request().SerializeToString()[:-3])
def test_any_bytes_give_a_question_or_a_check_message_error(message: bytes) -> None:
    try:
        question = question_from_bytes(message)
    except CheckMessageError:
        return
    assert question.direction in set(Direction)

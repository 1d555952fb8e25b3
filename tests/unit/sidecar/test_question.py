from __future__ import annotations

import dataclasses

import pytest
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from google.protobuf import timestamp_pb2
from hypothesis import example, given, settings, strategies as st

from authz.request import Direction, TlsVersion
from authz.sidecar.check.check_message import FIELDS
from authz.sidecar.check.question import MAX_MESSAGE_BYTES, Question, QuestionReader
from authz.sidecar.errors import CheckMessageError
from tests.support.check_request import check_request
from tests.support.envoy_check import as_envoy_says, parsed


def read(request: external_auth_pb2.CheckRequest) -> Question:
    return QuestionReader().question(request.SerializeToString())


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
    assert (question.context.direction, question.method, question.path, question.host) == (
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


def test_a_question_has_all_its_fields_and_no_caller_yet() -> None:
    question = read(check_request(path="/a", host="catalog"))
    assert all(hasattr(question, field.name) for field in dataclasses.fields(Question))
    nobody = (question.caller, question.serial, question.third_party, question.presenter)
    assert nobody == (None, None, None, None)


def test_a_source_that_stands_twice_is_one() -> None:
    request = check_request(certificate_pem=b"pem")
    once = request.SerializeToString()
    again = external_auth_pb2.CheckRequest()
    again.attributes.source.address.socket_address.port_value = 7
    question = QuestionReader().question(once + again.SerializeToString())
    assert (question.certificate, question.address) == (b"pem", "127.0.0.1:7")


def test_a_request_id_is_read_in_every_form_of_its_length() -> None:
    reader = QuestionReader()
    for length in (0, 1, 36, 110, 111, 127, 128, 300, 20_000):
        message = check_request(headers=(("x-request-id", b"i" * length),)).SerializeToString()
        assert reader.question(message).request_id == "i" * length


def test_a_message_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(CheckMessageError):
        QuestionReader().question(bytes(MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=4096))
@example(b"")
@example(check_request().SerializeToString()[:-3])
def test_any_bytes_give_a_question_or_a_check_message_error(message: bytes) -> None:
    try:
        question = QuestionReader().question(message)
    except CheckMessageError:
        return
    assert question.context.direction in set(Direction)


def test_the_messages_are_envoys_own() -> None:
    envoys = {
        "CheckRequest": external_auth_pb2.CheckRequest,
        "AttributeContext": attribute_context_pb2.AttributeContext,
        "Peer": attribute_context_pb2.AttributeContext.Peer,
        "Request": attribute_context_pb2.AttributeContext.Request,
        "HttpRequest": attribute_context_pb2.AttributeContext.HttpRequest,
        "Address": address_pb2.Address,
        "SocketAddress": address_pb2.SocketAddress,
        "HeaderMap": base_pb2.HeaderMap,
        "HeaderValue": base_pb2.HeaderValue,
        "Timestamp": timestamp_pb2.Timestamp,
        "Entry": attribute_context_pb2.AttributeContext.HttpRequest.HeadersEntry,
        "UnreadCheckRequest": external_auth_pb2.CheckRequest,
        "UnreadAttributeContext": attribute_context_pb2.AttributeContext,
        "UnreadRequest": attribute_context_pb2.AttributeContext.Request,
        "UnreadHttpRequest": attribute_context_pb2.AttributeContext.HttpRequest,
    }
    assert set(FIELDS) == set(envoys)
    for message, fields in FIELDS.items():
        theirs = envoys[message].DESCRIPTOR.fields_by_name
        for name, number, kind in fields:
            field = theirs[name]
            assert (field.number, field.is_repeated) == (number, kind.endswith("[]")), name
            # texts and messages are bytes of the same form
            numbers = {"uint32": field.TYPE_UINT32, "int32": field.TYPE_INT32, "int64": field.TYPE_INT64}
            assert {field.type} & set(numbers.values()) == ({numbers[kind]} if kind in numbers else set()), name


NAMES = st.sampled_from(
    [":method", ":path", ":authority", "content-type", "x-request-id", "x-authz-tls-version", "x-authz-n", "a", "b-c"]
) | st.text(alphabet="abc:-", max_size=6)
VALUES = st.binary(max_size=40) | st.just(b"x" * 300)
REQUESTS = st.builds(
    check_request,
    direction=st.sampled_from(["inbound", "outbound"]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple),
    path=st.text(alphabet=st.characters(max_codepoint=255), max_size=20),
    extensions=st.dictionaries(st.sampled_from(["service", "workload", "destination", "x"]), st.text(max_size=5)),
)


class TestAgreement:
    """A question says what Envoy's own classes read in the same bytes, whatever was read before."""

    READER = QuestionReader()

    @given(request=REQUESTS, without_raw=st.booleans())
    def test_of_checks(self, request: external_auth_pb2.CheckRequest, *, without_raw: bool) -> None:
        if without_raw:
            for name in ("accept", "content-type", "x-authz-n", ":path"):
                request.attributes.request.http.headers[name] = "text"
            del request.attributes.request.http.header_map.headers[:]
        self.compare(request, self.READER.question(request.SerializeToString()))

    @settings(max_examples=300)
    @given(request=REQUESTS, place=st.integers(0, 600), byte=st.integers(0, 255), cut=st.booleans())
    def test_of_broken_checks(
        self, request: external_auth_pb2.CheckRequest, place: int, byte: int, *, cut: bool
    ) -> None:
        message = bytearray(request.SerializeToString())
        place %= len(message)
        message[place] = byte
        if cut:
            del message[place + 1 :]
        read = parsed(bytes(message))
        try:
            question = self.READER.question(bytes(message))
        except CheckMessageError:
            return
        if read is not None:  # a text that is no UTF-8 is refused by Envoy's classes alone
            self.compare(read, question)

    @staticmethod
    def compare(request: external_auth_pb2.CheckRequest, question: Question) -> None:
        says = as_envoy_says(request)
        context = question.context
        assert context.direction.value == says["context"]["direction"]
        assert (context.service, context.workload, context.destination) == tuple(
            says["context"].get(name) for name in ("service", "workload", "destination")
        )
        assert (question.method, question.path, question.host) == (says["method"], says["path"], says["host"])
        raw = len(request.attributes.request.http.header_map.headers)
        told = list(question.headers)
        assert (told if raw else sorted(told)) == says["headers"]
        assert question.certificate == says["certificate"]

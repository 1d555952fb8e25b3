"""The echo app as a gRPC server, asked by grpcio: every method of every kind answers with the bytes it got."""

from __future__ import annotations

import gzip
import json
import queue
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.echo_process import PATIENCE_S, EchoProcess
from tests.support.http2_client import Http2Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_METHOD = "/shop.Orders/Get"
_GRPC = (("content-type", "application/grpc+proto"), ("te", "trailers"))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProcess]:
    with EchoProcess(folder=tmp_path_factory.mktemp("echo")) as process:
        yield process
        assert process.stop() == 0
        assert process.complaints == ""


@pytest.fixture(scope="module")
def channel(app: EchoProcess) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(app.target, options=options) as connected:
        yield connected


@pytest.mark.parametrize("message", [b"", b"hello", bytes(range(256)) * 64, b"x" * 8_000_000], ids=len)
def test_a_unary_call_gets_its_message_back(channel: grpc.Channel, message: bytes) -> None:
    assert channel.unary_unary(_METHOD)(message, timeout=PATIENCE_S) == message


def test_any_method_is_one(channel: grpc.Channel) -> None:
    for method in ("/a.B/C", "/x/y", "/a.b.c.D/e?f", "//"):
        assert channel.unary_unary(method)(b"m", timeout=PATIENCE_S) == b"m"


def test_a_compressed_message_comes_back(channel: grpc.Channel) -> None:
    message = b"compressible " * 1000
    call = channel.unary_unary(_METHOD)
    assert call(message, timeout=PATIENCE_S, compression=grpc.Compression.Gzip) == message


def test_a_server_streaming_call_gets_its_message_back_and_the_end(channel: grpc.Channel) -> None:
    assert list(channel.unary_stream(_METHOD)(b"m", timeout=PATIENCE_S)) == [b"m"]


def test_a_client_streaming_call_gets_its_message_back(channel: grpc.Channel) -> None:
    assert channel.stream_unary(_METHOD)(iter([b"m" * 100_000]), timeout=PATIENCE_S) == b"m" * 100_000


def test_a_bidirectional_call_gets_each_message_as_it_comes(channel: grpc.Channel) -> None:
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = channel.stream_stream(_METHOD)(iter(asked.get, None), timeout=PATIENCE_S)
    for message in (b"one", b"", b"three" * 50_000):
        asked.put(message)
        assert next(call) == message  # before the next is sent
    asked.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_many_messages_come_back_in_their_order(channel: grpc.Channel) -> None:
    messages = [bytes([n % 256]) * (n * 37 % 5000) for n in range(1000)]
    assert list(channel.stream_stream(_METHOD)(iter(messages), timeout=PATIENCE_S)) == messages


def test_the_initial_metadata_come_before_any_message(channel: grpc.Channel) -> None:
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = channel.stream_stream(_METHOD)(
        iter(asked.get, None),
        timeout=PATIENCE_S,
        metadata=[("x-echo-headers", "1"), ("x-thing", "a"), ("x-thing", "b")],
    )
    said = json.loads(dict(call.initial_metadata())["x-echo"])
    assert {**said, "headers": None, "host": None} == {
        "service": "orders",
        "method": "POST",
        "path": _METHOD,
        "host": None,
        "protocol": "grpc",
        "headers": None,
    }
    assert said["headers"]["x-thing"] == "a, b"
    assert said["headers"]["content-type"] == "application/grpc"
    asked.put(None)
    assert list(call) == []


def test_without_being_asked_there_is_no_x_echo(channel: grpc.Channel) -> None:
    _, call = channel.unary_unary(_METHOD).with_call(b"m", timeout=PATIENCE_S, metadata=[("x-echo-headers", "0")])
    assert "x-echo" not in dict(call.initial_metadata())


def test_a_stream_repeats_its_first_message_until_its_time_has_passed(channel: grpc.Channel) -> None:
    metadata = [("x-echo-stream", "0.5"), ("x-echo-headers", "1")]
    call = channel.unary_stream(_METHOD)(b"m", timeout=PATIENCE_S, metadata=metadata)
    assert set(call) == {b"m"}
    assert json.loads(dict(call.initial_metadata())["x-echo"])["protocol"] == "grpc"
    assert call.code() is grpc.StatusCode.OK


def test_a_stream_needs_no_end_of_the_client(channel: grpc.Channel) -> None:
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    metadata = [("x-echo-stream", "60")]
    call = channel.stream_stream(_METHOD)(iter(asked.get, None), timeout=PATIENCE_S, metadata=metadata)
    asked.put(b"first")
    assert [next(call) for _ in range(3)] == [b"first"] * 3
    asked.put(b"second")
    assert [next(call) for _ in range(3)] == [b"first"] * 3
    call.cancel()
    asked.put(None)


def test_an_idle_stream_says_its_message_once(channel: grpc.Channel) -> None:
    metadata = [("x-echo-stream", "0.3"), ("x-echo-idle", "1")]
    assert list(channel.unary_stream(_METHOD)(b"m", timeout=PATIENCE_S, metadata=metadata)) == [b"m"]


def test_a_stream_without_a_message_ends_with_its_client(channel: grpc.Channel) -> None:
    metadata = [("x-echo-stream", "600")]
    call = channel.stream_stream(_METHOD)(iter(()), timeout=PATIENCE_S, metadata=metadata)
    assert list(call) == []


def test_a_stream_of_no_number_of_seconds_is_an_invalid_argument(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(_METHOD)(b"m", timeout=PATIENCE_S, metadata=[("x-echo-stream", "100%")])
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "x-echo-stream: `100%` is no number of seconds"


def test_a_message_too_long_to_be_repeated_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(channel.unary_stream(_METHOD)(b"m" * 70_000, timeout=PATIENCE_S, metadata=[("x-echo-stream", "1")]))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_cancelled_call_disturbs_no_other(app: EchoProcess, channel: grpc.Channel) -> None:
    calls = [
        channel.unary_stream(_METHOD)(b"m", timeout=PATIENCE_S, metadata=[("x-echo-stream", "60")]) for _ in range(20)
    ]
    for call in calls:
        assert next(call) == b"m"
        call.cancel()
    assert channel.unary_unary(_METHOD)(b"m", timeout=PATIENCE_S) == b"m"
    assert app.get()["service"] == "orders"


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"\0\0\0\0\5hi", ()),
        (b"\0\0", ()),
        (b"\7\0\0\0\1x", ()),
        (b"\0\0\0\0\5hi", (("x-echo-stream", "5"),)),
        (b"\7\0\0\0\1x", (("x-echo-stream", "5"),)),
    ],
)
def test_bytes_that_are_no_messages_are_an_internal_error(
    app: EchoProcess, data: bytes, fields: tuple[tuple[str, str], ...]
) -> None:
    with Http2Client(app.connect()) as client:
        stream = client.request(_METHOD, *_GRPC, *fields, method="POST", end=False)
        client.send(stream, data, end=True)
        client.answer(stream)
        assert client.heads[stream]["content-type"] == "application/grpc+proto"
        assert client.trailers[stream]["grpc-status"] == "13"


def test_the_encoding_of_the_messages_is_named_in_the_answer(app: EchoProcess) -> None:
    packed = gzip.compress(b"m")
    data = b"\1" + len(packed).to_bytes(4, "big") + packed
    with Http2Client(app.connect()) as client:
        stream = client.request(_METHOD, *_GRPC, ("grpc-encoding", "gzip"), method="POST", end=False)
        client.send(stream, data, end=True)
        assert client.answer(stream) == data
        assert client.heads[stream]["grpc-encoding"] == "gzip"


@pytest.mark.parametrize("content_type", ["application/grpc-web", "application/grpcx", "text/application/grpc"])
def test_what_only_looks_like_grpc_is_answered_with_json(app: EchoProcess, content_type: str) -> None:
    with Http2Client(app.connect()) as client:
        stream = client.request(_METHOD, ("content-type", content_type), method="POST")
        assert json.loads(client.answer(stream))["protocol"] == "http/2"

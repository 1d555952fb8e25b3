"""The echo app's WebSockets, over an upgraded HTTP/1.1 connection and over HTTP/2's extended CONNECT alike."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from wsproto.events import BytesMessage, CloseConnection, Message, TextMessage

from tests.support.echo_process import EchoProcess
from tests.support.http2_client import Http2Client
from tests.support.websocket_client import ConnectedStream, UpgradedConnection, WebSocketClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Open = Callable[..., WebSocketClient]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProcess]:
    with EchoProcess(folder=tmp_path_factory.mktemp("echo")) as process:
        yield process
        assert process.stop() == 0
        assert process.complaints == ""


@pytest.fixture(params=["http/1.1", "http/2"])
def websocket(app: EchoProcess, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open WebSockets with a path and header lines."""
    with app.connect() as sock:

        def connect(path: str = "/", *fields: str) -> WebSocketClient:
            if request.param == "http/1.1":
                return WebSocketClient(UpgradedConnection(sock, path, *fields))
            return WebSocketClient(ConnectedStream(Http2Client(sock), path, *fields))

        yield connect


def test_messages_come_back(websocket: Open) -> None:
    client = websocket("/any/path?at=all")
    for message in ("hello", "", "h\u00e9llo \U0001f680", "x" * 1_000_000):
        client.say(TextMessage(data=message))
        assert client.message() == message
    for data in (b"", bytes(range(256)), b"\xff" * 1_000_000):
        client.say(BytesMessage(data=data))
        assert client.message() == data


def test_a_message_comes_back_while_it_is_being_sent(websocket: Open) -> None:
    client = websocket()
    client.say(TextMessage(data="first ", message_finished=False))
    event = client.hear()
    assert isinstance(event, Message)
    assert (event.data, event.message_finished) == ("first ", False)
    assert client.ping(b"in between") == b"in between"
    client.say(TextMessage(data="second", message_finished=True))
    assert client.message() == "second"


def test_the_first_message_is_the_request_where_it_is_asked_for(websocket: Open) -> None:
    said = json.loads(websocket("/a?b", "X-Echo-Headers: 1", "X-Thing: a").message())
    assert (said["service"], said["method"], said["path"], said["host"]) == ("orders", "GET", "/a?b", "orders")
    assert (said["protocol"], said["headers"]["x-thing"]) == ("websocket", "a")


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_a_close_is_answered_with_its_code_and_ends_the_connection(websocket: Open, code: int) -> None:
    client = websocket()
    assert client.close(code).code == code
    assert client.hear() is None


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode that does not exist
        (b"\xc1\x80\0\0\0\0", 1002),  # an extension that was not agreed on
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x81\x81\0\0\0\0\xff", 1007),  # text that is not UTF-8
        (b"\x89\xfe\1\0\0\0\0\0", 1002),  # a ping that is too long
        (b"\x88\x82\0\0\0\0\0\1", 1002),  # a close with a code that does not exist
    ],
)
def test_broken_frames_close_the_websocket(websocket: Open, frames: bytes, code: int) -> None:
    client = websocket()
    client.carrier.send(frames)
    event = client.hear()
    assert isinstance(event, CloseConnection)
    assert event.code == code


def test_a_stream_ticks_beside_the_echoes_and_closes_at_its_end(websocket: Open) -> None:
    client = websocket("/", "X-Echo-Stream: 0.5", "X-Echo-Headers: 1")
    assert json.loads(client.message())["protocol"] == "websocket"
    assert client.message() == "tick 0"
    client.say(TextMessage(data="hello"))
    heard = []
    while not isinstance(event := client.hear(), CloseConnection):
        assert isinstance(event, Message)
        heard.append(event.data)
    assert sorted(heard) == ["hello", *(f"tick {n}" for n in range(1, 5))]
    assert event.code == 1000
    client.say(event.response())
    assert client.hear() is None


def test_no_tick_falls_into_a_message(websocket: Open) -> None:
    client = websocket("/", "X-Echo-Stream: 0.3")
    assert client.message() == "tick 0"
    client.say(TextMessage(data="begun", message_finished=False))
    heard = []
    while not isinstance(event := client.hear(), CloseConnection):
        assert isinstance(event, Message)
        heard.append((event.data, event.message_finished))
    assert heard[-1] == ("begun", False)


def test_a_client_that_never_answers_the_close_is_left(websocket: Open) -> None:
    client = websocket("/", "X-Echo-Stream: 0")
    assert client.message() == "tick 0"
    assert isinstance(client.hear(), CloseConnection)
    assert client.hear() is None


def test_an_idle_stream_ticks_once_and_echoes_nothing(websocket: Open) -> None:
    client = websocket("/", "X-Echo-Stream: 0.3", "X-Echo-Idle: 1")
    assert client.message() == "tick 0"
    client.say(TextMessage(data="hello"))
    assert client.ping(b"alive") == b"alive"
    assert isinstance(client.hear(), CloseConnection)


def test_of_the_subprotocols_the_first_is_taken(websocket: Open) -> None:
    client = websocket("/", "Sec-WebSocket-Protocol: chat.v2, chat.v1", "Sec-WebSocket-Extensions: permessage-deflate")
    assert isinstance(client.carrier, UpgradedConnection | ConnectedStream)
    assert client.carrier.fields["sec-websocket-protocol"] == "chat.v2"
    assert "sec-websocket-extensions" not in client.carrier.fields


def test_the_key_of_a_client_behind_a_translating_proxy_is_answered(app: EchoProcess) -> None:
    with Http2Client(app.connect()) as client:
        carrier = ConnectedStream(client, "/", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        assert carrier.fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_client_behind_a_proxy_that_translates_from_http_2_needs_no_key(app: EchoProcess) -> None:
    with app.connect() as sock, sock.makefile("rb") as reader:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        sock.sendall(b"Sec-WebSocket-Version: 13\r\n\r\n\x88\x80\0\0\0\0")
        said = reader.read()
        assert said.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"sec-websocket-accept" not in said


def test_an_echo_that_is_not_read_is_not_held_in_memory(app: EchoProcess) -> None:
    before = app.peak_memory_bytes
    with app.connect() as sock:
        client = WebSocketClient(UpgradedConnection(sock, "/"))
        sock.settimeout(0.5)
        megabyte, said = BytesMessage(data=bytes(1024 * 1024)), 0
        with contextlib.suppress(TimeoutError):  # the app reads no more
            while said < 1000:
                client.say(megabyte)
                said += 1
        assert said < 1000
    assert app.peak_memory_bytes - before < 16 * 1024 * 1024
    assert app.get()["service"] == "orders"


def test_frames_sent_ahead_of_the_answer_are_echoed(app: EchoProcess) -> None:
    with app.connect() as sock:
        request = (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        )
        request += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        sock.sendall(request.encode() + b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0")
        with sock.makefile("rb") as reader:
            assert reader.read().endswith(b"\r\n\r\n\x81\x02hi\x88\x00")


@pytest.mark.parametrize(
    "fields",
    [
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c2hvcnQ="],
        ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
        ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "X-Echo-Stream: x"],
    ],
)
def test_a_broken_handshake_is_refused(app: EchoProcess, fields: list[str]) -> None:
    lines = ["GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: WebSocket", *fields]
    with app.connect() as sock, sock.makefile("rb") as reader:
        sock.sendall(("\r\n".join([*lines, "", ""])).encode())
        assert reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
    if "X-Echo-Stream: x" not in fields:
        return
    with Http2Client(app.connect()) as client:
        client.until_read()
        stream = client.request("/", ("x-echo-stream", "x"), method="CONNECT", end=False, protocol="websocket")
        client.answer(stream)
        assert client.heads[stream][":status"] == "400"


def test_an_upgrade_without_get_is_an_ordinary_request(app: EchoProcess) -> None:
    with app.connect() as sock, sock.makefile("rb") as reader:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        said = json.loads(reader.read().partition(b"\r\n\r\n")[2])
        assert (said["protocol"], said["method"]) == ("http/1.1", "POST")

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Self

import h2.config
import h2.connection
import h2.events
import pytest

from authz.mesh.calls.grpc_call import call_grpc
from authz.mesh.calls.wire import Endpoint, WireAnswer
from authz.mesh.errors import NoAnswerError
from tests.support.echo_process import PATIENCE_S, EchoProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    Fields = list[tuple[str, str]]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoProcess]:
    with EchoProcess(folder=tmp_path_factory.mktemp("echo")) as running:
        yield running


def _call(target: str, *, message: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()) -> WireAnswer:
    return call_grpc(
        Endpoint(address=target, what="the server"),
        authority=b"orders",
        path=b"/shop.v1.Orders/Get",
        headers=headers,
        message=message,
        timeout_s=PATIENCE_S,
    )


def test_a_method_answers_with_the_bytes_it_got(app: EchoProcess) -> None:
    answer = _call(app.target, message=b"\x00\xffhello", headers=((b"X-Echo-Headers", b"1"), (b"x-mine", b"7")))
    assert (answer.status, answer.grpc_status, answer.body) == (200, 0, b"\x00\xffhello")
    echo = json.loads(answer.joined_headers()["x-echo"])
    assert (echo["path"], echo["host"], echo["protocol"]) == ("/shop.v1.Orders/Get", "orders", "grpc")
    assert (echo["headers"]["x-mine"], echo["headers"]["te"]) == ("7", "trailers")


def test_a_message_larger_than_the_window_is_sent_in_parts(app: EchoProcess) -> None:
    message = bytes(range(256)) * 1024
    assert _call(app.target, message=message).body == message


def test_an_empty_message_is_a_message(app: EchoProcess) -> None:
    answer = _call(app.target)
    assert (answer.grpc_status, answer.body) == (0, b"")


def test_the_messages_of_a_stream_are_put_together(app: EchoProcess) -> None:
    answer = _call(app.target, message=b"x", headers=((b"x-echo-stream", b"0.3"),))
    assert answer.grpc_status == 0
    assert len(answer.body) > 2


class _Server:
    """An HTTP/2 server that answers its first stream with the frames it was told to."""

    def __init__(self, *blocks: Fields | bytes | None, close: bool = False) -> None:
        self._blocks = blocks
        self._close = close
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            framing = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            framing.initiate_connection()
            ended = False
            while not ended:
                events = framing.receive_data(connection.recv(65536))
                ended = any(isinstance(event, h2.events.StreamEnded) for event in events)
                connection.sendall(framing.data_to_send())
            for number, block in enumerate(self._blocks, start=1):
                last = number == len(self._blocks) and not self._close
                if block is None:
                    framing.reset_stream(1)
                elif isinstance(block, bytes):
                    framing.send_data(1, block, end_stream=last)
                else:
                    framing.send_headers(1, block, end_stream=last)
            connection.sendall(framing.data_to_send())


@pytest.mark.parametrize(
    ("status", "grpc_status"), [(400, 13), (401, 16), (403, 7), (404, 12), (503, 14), (418, 2), (200, 2)]
)
def test_an_answer_without_a_grpc_status_has_the_one_that_its_http_status_stands_for(
    status: int, grpc_status: int
) -> None:
    with _Server([(":status", str(status))]) as server:
        answer = _call(server.target)
    assert (answer.status, answer.grpc_status) == (status, grpc_status)


def test_a_refusal_without_trailers_shows_its_headers() -> None:
    refusal = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "7"),
        ("x-authz-reason", "closed"),
    ]
    with _Server(refusal) as server:
        answer = _call(server.target)
    assert (answer.grpc_status, answer.joined_headers()["x-authz-reason"]) == (7, "closed")


def test_what_came_before_a_reset_or_a_lost_connection_is_given() -> None:
    head, message = [(":status", "200"), ("content-type", "application/grpc")], b"\x00\x00\x00\x00\x02hi\x00\x00"
    with _Server(head, message, None) as server:
        answer = _call(server.target)
    assert (answer.grpc_status, answer.body) == (13, b"hi")
    with _Server(head, message, close=True) as server:
        answer = _call(server.target)
    assert (answer.grpc_status, answer.body) == (14, b"hi")


def test_a_reset_before_any_answer_is_no_answer() -> None:
    with _Server(None) as server, pytest.raises(NoAnswerError):
        _call(server.target)


def test_a_server_that_does_not_speak_http2_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(NoAnswerError):
            _call(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(PATIENCE_S)

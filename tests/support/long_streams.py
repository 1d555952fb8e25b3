"""Calls that last until somebody ends them, each through a sidecar's outbound listener, and how each one ended."""

from __future__ import annotations

import contextlib
import http.client
import queue
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import h2.exceptions
from wsproto.events import TextMessage

from tests.support.http2_client import Http2Client
from tests.support.websocket_client import ConnectedStream, UpgradedConnection, WebSocketClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: far longer than any window of a test
STREAM_S: Final = 120
TICK_S: Final = 0.05
#: gRPC over HTTP/2, Length-Prefixed-Message
_GRPC_PREFIX_BYTES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a stream ended: when (seconds since the epoch), and what its caller heard.

    `received_bytes` are of the answer's body, `sent_bytes` of the request's.
    """

    at_s: float
    status: int | None
    reason: str | None
    grpc_status: int | None
    last_data_s: float
    received_bytes: int
    sent_bytes: int


class LongStream:
    """One call in a thread of its own: `begun` is set when it certainly runs, `ended` has the end."""

    def __init__(self, name: str, run: Callable[[LongStream], None]) -> None:
        self.name = name
        self.begun = threading.Event()
        self.ended: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()
        self.status: int | None = None
        self.reason: str | None = None
        self.grpc_status: int | None = None
        self.last_data_s = 0.0
        self.received_bytes = self.sent_bytes = 0
        self._run = run
        threading.Thread(target=self._work, daemon=True, name=name).start()

    def received(self, count: int) -> None:
        """Note that so many bytes came."""
        self.last_data_s = time.time()
        self.received_bytes += count

    def sent(self, count: int) -> None:
        """Note that so many bytes went out."""
        self.sent_bytes += count

    def heard(self, headers: dict[str, str]) -> None:
        self.status = int(headers.get(":status", self.status or 0)) or None
        self.reason = headers.get("x-authz-reason", self.reason)
        if "grpc-status" in headers:
            self.grpc_status = int(headers["grpc-status"])

    def _work(self) -> None:
        try:
            self._run(self)
        except Exception as error:  # noqa: BLE001 the test that waits for the end is told
            self.ended.put(error)
            return
        self.ended.put(
            Ended(
                at_s=time.time(),
                status=self.status,
                reason=self.reason,
                grpc_status=self.grpc_status,
                last_data_s=self.last_data_s,
                received_bytes=self.received_bytes,
                sent_bytes=self.sent_bytes,
            )
        )


def every_long_stream(address: str, host: str, path: str) -> dict[str, Callable[[LongStream], None]]:
    """Give each way to keep a call open, by name; all of them to one host, and each to :func:`path_of` its own path."""
    streamed = (("x-echo-stream", str(STREAM_S)),)
    idle = (*streamed, ("x-echo-idle", "1"))
    events = (*streamed, ("accept", "text/event-stream"))
    runs: dict[str, tuple[Callable[..., None], tuple[object, ...]]] = {}
    for protocol, download, upload, socket_of in (
        ("HTTP/1.1", _http1_download, _http1_upload, _http1_websocket),
        ("HTTP/2", _http2_download, _http2_upload, _http2_websocket),
    ):
        for name, fields in (("chunked answer", streamed), ("server-sent events", events), ("silent answer", idle)):
            runs[f"{name}, {protocol}"] = download, fields
        runs[f"slow upload, {protocol}"] = upload, ()
        runs[f"WebSocket, active, {protocol}"] = socket_of, ("active",)
        runs[f"WebSocket, idle, {protocol}"] = socket_of, ()
    runs["gRPC server stream"] = _grpc_server_stream, streamed
    runs["gRPC bidirectional, active"] = _grpc_bidirectional, ("active",)
    runs["gRPC bidirectional, idle"] = _grpc_bidirectional, ()
    return {
        name: _bound(run, address, host, path_of(path, number), more)
        for number, (name, (run, more)) in enumerate(runs.items())
    }


def path_of(path: str, number: int) -> str:
    """Give the path of the kind at this place: by it the records of its call are found."""
    return f"{path}{number}"


def _bound(run: Callable[..., None], *arguments: object) -> Callable[[LongStream], None]:
    return lambda stream: run(stream, *arguments)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    name, _, port = address.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=STREAM_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


Fields = tuple[tuple[str, str], ...]


def _http1_head(method: str, path: str, host: str, fields: Fields) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode()


def _http1_answer(stream: LongStream, connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    stream.heard({":status": str(response.status), **{name.lower(): value for name, value in response.getheaders()}})
    return response


def _http1_download(stream: LongStream, address: str, host: str, path: str, fields: Fields) -> None:
    with _connected(address) as connection:
        connection.sendall(_http1_head("GET", path, host, fields))
        response = _http1_answer(stream, connection)
        with contextlib.suppress(http.client.IncompleteRead, ConnectionResetError):
            while data := response.read1():
                stream.received(len(data))
                stream.begun.set()


def _http1_upload(stream: LongStream, address: str, host: str, path: str, fields: Fields) -> None:
    with _connected(address) as connection:
        connection.sendall(_http1_head("POST", path, host, (*fields, ("content-length", "2000000"))))
        stream.begun.set()
        with contextlib.suppress(ConnectionError):
            while not select.select([connection], [], [], TICK_S)[0]:
                connection.sendall(b"x")
                stream.sent(1)
        response = _http1_answer(stream, connection)
        stream.received(len(response.read()))


def _http1_websocket(stream: LongStream, address: str, host: str, path: str, state: tuple[str, ...]) -> None:
    with _connected(address) as connection:
        _websocket(stream, UpgradedConnection(connection, path, host=host), connection, state)


def _http2_websocket(stream: LongStream, address: str, host: str, path: str, state: tuple[str, ...]) -> None:
    with _connected(address) as connection:
        client = Http2Client(connection, authority=host)
        _websocket(stream, ConnectedStream(client, path), connection, state)


def _websocket(
    stream: LongStream, carrier: UpgradedConnection | ConnectedStream, connection: socket.socket, state: tuple[str, ...]
) -> None:
    client = WebSocketClient(carrier)
    stream.status = 200
    client.say(TextMessage(data="hello"))
    stream.begun.set()
    with contextlib.suppress(ConnectionError, h2.exceptions.ProtocolError):
        while True:
            if state and not select.select([connection], [], [], TICK_S)[0]:
                client.say(TextMessage(data="more"))
                continue
            data = carrier.receive()
            if not data:
                return
            stream.received(len(data))


def _http2_download(stream: LongStream, address: str, host: str, path: str, fields: Fields) -> None:
    with _connected(address) as connection:
        client = Http2Client(connection, authority=host)
        number = client.request(path, *fields)
        _follow(stream, client, number)


def _http2_upload(stream: LongStream, address: str, host: str, path: str, fields: Fields) -> None:
    with _connected(address) as connection:
        client = Http2Client(connection, authority=host)
        number = client.request(path, *fields, method="POST", end=False)
        stream.begun.set()
        while not select.select([connection], [], [], TICK_S)[0] or number not in client.heads:
            if select.select([connection], [], [], 0)[0]:
                client.read()
            if number in client.heads or number in client.resets:
                break
            client.send(number, b"x")
            stream.sent(1)
        _follow(stream, client, number)


def _follow(stream: LongStream, client: Http2Client, number: int) -> None:
    seen = 0
    while number not in client.ended and number not in client.resets and not client.closed:
        client.read()
        if len(client.bodies[number]) > seen:
            stream.received(len(client.bodies[number]) - seen)
            seen = len(client.bodies[number])
            stream.begun.set()
    if len(client.bodies[number]) > seen:  # it had come with the answer's head
        stream.received(len(client.bodies[number]) - seen)
    stream.heard(client.heads.get(number, {}))
    stream.heard(client.trailers.get(number, {}))


def _grpc_server_stream(stream: LongStream, address: str, host: str, path: str, metadata: Fields) -> None:
    with grpc.insecure_channel(address, options=[("grpc.default_authority", host)]) as channel:
        call = channel.unary_stream(path)(b"m", metadata=metadata)
        _follow_grpc(stream, call)


def _grpc_bidirectional(stream: LongStream, address: str, host: str, path: str, state: tuple[str, ...]) -> None:
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"first"
        while not over.wait(TICK_S if state else STREAM_S):
            yield b"more"

    with grpc.insecure_channel(address, options=[("grpc.default_authority", host)]) as channel:
        call = channel.stream_stream(path)(messages())
        try:
            _follow_grpc(stream, call)
        finally:
            over.set()


def grpc_unanswered(stream: LongStream, address: str, host: str, path: str) -> None:
    """Call, and say nothing; for an app that says nothing either."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(STREAM_S)
        yield from ()

    with grpc.insecure_channel(address, options=[("grpc.default_authority", host)]) as channel:
        grpc.channel_ready_future(channel).result(STREAM_S)
        call = channel.stream_stream(path)(nothing())
        stream.begun.set()
        try:
            _follow_grpc(stream, call)
        finally:
            over.set()


def _follow_grpc(stream: LongStream, call: grpc.Call) -> None:
    try:
        for message in call:  # type: ignore[attr-defined] # grpc's types do not say that a call of streams is an iterator
            stream.received(_GRPC_PREFIX_BYTES + len(message))
            stream.begun.set()
    except grpc.RpcError:
        pass
    stream.grpc_status = call.code().value[0]
    trailers = {name: value for name, value in (call.trailing_metadata() or ()) if isinstance(value, str)}
    stream.reason = trailers.get("x-authz-reason")

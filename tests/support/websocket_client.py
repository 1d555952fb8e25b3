"""A WebSocket client over whatever carries bytes: an upgraded HTTP/1.1 connection, or a stream of HTTP/2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Message, Ping, Pong

if TYPE_CHECKING:
    import socket

    from tests.support.http2_client import Http2Client


class Carrier(Protocol):
    def send(self, data: bytes) -> None: ...
    def receive(self) -> bytes: ...


class UpgradedConnection:
    """HTTP/1.1 after a 101 whose `head` has been checked."""

    def __init__(self, sock: socket.socket, path: str, *fields: str, host: str = "orders") -> None:
        self.sock = sock
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: keep-alive, Upgrade", "Upgrade: websocket"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *fields]
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        said = b""
        while b"\r\n\r\n" not in said:
            said += sock.recv(4096)
        head, _, self._rest = said.partition(b"\r\n\r\n")
        status, *answered = head.decode().split("\r\n")
        assert status == "HTTP/1.1 101 Switching Protocols"
        self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in answered)}
        # RFC 6455 1.3: the key and its answer are those of the specification.
        assert self.fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest or self.sock.recv(65_536)


class ConnectedStream:
    """A stream of HTTP/2 that an extended CONNECT has opened (RFC 8441)."""

    def __init__(self, client: Http2Client, path: str, *fields: str) -> None:
        self.client = client
        client.until_read()
        assert client.http.remote_settings.enable_connect_protocol == 1
        more = [(name.lower(), value) for name, _, value in (field.partition(": ") for field in fields)]
        self.stream = client.request(
            path, ("sec-websocket-version", "13"), *more, method="CONNECT", end=False, protocol="websocket"
        )
        client.until(lambda client: self.stream in client.heads)
        self.fields = client.heads[self.stream]
        assert self.fields[":status"] == "200"

    def send(self, data: bytes) -> None:
        self.client.send(self.stream, data)

    def receive(self) -> bytes:
        body = self.client.bodies[self.stream]
        self.client.until(lambda client: body or self.stream in client.ended or self.stream in client.resets)
        data = bytes(body)
        body.clear()
        return data


class WebSocketClient:
    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self._frames = Connection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    def say(self, event: Event) -> None:
        self.carrier.send(self._frames.send(event))

    def hear(self) -> Event | None:
        """Give the next event, None at the end of the connection."""
        while not self._events:
            data = self.carrier.receive()
            if not data:
                return None
            self._frames.receive_data(data)
            self._events = list(self._frames.events())
        return self._events.pop(0)

    def message(self) -> str | bytes:
        """Give the next whole message."""
        event = self.hear()
        assert isinstance(event, Message), event
        whole: str | bytes = event.data
        while not event.message_finished:
            event = self.hear()
            assert isinstance(event, Message), event
            whole += event.data
        return whole

    def close(self, code: int = 1000) -> CloseConnection:
        self.say(CloseConnection(code=code, reason="bye"))
        while not isinstance(event := self.hear(), CloseConnection):
            assert event is not None
        return event

    def ping(self, payload: bytes) -> bytes:
        self.say(Ping(payload=payload))
        while not isinstance(event := self.hear(), Pong):
            assert event is not None
        return bytes(event.payload)

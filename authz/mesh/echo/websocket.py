"""The WebSocket that echoes: its handshake, its messages, and how it travels over an upgraded HTTP/1.1 connection.

Messages go back as they come, piece by piece, so none is ever held and none is too long. With `x-echo-headers: 1` the
first message is the request's JSON. With `x-echo-stream` there are ticks beside the echoes, and a close (1000) at the
end; with `x-echo-idle: 1` one tick and then silence, echoes included. A tick that would fall into the middle of an
echoed message is left out, since messages cannot be interleaved (RFC 6455 5.4).

:class:`EchoWebSocket` does no I/O: it takes bytes and gives the bytes to send, over HTTP/1.1 and HTTP/2 alike.
No extension is negotiated; of the subprotocols offered the first is taken.

RFC 6455 (https://www.rfc-editor.org/rfc/rfc6455).
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

from authz.mesh.echo.answer import EchoRefusal
from authz.mesh.echo.connection import LINGER_S, EchoConnection
from authz.mesh.echo.ticks import Ticks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.mesh.echo.answer import EchoRequest, StreamWish
    from authz.mesh.echo.connection import OpenConnections

#: RFC 6455 4.1: a nonce of 16 bytes in base64
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
#: RFC 9110 5.6.2
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VERSION = "13"

Fields = list[tuple[bytes, bytes]]


class EchoWebSocket:
    """One WebSocket after its handshake: bytes in, bytes out.

    It is `over` once both sides have closed, and `broken`, too, where the client sent what is no WebSocket.
    """

    __slots__ = ("_frames", "_idle", "_inside_message", "_request", "broken", "over")

    def __init__(self, request: EchoRequest, wish: StreamWish | None) -> None:
        """Echo for a request whose handshake has been accepted."""
        self._frames = Connection(ConnectionType.SERVER)
        self._request = request
        self._idle = wish is not None and wish.idle
        self._inside_message = False
        self.over = self.broken = False

    def opening(self) -> bytes:
        """Give what is said first."""
        if not self._request.wants_headers:
            return b""
        return self._frames.send(TextMessage(data=self._request.body.decode()))

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent; give the answer."""
        if self.over:
            return b""
        self._frames.receive_data(data)
        said: list[bytes] = []
        for event in self._frames.events():
            match event:
                case Message() if self._frames.state is ConnectionState.OPEN and not self._idle:
                    self._inside_message = not event.message_finished
                    said.append(self._frames.send(Message(data=event.data, message_finished=event.message_finished)))
                case Ping() if self._frames.state is ConnectionState.OPEN:
                    said.append(self._frames.send(event.response()))
                case CloseConnection():
                    said.append(self._answer_close(event))
                    break
                case _:  # pongs, and what comes too late to be answered
                    pass
        return b"".join(said)

    def tick(self, number: int) -> bytes:
        """Give one tick of the stream, if this is no time for silence."""
        if self._inside_message or self._frames.state is not ConnectionState.OPEN:
            return b""
        return self._frames.send(TextMessage(data=f"tick {number}"))

    def close(self, code: CloseReason) -> bytes:
        """Give the close that this side begins; the client's answer to it makes the WebSocket `over`."""
        if self._frames.state is not ConnectionState.OPEN:
            return b""
        return self._frames.send(CloseConnection(code=code))

    def _answer_close(self, event: CloseConnection) -> bytes:
        """Answer the client's close, or broken frames, which wsproto reports as a close in a state that stays open."""
        self.over = True
        self.broken = self._frames.state is ConnectionState.OPEN
        if self._frames.state in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
            return self._frames.send(event.response())
        return b""


class WebSocketConnection(EchoConnection):
    """A WebSocket on a connection that HTTP/1.1 has handed over."""

    def __init__(
        self, connections: OpenConnections, *, request: EchoRequest, wish: StreamWish | None, started_s: float
    ) -> None:
        """Speak on a connection whose 101 has been sent."""
        super().__init__(connections)
        self._websocket = EchoWebSocket(request, wish)
        self._ticks = (
            None if wish is None else Ticks(wish, started_s=started_s, tick=self._say_tick, end=self._end_stream)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what is said first."""
        super().connection_made(transport)
        self.write(self._websocket.opening())
        if self._ticks is not None:
            self._ticks.start()

    def receive(self, data: bytes) -> None:
        """Echo."""
        self.write(self._websocket.receive(data))
        if self._websocket.broken:
            self.close_after_last_words()
        elif self._websocket.over:
            # RFC 6455 7.1.1: the server is the first to close the TCP connection.
            self.transport.close()

    def proceed(self) -> None:
        """Nothing waits here: what is not read stays with the client."""

    def stop(self) -> None:
        """End the stream's beat."""
        if self._ticks is not None:
            self._ticks.stop()

    def shut_down(self) -> None:
        """Close with 1001, going away."""
        self.stop()
        self.write(self._websocket.close(CloseReason.GOING_AWAY))
        self.transport.close()

    def _say_tick(self, number: int) -> None:
        if number == 0 or self.writable:
            self.write(self._websocket.tick(number))

    def _end_stream(self) -> None:
        self.write(self._websocket.close(CloseReason.NORMAL_CLOSURE))
        asyncio.get_running_loop().call_later(LINGER_S, self.close_after_last_words)


def asks_for_websocket(method: str, headers: Mapping[str, str]) -> bool:
    """Whether an HTTP/1.1 request asks for a WebSocket (RFC 6455 4.2.1, steps 1 to 4)."""
    return (
        method == "GET"
        and "websocket" in _tokens(headers.get("upgrade", ""))
        and "upgrade" in _tokens(headers.get("connection", ""))
    )


def accepted_upgrade(headers: Mapping[str, str]) -> Fields:
    """Give the fields of the 101 that accepts a WebSocket over HTTP/1.1; raises EchoRefusal for a broken handshake."""
    return [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), *accepted_connect(headers)]


def accepted_connect(headers: Mapping[str, str]) -> Fields:
    """Give the fields beside `:status` that accept a WebSocket over HTTP/2; raises EchoRefusal for a broken handshake.

    RFC 6455 has a key and its answer, RFC 8441 has neither. A proxy that translates between them, as Envoy does, makes
    none up and drops none: its HTTP/1.1 client's key arrives over HTTP/2 and has to be answered there, and its HTTP/2
    client's handshake arrives over HTTP/1.1 without one. So a key is answered wherever there is one.
    """
    if headers.get("sec-websocket-version") != _VERSION:
        raise EchoRefusal(
            f"only version {_VERSION} of WebSocket is spoken here",
            status=400,  # RFC 6455 4.4
            headers=((b"sec-websocket-version", _VERSION.encode()),),
        )
    key = headers.get("sec-websocket-key")
    if key is None:
        return _subprotocol(headers)
    if not _KEY.fullmatch(key):
        raise EchoRefusal("sec-websocket-key is no nonce of 16 bytes in base64", status=400)
    return [(b"sec-websocket-accept", generate_accept_token(key.encode())), *_subprotocol(headers)]


def _subprotocol(headers: Mapping[str, str]) -> Fields:
    # A browser takes an answer without any of the subprotocols that it offered for a failure.
    offered = headers.get("sec-websocket-protocol", "").partition(",")[0].strip()
    return [(b"sec-websocket-protocol", offered.encode())] if _TOKEN.fullmatch(offered) else []


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]

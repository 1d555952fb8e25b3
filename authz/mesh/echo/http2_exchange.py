"""What is answered on one HTTP/2 stream: JSON, a stream of lines, a gRPC call's own bytes, or a WebSocket.

Which of them a request gets is decided by :func:`exchange_for`, once, from its headers. An exchange takes what the
client sends and says what is to be sent; flow control is the connection's.

A gRPC call's initial metadata leaves at once. With `x-echo-stream` its first message is repeated on each tick, since
the app cannot know another message that the caller can read; what the caller sends later is dropped.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from hpack.struct import NeverIndexedHeaderTuple
from wsproto.frame_protocol import CloseReason

from authz.mesh.echo.answer import EchoProtocol, EchoRefusal, EchoRequest, StreamWish, joined_headers, stream_wish
from authz.mesh.echo.connection import LINGER_S
from authz.mesh.echo.grpc import FirstMessage, GrpcFault, GrpcStatus, MessageEnds, is_grpc, trailers
from authz.mesh.echo.ticks import Ticks
from authz.mesh.echo.websocket import EchoWebSocket, accepted_connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.mesh.echo.http2 import Http2Stream

    Field = tuple[bytes, bytes]

_OK = (b":status", b"200")
_CONTINUE = (b":status", b"100")
_JSON = (b"content-type", b"application/json")
_UNCACHED = (b"cache-control", b"no-store")


class Exchange(ABC):
    """One request and its answer."""

    __slots__ = ("request", "stream")

    def __init__(self, stream: Http2Stream, request: EchoRequest) -> None:
        """Answer this request on this stream."""
        self.stream = stream
        self.request = request

    def started(self) -> None:  # noqa: B027 most answers wait for the request's end
        """Say what is said before the request has ended."""

    def received(self, data: bytes) -> None:  # noqa: B027 most answers do not depend on the body
        """Take bytes of the request's body."""

    @abstractmethod
    def ended(self) -> None:
        """Take note that the client sends nothing more."""

    def stopped(self) -> None:  # noqa: B027 most answers have no timer
        """Take note that the stream is over."""


class _Answer(Exchange):
    """The request as JSON, when it has ended."""

    __slots__ = ()

    def ended(self) -> None:
        _answer(self.stream, self.request, status=200, body=self.request.body)


class _Refusal(Exchange):
    """What is wrong with the request, as JSON, when it has ended."""

    __slots__ = ("_refusal",)

    def __init__(self, stream: Http2Stream, request: EchoRequest, refusal: EchoRefusal) -> None:
        super().__init__(stream, request)
        self._refusal = refusal

    def ended(self) -> None:
        _answer(
            self.stream, self.request, status=self._refusal.status, body=self._refusal.body, more=self._refusal.headers
        )


class _Tunnel(Exchange):
    """A CONNECT, which has no body (RFC 9113 8.5): it has ended with its header section; the tunnel says the JSON."""

    __slots__ = ("_refusal",)

    def __init__(self, stream: Http2Stream, request: EchoRequest, refusal: EchoRefusal | None = None) -> None:
        super().__init__(stream, request)
        self._refusal = refusal

    def started(self) -> None:
        if self._refusal is not None:
            refusal = self._refusal
            _answer(self.stream, self.request, status=refusal.status, body=refusal.body, more=refusal.headers)
            return
        self.stream.head([_OK])
        self.stream.send(self.request.body)
        self.stream.end()

    def ended(self) -> None:
        pass


class _Ticking(Exchange):
    """An exchange that may have a beat."""

    __slots__ = ("_ticks",)

    def __init__(self, stream: Http2Stream, request: EchoRequest) -> None:
        super().__init__(stream, request)
        self._ticks: Ticks | None = None

    def stopped(self) -> None:
        if self._ticks is not None:
            self._ticks.stop()

    def beat(self, wish: StreamWish) -> None:
        """Begin the beat."""
        self._ticks = Ticks(wish, started_s=self.stream.started_s, tick=self._tick, end=self._end)
        self._ticks.start()

    def line(self, number: int) -> bytes:
        """Give what is sent on a tick."""
        raise NotImplementedError

    def time_passed(self) -> None:
        """End the answer: the stream's time has passed."""
        self.stream.end()

    def _tick(self, number: int) -> None:
        # A client that does not read misses lines instead of having them pile up.
        if number == 0 or not self.stream.pending:
            self.stream.send(self.line(number))
            self.stream.flush()

    def _end(self) -> None:
        self.time_passed()
        self.stream.flush()


class _Lines(_Ticking):
    """A stream of lines from the start of the request, whatever its body does."""

    __slots__ = ("_wish",)

    def __init__(self, stream: Http2Stream, request: EchoRequest, wish: StreamWish) -> None:
        super().__init__(stream, request)
        self._wish = wish

    def started(self) -> None:
        self.stream.head([_OK, (b"content-type", self._wish.content_type), _UNCACHED])
        self.beat(self._wish)

    def line(self, number: int) -> bytes:
        return self._wish.line(number)

    def ended(self) -> None:
        pass


class _GrpcEcho(Exchange):
    """A gRPC call whose messages go back as they come."""

    __slots__ = ("_ends",)

    def __init__(self, stream: Http2Stream, request: EchoRequest) -> None:
        super().__init__(stream, request)
        self._ends = MessageEnds()

    def started(self) -> None:
        self.stream.head(_initial_metadata(self.request))

    def received(self, data: bytes) -> None:
        try:
            self._ends.feed(data)
        except GrpcFault as fault:
            self.stream.end(trailers(fault.status, str(fault)))
        else:
            self.stream.send(data)

    def ended(self) -> None:
        self.stream.end(_end_of_call(whole=self._ends.between_messages))


class _GrpcLines(_Ticking):
    """A gRPC call whose first message is repeated on each tick."""

    __slots__ = ("_first", "_wish")

    def __init__(self, stream: Http2Stream, request: EchoRequest, wish: StreamWish) -> None:
        super().__init__(stream, request)
        self._wish = wish
        self._first = FirstMessage()

    def started(self) -> None:
        self.stream.head(_initial_metadata(self.request))

    def received(self, data: bytes) -> None:
        try:
            self._first.feed(data)
        except GrpcFault as fault:
            self.stream.end(trailers(fault.status, str(fault)))
            return
        if self._first.whole is not None and self._ticks is None:
            self.beat(self._wish)

    def line(self, number: int) -> bytes:  # noqa: ARG002 each tick is the same message
        return self._first.whole or b""

    def ended(self) -> None:
        if self._ticks is None:
            self.stream.end(_end_of_call(whole=not self._first.begun))

    def time_passed(self) -> None:
        self.stream.end(trailers(GrpcStatus.OK))


class _GrpcRefusal(Exchange):
    """A gRPC call that is refused at once: its header section is its trailers, too."""

    __slots__ = ("_message", "_status")

    def __init__(self, stream: Http2Stream, request: EchoRequest, status: GrpcStatus, message: str) -> None:
        super().__init__(stream, request)
        self._status, self._message = status, message

    def started(self) -> None:
        fields = [_OK, (b"content-type", b"application/grpc"), *trailers(self._status, self._message)]
        self.stream.head(fields, end=True)

    def ended(self) -> None:
        pass


class _WebSocket(_Ticking):
    """A WebSocket on one stream (RFC 8441)."""

    __slots__ = ("_accepted", "_websocket", "_wish")

    def __init__(
        self, stream: Http2Stream, request: EchoRequest, wish: StreamWish | None, accepted: list[Field]
    ) -> None:
        super().__init__(stream, request)
        self._wish = wish
        self._accepted = accepted
        self._websocket = EchoWebSocket(request, wish)

    def started(self) -> None:
        self.stream.head([_OK, *self._accepted])
        self.stream.send(self._websocket.opening())
        if self._wish is not None:
            self.beat(self._wish)

    def received(self, data: bytes) -> None:
        self.stream.send(self._websocket.receive(data))
        if self._websocket.over:
            self.stream.end()

    def ended(self) -> None:
        self.stream.end()

    def line(self, number: int) -> bytes:
        return self._websocket.tick(number)

    def time_passed(self) -> None:
        self.stream.send(self._websocket.close(CloseReason.NORMAL_CLOSURE))
        # The client answers the close, which ends the stream; if it does not, so does this.
        asyncio.get_running_loop().call_later(LINGER_S, self._give_up)

    def _give_up(self) -> None:
        self.stream.end()
        self.stream.flush()


def exchange_for(stream: Http2Stream, fields: Iterable[Field], *, has_ended: bool) -> Exchange:
    """Decide what a request is answered with."""
    pseudo: dict[bytes, str] = {}
    regular: list[Field] = []
    for field in fields:
        if field[0].startswith(b":"):
            pseudo[field[0]] = field[1].decode("latin-1")
        else:
            regular.append(field)
    headers = joined_headers(regular)
    method, extension = pseudo[b":method"], pseudo.get(b":protocol")
    request = EchoRequest(
        service=stream.service,
        # The policy sees the GET that HTTP/1.1 would have asked with.
        method="GET" if extension == "websocket" else method,
        path=pseudo.get(b":path", ""),
        host=pseudo.get(b":authority", headers.get("host", "")),
        protocol=_protocol(method, extension, headers.get("content-type", "")),
        headers=headers,
    )
    if not has_ended and headers.get("expect", "").lower() == "100-continue":
        stream.head([_CONTINUE])
    try:
        return _exchange(stream, request, extension)
    except EchoRefusal as refusal:
        if request.protocol is EchoProtocol.GRPC:
            return _GrpcRefusal(stream, request, GrpcStatus.INVALID_ARGUMENT, str(refusal))
        if method == "CONNECT":
            return _Tunnel(stream, request, refusal)
        return _Refusal(stream, request, refusal)


def _protocol(method: str, extension: str | None, content_type: str) -> EchoProtocol:
    if extension == "websocket":
        return EchoProtocol.WEBSOCKET
    return EchoProtocol.GRPC if is_grpc(method, content_type) else EchoProtocol.HTTP_2


def _exchange(stream: Http2Stream, request: EchoRequest, extension: str | None) -> Exchange:
    if extension not in {None, "websocket"}:
        raise EchoRefusal(f"the protocol `{extension}` is not spoken here", status=501)  # RFC 9220 3
    wish = stream_wish(request)
    match request.protocol:
        case EchoProtocol.GRPC:
            return _GrpcEcho(stream, request) if wish is None else _GrpcLines(stream, request, wish)
        case EchoProtocol.WEBSOCKET:
            return _WebSocket(stream, request, wish, accepted_connect(request.headers))
        case EchoProtocol.HTTP_1_1 | EchoProtocol.HTTP_2:
            if request.method == "CONNECT":
                return _Tunnel(stream, request)
            if wish is None or request.method == "HEAD":
                return _Answer(stream, request)
            return _Lines(stream, request, wish)


def _answer(stream: Http2Stream, request: EchoRequest, *, status: int, body: bytes, more: Iterable[Field] = ()) -> None:
    head = [(b":status", b"%d" % status), _JSON, (b"content-length", b"%d" % len(body)), *more]
    if request.method == "HEAD":
        stream.head(head, end=True)
        return
    stream.head(head)
    stream.send(body)
    stream.end()


def _initial_metadata(request: EchoRequest) -> list[Field]:
    """Give the header section of a gRPC answer: the bytes come back in the encoding in which they were sent."""
    fields = [_OK, (b"content-type", request.headers["content-type"].encode("latin-1"))]
    encoding = request.headers.get("grpc-encoding")
    if encoding is not None:
        fields.append((b"grpc-encoding", encoding.encode("latin-1")))
    if request.wants_headers:
        fields.append(NeverIndexedHeaderTuple(b"x-echo", request.body))
    return fields


def _end_of_call(*, whole: bool) -> list[Field]:
    if whole:
        return trailers(GrpcStatus.OK)
    return trailers(GrpcStatus.INTERNAL, "the request ended inside a message")

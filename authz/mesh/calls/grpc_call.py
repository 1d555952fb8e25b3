"""One gRPC call with one message, over HTTP/2 as the protocol document has it, and its answer.

It is written on the framing library because a call must show what came over the wire (an HTTP status that is no 200, a
denial without trailers), and because grpcio cannot verify a peer by its SPIFFE ID.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from authz.mesh.calls.wire import MAX_BODY_BYTES, Connection, Deadline, Endpoint, WireAnswer
from authz.mesh.errors import NoAnswerError

if TYPE_CHECKING:
    Headers = tuple[tuple[bytes, bytes], ...]

_STREAM = 1
_OK: Final = 200
_MESSAGE_PREFIX = struct.Struct(">BI")
_UNKNOWN, _INTERNAL, _UNAVAILABLE = 2, 13, 14
#: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_GRPC_OF_HTTP = {
    400: _INTERNAL,
    401: 16,
    403: 7,
    404: 12,
    429: _UNAVAILABLE,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}


@dataclass(slots=True, kw_only=True)
class _Received:
    """What has come so far on the stream; `lost` is the status for an end without trailers."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    lost: int = _UNKNOWN


def call_grpc(
    endpoint: Endpoint, *, authority: bytes, path: bytes, headers: Headers, message: bytes, timeout_s: float
) -> WireAnswer:
    """Call a method with one message and read the answer to its end; the messages of a stream are put together."""
    with Connection(endpoint, Deadline(timeout_s), protocols=["h2"]) as connection:
        framing = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False)
        )
        framing.initiate_connection()
        scheme = b"http" if endpoint.tls is None else b"https"
        framing.send_headers(_STREAM, _request_headers(scheme, authority, path, headers))
        outgoing = bytearray(_MESSAGE_PREFIX.pack(0, len(message)) + message)
        received = _Received()
        try:
            _exchange(connection, framing, outgoing, received)
        except NoAnswerError:
            if not received.headers:
                raise
            received.lost = _UNAVAILABLE
        return _answer(received)


def _request_headers(scheme: bytes, authority: bytes, path: bytes, headers: Headers) -> list[tuple[bytes, bytes]]:
    given = [(name.lower(), value) for name, value in headers]
    names = {name for name, _ in given}
    own = [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
    return [
        (b":method", b"POST"),
        (b":scheme", scheme),
        (b":authority", authority),
        (b":path", path),
        *((name, value) for name, value in own if name not in names),
        *given,
    ]


def _exchange(
    connection: Connection, framing: h2.connection.H2Connection, outgoing: bytearray, received: _Received
) -> None:
    """Send the message as the peer's window lets it, and read until the stream has ended."""
    done_sending = False
    while not received.ended:
        if not done_sending:
            done_sending = _send_more(framing, outgoing)
        connection.send(framing.data_to_send())
        data = connection.receive()
        if not data:
            raise NoAnswerError("the connection was closed before the answer had ended")
        try:
            events = framing.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise NoAnswerError(f"what was answered is no HTTP/2: {str(error).lower()}") from error
        for event in events:
            _take(event, framing, received)


def _send_more(framing: h2.connection.H2Connection, outgoing: bytearray) -> bool:
    """Put as much of the message into frames as there is room for; give whether all of it is."""
    while outgoing:
        room = min(framing.local_flow_control_window(_STREAM), framing.max_outbound_frame_size, len(outgoing))
        if room <= 0:
            return False
        framing.send_data(_STREAM, bytes(outgoing[:room]))
        del outgoing[:room]
    framing.end_stream(_STREAM)
    return True


def _take(event: h2.events.Event, framing: h2.connection.H2Connection, received: _Received) -> None:
    match event:
        case h2.events.ResponseReceived() | h2.events.TrailersReceived():
            received.headers += [(_text(name), _text(value)) for name, value in event.headers or ()]
        case h2.events.DataReceived():
            received.body += event.data or b""
            framing.acknowledge_received_data(event.flow_controlled_length or 0, _STREAM)
            if len(received.body) > MAX_BODY_BYTES:
                raise NoAnswerError(f"the answer has more than {MAX_BODY_BYTES} bytes")
        case h2.events.StreamEnded():
            received.ended = True
        case h2.events.StreamReset():
            received.ended = True
            received.lost = _INTERNAL
        case h2.events.ConnectionTerminated() if not received.headers:
            raise NoAnswerError("the connection was ended before there was an answer")
        case _:
            return


def _answer(received: _Received) -> WireAnswer:
    given = dict(received.headers)
    status = int(given.get(":status", "0")) if given.get(":status", "").isdecimal() else 0
    if status == 0:
        raise NoAnswerError("the stream was reset before there was an answer")
    stated = given.get("grpc-status", "")
    if stated.isdecimal():
        grpc_status = int(stated)
    elif status == _OK:
        grpc_status = received.lost
    else:
        grpc_status = _GRPC_OF_HTTP.get(status, _UNKNOWN)
    headers = tuple((name, value) for name, value in received.headers if not name.startswith(":"))
    is_grpc = given.get("content-type", "").startswith("application/grpc")
    body = _messages(bytes(received.body)) if is_grpc else bytes(received.body)
    return WireAnswer(status=status, headers=headers, body=body, grpc_status=grpc_status)


def _messages(framed: bytes) -> bytes:
    """Take the messages out of their frames; one that was cut short is left out."""
    messages = b""
    position = 0
    while position + _MESSAGE_PREFIX.size <= len(framed):
        _, length = _MESSAGE_PREFIX.unpack_from(framed, position)
        start = position + _MESSAGE_PREFIX.size
        if start + length > len(framed):
            break
        messages += framed[start : start + length]
        position = start + length
    return messages


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")

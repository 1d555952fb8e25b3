"""A client's side of HTTP/2 as bytes, well-formed or not, and what a server's bytes say; nothing of authz in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from hpack import Decoder, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
CHECK = "/envoy.service.auth.v3.Authorization/Check"

_HEADER = Struct(">IBI")
_SETTING = Struct(">HI")

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes = b""

    def __bytes__(self) -> bytes:
        return _HEADER.pack(len(self.payload) << 8 | self.kind, self.flags, self.stream_id) + self.payload


def frames_in(data: bytes) -> list[Frame]:
    """Cut a server's bytes into frames; all of them have to be whole."""
    found, at = [], 0
    while at < len(data):
        word, flags, stream_id = _HEADER.unpack_from(data, at)
        end = at + 9 + (word >> 8)
        assert end <= len(data), "a frame that is cut off"
        found.append(Frame(word & 0xFF, flags, stream_id, data[at + 9 : end]))
        at = end
    return found


def settings(values: dict[int, int] | None = None) -> bytes:
    return bytes(Frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in (values or {}).items())))


SETTINGS_ACK = bytes(Frame(SETTINGS, ACK, 0))
#: the table of size 0 that every block of ours is made for (RFC 7541 6.3)
EMPTY_TABLE = b"\x20"


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode without the dynamic table, and without Huffman where that says more in a test."""
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.table_size_changes = []
    return encoder.encode([(name, value) for name, value in fields], huffman=False)


def grpc_fields(path: str = CHECK, *more: tuple[str, str]) -> Fields:
    return (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "check"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    )


def headers(
    stream_id: int, fields: Sequence[tuple[str, str]] | None = None, *, end: bool = False, raw: bytes | None = None
) -> bytes:
    payload = block(grpc_fields() if fields is None else fields) if raw is None else raw
    return bytes(Frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream_id, payload))


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return bytes(Frame(DATA, END_STREAM if end else 0, stream_id, payload))


def message(content: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(content).to_bytes(4, "big") + content


def call(stream_id: int, content: bytes, fields: Sequence[tuple[str, str]] | None = None) -> bytes:
    return headers(stream_id, fields) + data(stream_id, message(content), end=True)


def window_update(stream_id: int, increment: int) -> bytes:
    return bytes(Frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big")))


def rst_stream(stream_id: int, code: int = 8) -> bytes:
    return bytes(Frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big")))


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return bytes(Frame(PING, ACK if ack else 0, 0, payload))


#: everything before the first call: preface, settings, the acknowledgement
HANDSHAKE = PREFACE + settings() + SETTINGS_ACK


@dataclass(slots=True)
class Answered:
    """What a server said on one stream."""

    head: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def grpc_status(self) -> int | None:
        status = self.trailers.get("grpc-status", self.head.get("grpc-status"))
        return None if status is None else int(status)

    @property
    def grpc_message(self) -> str:
        return self.trailers.get("grpc-message", self.head.get("grpc-message", ""))

    @property
    def message(self) -> bytes | None:
        """The one message of an OK; None where there is none."""
        if self.grpc_status != 0 or not self.ended:
            return None
        assert self.body[:1] == b"\0"
        assert int.from_bytes(self.body[1:5], "big") == len(self.body) - 5
        return self.body[5:]


@dataclass(slots=True)
class Heard:
    """What a server said in all; its frames are checked as a strict client would."""

    streams: dict[int, Answered] = field(default_factory=dict)
    settings: dict[int, int] = field(default_factory=dict)
    settings_acks: int = 0
    pongs: list[bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    goaways: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def goaway(self) -> int | None:
        """The error code of the last GOAWAY."""
        return self.goaways[-1][1] if self.goaways else None

    def of(self, stream_id: int) -> Answered:
        return self.streams.setdefault(stream_id, Answered())


def heard(said: bytes | bytearray, *, table_bytes: int = 0) -> Heard:  # noqa: C901 one case for each frame
    """Read everything that a server said on one connection, to a peer that keeps so much of header blocks."""
    said = bytes(said)
    result = Heard()
    decoder = Decoder()
    # RFC 9113 4.3.1: with 0 the strictest peer; the first block has to empty the table
    decoder.max_allowed_table_size = table_bytes
    for each in frames_in(said):
        stream = result.of(each.stream_id) if each.stream_id and each.kind != WINDOW_UPDATE else Answered()
        assert not stream.ended or each.kind == RST_STREAM, "a frame behind the end of its stream"
        match each.kind:
            case 0:
                assert stream.head
                assert not stream.trailers
                stream.body += each.payload
                stream.ended = bool(each.flags & END_STREAM)
            case 1:
                assert each.flags & END_HEADERS
                fields = {
                    bytes(name).decode(): bytes(value).decode()
                    for name, value in decoder.decode(each.payload, raw=True)
                }
                stream.ended = bool(each.flags & END_STREAM)
                if stream.head:
                    assert stream.ended
                    stream.trailers = fields
                else:
                    assert ":status" in fields
                    stream.head = fields
            case 3:
                stream.reset = int.from_bytes(each.payload, "big")
            case 4 if each.flags & ACK:
                assert not each.payload
                result.settings_acks += 1
            case 4:
                result.settings = dict(_SETTING.iter_unpack(each.payload))
            case 6:
                (result.pongs if each.flags & ACK else result.pings).append(each.payload)
            case 7:
                last, code = int.from_bytes(each.payload[:4], "big"), int.from_bytes(each.payload[4:8], "big")
                result.goaways.append((last, code, each.payload[8:].decode()))
            case 8:
                result.windows.append((each.stream_id, int.from_bytes(each.payload, "big")))
            case _:
                raise AssertionError(f"a server sends no frame of type {each.kind}")
    return result

"""What clients say to the check path, well, oddly and wrongly, as the bytes of one connection each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import http2_frames as http2
from tests.support.check_request import check_request
from tests.support.http2_frames import CHECK, Frame, block, data, grpc_fields, headers, message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEALTH = "/grpc.health.v1.Health/Check"
#: more than what either server takes of one message
TOO_LARGE_BYTES = 1024 * 1024 + 1
_FRAME_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a client says on one connection, in pieces; `answered` are the streams that something has to come of.

    A piece that is one DATA frame waits for the window that it needs, as each server gives windows in its own way.
    """

    name: str
    said: tuple[bytes, ...]
    answered: tuple[int, ...] = (1,)

    @property
    def last_call(self) -> int:
        """The stream of a call that is made behind everything else: whether the connection has lived on."""
        return max(self.answered, default=1) + 100


def opening(fields: Sequence[tuple[str, str]] | None = None, stream_id: int = 1, *, end: bool = False) -> bytes:
    """Begin the first request of a connection."""
    first = http2.EMPTY_TABLE + block(grpc_fields() if fields is None else fields)
    return headers(stream_id, raw=first, end=end)


def body(stream_id: int, content: bytes, *, end: bool = True) -> list[bytes]:
    """Cut a body into frames, each a piece of its own."""
    cut = [content[at : at + _FRAME_BYTES] for at in range(0, len(content), _FRAME_BYTES)]
    return [data(stream_id, each, end=end and number == len(cut) - 1) for number, each in enumerate(cut)]


def one(name: str, fields: Sequence[tuple[str, str]] | None = None, *pieces: bytes, end: bool = False) -> Session:
    """Make a session of one stream, which begins with these fields."""
    return Session(name=name, said=(opening(fields, end=end), *pieces))


def sessions(certificate: bytes) -> Iterator[Session]:
    """Give what clients say well, oddly and wrongly; `certificate` is that of a caller who is allowed one call."""
    asked = check_request(certificate_pem=certificate).SerializeToString()
    for some in (_good, _refused, _no_grpc, _malformed, _broken):
        yield from some(asked)


def _good(asked: bytes) -> Iterator[Session]:
    """Give calls that are right, in every form."""
    good = data(1, message(asked), end=True)
    yield one("a call", None, good)
    yield one("a call with a deadline", grpc_fields(CHECK, ("grpc-timeout", "20S")), good)
    yield one("application/grpc+proto", _with("content-type", "application/grpc+proto"), good)
    yield one(
        "padded DATA",
        None,
        bytes(Frame(http2.DATA, http2.END_STREAM | http2.PADDED, 1, b"\3" + message(asked) + bytes(3))),
    )
    yield one(
        "DATA in small pieces",
        None,
        *(data(1, piece, end=at + 7 >= len(asked) + 5) for at, piece in _cut(message(asked), 7)),
    )
    yield one("the end of the stream apart", None, data(1, message(asked)), data(1, b"", end=True))
    yield one("trailers of the client", None, data(1, message(asked)), headers(1, (("x-end", "1"),), end=True))
    yield one("encoding identity", grpc_fields(CHECK, ("grpc-encoding", "identity")), good)
    yield one(
        "headers that nobody knows", grpc_fields(CHECK, ("x-a", "1"), ("x-a-bin", "AAAA"), ("user-agent", "u")), good
    )
    yield one("a right content-length", grpc_fields(CHECK, ("content-length", str(len(asked) + 5))), good)
    encoded = http2.EMPTY_TABLE + block(grpc_fields())
    yield Session(
        name="a header block in three frames",
        said=(
            bytes(Frame(http2.HEADERS, 0, 1, encoded[:5])),
            bytes(Frame(http2.CONTINUATION, 0, 1, encoded[5:9])),
            bytes(Frame(http2.CONTINUATION, http2.END_HEADERS, 1, encoded[9:])),
            good,
        ),
    )
    yield Session(
        name="three calls at once",
        said=(opening(), headers(3), headers(5), *(data(each, message(asked), end=True) for each in (5, 1, 3))),
        answered=(1, 3, 5),
    )
    yield Session(name="frames of an unknown type", said=(bytes(Frame(0x42, 7, 0, b"x")), opening(), good))
    yield Session(name="a ping between", said=(opening(), http2.ping(), good))
    yield one("as large as a message may be", None, *body(1, message(_sized(asked, TOO_LARGE_BYTES - 1))))


def _refused(asked: bytes) -> Iterator[Session]:
    """Give what gRPC refuses."""
    good = data(1, message(asked), end=True)
    yield one("too large a message", None, *body(1, message(_sized(asked, TOO_LARGE_BYTES))))
    yield one("no message", None, data(1, b"", end=True))
    yield one("no body", None, end=True)
    yield one("half a prefix", None, data(1, b"\0\0", end=True))
    yield one("half a message", None, data(1, message(asked)[:-9], end=True))
    yield one("two messages", None, data(1, message(asked) * 2, end=True))
    yield one("compressed, without an encoding", None, data(1, message(asked, 1), end=True))
    for encoding in ("gzip", "identity", "br"):
        yield one(
            f"compressed, {encoding}",
            grpc_fields(CHECK, ("grpc-encoding", encoding)),
            data(1, message(asked, 1), end=True),
        )
    yield one("gzip said, not compressed", grpc_fields(CHECK, ("grpc-encoding", "gzip")), good)
    yield one("a compressed-flag of 2", None, data(1, message(asked, 2), end=True))
    yield one("an unknown method", grpc_fields("/envoy.service.auth.v3.Authorization/Other"), good)
    yield one("an unknown service", grpc_fields("/x/Check"), good)
    yield one("a method with a slash behind it", grpc_fields(CHECK + "/"), good)
    yield one("a method in capitals", grpc_fields(CHECK.upper()), good)
    yield one("a method with a query", grpc_fields(CHECK + "?a"), good)
    yield one("the health of the server", grpc_fields(HEALTH), data(1, message(b""), end=True))
    yield one("a deadline that has passed", grpc_fields(CHECK, ("grpc-timeout", "0n")), good)
    yield one("a deadline that is none", grpc_fields(CHECK, ("grpc-timeout", "soon")), good)
    yield one("a deadline of nine digits", grpc_fields(CHECK, ("grpc-timeout", "123456789S")), good)
    yield one("no te", tuple(field for field in grpc_fields() if field[0] != "te"), good)


def _no_grpc(asked: bytes) -> Iterator[Session]:
    """Give what is no gRPC."""
    good = data(1, message(asked), end=True)
    for content_type in (
        "application/json",
        "application/grpc+json",
        "application/grpc-web",
        "Application/GRPC",
        "application/grpc;x=1",
        "",
    ):
        yield one(f"content-type `{content_type}`", _with("content-type", content_type), good)
    yield one("no content-type", tuple(field for field in grpc_fields() if field[0] != "content-type"), good)
    for method in ("GET", "PUT", "post"):
        yield one(f"method {method}", _with(":method", method), good)


def _malformed(asked: bytes) -> Iterator[Session]:
    """Give requests that are not well-formed (RFC 9113 8)."""
    good = data(1, message(asked), end=True)
    yield one("a wrong content-length", grpc_fields(CHECK, ("content-length", "3")), good)
    yield one("connection: close", grpc_fields(CHECK, ("connection", "close")), good)
    yield one("te: gzip", _with("te", "gzip"), good)
    yield one("a name in capitals", grpc_fields(CHECK, ("X-A", "1")), good)
    yield one("a pseudo-header at the end", (*grpc_fields()[1:], grpc_fields()[0]), good)
    yield one("two paths", (*grpc_fields()[:3], *grpc_fields()[2:]), good)
    yield one("no path", (*grpc_fields()[:2], *grpc_fields()[3:]), good)
    yield one("no method", grpc_fields()[1:], good)
    yield one("an unknown pseudo-header", ((":x", "1"), *grpc_fields()), good)
    yield one("a line end in a value", grpc_fields(CHECK, ("x-a", "1\r\nx-b: 2")), good)
    yield one("a pseudo-header in trailers", None, data(1, message(asked)), headers(1, ((":path", "/"),), end=True))
    # In one piece: grpcio, where it has time to answer the message first, takes no notice of what follows.
    yield one("trailers that do not end", None, data(1, message(asked)) + headers(1, (("x-end", "1"),)))


def _broken(asked: bytes) -> Iterator[Session]:
    """Give frames that are wrong (RFC 9113 4 to 6)."""
    good = data(1, message(asked), end=True)
    encoded = http2.EMPTY_TABLE + block(grpc_fields())
    yield Session(name="DATA on stream 0", said=(opening(), data(0, b"x"), good))
    yield Session(name="DATA on a stream that is idle", said=(opening(), data(3, b"x"), good))
    yield Session(name="an even stream", said=(opening(stream_id=2), data(2, message(asked), end=True)), answered=())
    yield Session(
        name="a stream id again",
        said=(opening(stream_id=5), data(5, message(asked), end=True), headers(3), data(3, message(asked), end=True)),
        answered=(5,),
    )
    yield Session(
        name="a stream that depends on itself",
        said=(bytes(Frame(http2.PRIORITY, 0, 1, b"\0\0\0\1\0")), opening(), good),
    )
    yield Session(
        name="CONTINUATION without HEADERS",
        said=(bytes(Frame(http2.CONTINUATION, http2.END_HEADERS, 1, encoded)), good),
        answered=(),
    )
    yield Session(
        name="PING inside of a header block",
        said=(bytes(Frame(http2.HEADERS, 0, 1, encoded[:5])), http2.ping(), good),
        answered=(),
    )
    yield Session(name="PING of seven bytes", said=(opening(), http2.ping(b"1234567"), good))
    yield Session(
        name="PUSH_PROMISE", said=(opening(), bytes(Frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, b"\0\0\0\2")), good)
    )
    yield Session(name="WINDOW_UPDATE by 0", said=(opening(), http2.window_update(0, 0), good))
    yield Session(name="a window beyond its limit", said=(opening(), http2.window_update(0, 2**31 - 1), good))
    yield Session(
        name="padding longer than its frame", said=(opening(), bytes(Frame(http2.DATA, http2.PADDED | 1, 1, b"\xffab")))
    )
    yield Session(
        name="header blocks that are none", said=(headers(1, raw=b"\xff\xff\xff\xff\xff\xff"), good), answered=()
    )
    yield Session(name="a frame of 17 KiB", said=(opening(), bytes(Frame(http2.DATA, 1, 1, message(bytes(17 * 1024))))))
    yield Session(name="SETTINGS of five bytes", said=(bytes(Frame(http2.SETTINGS, 0, 0, b"12345")), opening(), good))
    yield Session(name="a stream that is reset before its end", said=(opening(), http2.rst_stream(1)), answered=())


def _with(name: str, value: str) -> tuple[tuple[str, str], ...]:
    return tuple((each, value if each == name else before) for each, before in grpc_fields())


def _cut(content: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    return ((at, content[at : at + size]) for at in range(0, len(content), size))


def _sized(asked: bytes, size: int) -> bytes:
    """Make a CheckRequest of so many bytes: with a field that nobody knows."""
    # Protocol Buffers, encoding: field 1000, of bytes, and a length of four bytes
    padding = size - len(asked) - 6
    key, length = b"\xc2\x3e", bytes([*(padding >> 7 * at & 0x7F | 0x80 for at in range(3)), padding >> 21])
    return asked + key + length + bytes(padding)


def generated_sessions(certificate: bytes, *, seed: int, count: int, calls: int) -> Iterator[Session]:
    """Give sessions of calls whose framing is right, and whose messages are real ones, most of them damaged."""
    generator = random.Random(seed)  # noqa: S311 a seed makes the run the same again
    whole = [
        check_request(certificate_pem=certificate, **each).SerializeToString()  # type: ignore[arg-type]
        for each in (
            {},
            {"method": "POST"},
            {"path": "/a/../items/42"},
            {"path": "/items/\xff"},
            {"host": "elsewhere"},
            {"direction": "outbound"},
            {"direction": "sideways"},
            {"direction": None},
            {"extensions": {"service": "orders"}},
            {"protocol": "HTTP/2", "headers": (("content-type", b"application/grpc"), ("te", b"trailers"))},
            {"headers": (("authorization", b"Bearer a.b.c"), ("cookie", b"a=\xff"), ("x-request-id", b"1"))},
        )
    ]
    whole += [check_request().SerializeToString(), b""]
    for number in range(count):
        said = []
        for stream_id in range(1, 2 * calls, 2):
            content = generator.choice(whole)
            for _ in range(generator.randrange(3)):
                content = _damaged(content, generator)
            begins = opening(stream_id=stream_id) if stream_id == 1 else headers(stream_id)
            said += [begins, data(stream_id, message(content), end=True)]
        yield Session(name=f"generated {number}", said=tuple(said), answered=tuple(range(1, 2 * calls, 2)))


def _damaged(content: bytes, generator: random.Random) -> bytes:
    at, length = generator.randrange(len(content) + 1), generator.randrange(20)
    match generator.randrange(4):
        case 0:
            return content[:at] + content[at + length :]
        case 1:
            return content[:at] + content[at : at + length] + content[at:]
        case 2 if at < len(content):
            return content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :]
        case _:
            return content[:at] + generator.randbytes(length) + content[at:]

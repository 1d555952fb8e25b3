"""gRPC over HTTP/2: what a request asks for, what its body holds, and how answers and refusals look.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, compression.md and statuscodes.md there. Messages are
not compressed. One goes each way, but where a method's calls stay open (:mod:`.open_streams`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from authz.errors import AuthzError
from authz.sidecar.check.http2.headers import header_block

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from authz.sidecar.check.http2.headers import Request

    Unary = Callable[[bytes], bytes]
    Begin = Callable[["Speaker"], "Listener"]

#: a byte that says whether the message is compressed, and four of its length
PREFIX_BYTES: Final = 5
_CONTENT_TYPES: Final = frozenset({b"application/grpc", b"application/grpc+proto"})
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
#: what `grpc-message` may hold as it is: printable ASCII but "%"
_UNQUOTED: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_NOT_COMPRESSED: Final = (b"", b"identity")


class Speaker(Protocol):
    """What a method says on a call that stays open; once it is over, nothing."""

    def say(self, message: bytes) -> None:
        """Send a message."""

    def end(self, message: bytes, trailers: bytes) -> None:
        """Send a last message and these trailers, and end the call."""


class Listener(Protocol):
    """What a method hears of a call that stays open."""

    def heard(self, message: bytes) -> None:
        """Take a message; raises GrpcError to end the call."""

    def ended(self) -> None:
        """Take in that the call is over; called once, and last."""


class Status(IntEnum):
    """gRPC's status codes, as far as they are used here."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class GrpcError(AuthzError):
    """A call ends with a status instead of a message."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer before it is framed: the payloads of its HEADERS, of its DATA, and of its trailers if it has any."""

    head: bytes
    body: bytes = b""
    trailers: bytes | None = None


GRPC_HEAD: Final = header_block(200, (b"content-type", b"application/grpc"))
GRPC_TRAILERS: Final = header_block(None, (b"grpc-status", b"0"))


def status_trailers(status: Status, text: str) -> bytes:
    """Give the trailers of a call that stayed open and ends with a status."""
    return header_block(None, (b"grpc-status", b"%d" % status), (b"grpc-message", quote(text, safe=_UNQUOTED).encode()))


def framed(message: bytes) -> bytes:
    """Put a message that is not compressed behind its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def answered(message: bytes) -> Answer:
    """Answer with a message, and with status OK behind it."""
    return Answer(head=GRPC_HEAD, body=framed(message), trailers=GRPC_TRAILERS)


def refused(status: Status, text: str) -> Answer:
    """Answer without a message: one HEADERS frame ("Trailers-Only")."""
    encodings = ((b"grpc-accept-encoding", b"identity"),) if status is Status.UNIMPLEMENTED else ()
    return Answer(
        head=header_block(
            200,
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"%d" % status),
            (b"grpc-message", quote(text, safe=_UNQUOTED).encode()),
            *encodings,
        )
    )


def refused_http(status: int, text: str, *, allow: bytes | None = None) -> Answer:
    """Answer whoever does not speak gRPC."""
    body = text.encode() + b"\n"
    allowed = () if allow is None else ((b"allow", allow),)
    length = b"%d" % len(body)
    return Answer(
        head=header_block(status, (b"content-type", b"text/plain"), (b"content-length", length), *allowed), body=body
    )


EXPIRED: Final = refused(Status.DEADLINE_EXCEEDED, "the deadline has passed")
FAILED: Final = refused(Status.INTERNAL, "the call failed")
UNKNOWN_METHOD: Final = refused(Status.UNIMPLEMENTED, "unknown method")
TOO_MANY_BYTES: Final = refused(Status.RESOURCE_EXHAUSTED, "too many bytes of unfinished messages")
NOT_GRPC: Final = refused_http(415, "content-type is not application/grpc")
NOT_POST: Final = refused_http(405, "gRPC calls are POST", allow=b"POST")


def _no_method(_message: bytes) -> bytes:
    raise GrpcError(Status.UNIMPLEMENTED, "unknown method")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a request's header section asks for; `refusal` where nothing will be called."""

    unary: Unary = _no_method
    refusal: Answer | None = None
    #: a refusal that need not see the end of the request: a client that streams waits for it before it ends
    at_once: bool = False
    timeout_s: float = inf
    content_length: int | None = None
    encoding: bytes = b""
    #: there is a method to call with the message
    plain: bool = False
    #: there is a method whose calls stay open
    begin: Begin | None = None


class Service:
    """The methods that are served, by path; each is called with a message and gives one, or raises GrpcError.

    The calls of those that `stay_open` are begun, hear messages and say some.
    """

    __slots__ = ("_methods", "_stay_open", "max_message_bytes")

    def __init__(
        self,
        methods: Mapping[str, Unary],
        *,
        max_message_bytes: int,
        stay_open: Mapping[str, Begin] = MappingProxyType({}),
    ) -> None:
        """Serve these, with messages of at most so many bytes."""
        self._methods = {path.encode("ascii"): unary for path, unary in methods.items()}
        self._stay_open = {path.encode("ascii"): begin for path, begin in stay_open.items()}
        self.max_message_bytes = max_message_bytes

    @property
    def has_open_calls(self) -> bool:
        """Whether calls of any method stay open."""
        return bool(self._stay_open)

    def call(self, request: Request) -> Call:
        """Read a well-formed request."""
        fields = request.fields
        length = request.content_length
        if fields.get(b"content-type") not in _CONTENT_TYPES:
            return Call(refusal=_without_body(NOT_GRPC, request), content_length=length)
        if request.method != b"POST":
            return Call(refusal=_without_body(NOT_POST, request), content_length=length)
        unary, begin = self._methods.get(request.path), self._stay_open.get(request.path)
        if unary is None and begin is None:
            return Call(refusal=UNKNOWN_METHOD, at_once=True, content_length=length)
        if b"te" not in fields:
            refusal = refused(Status.INTERNAL, "te: trailers is missing: a proxy between us does not know gRPC")
            return Call(refusal=refusal, at_once=True, content_length=length)
        timeout_s = inf
        if b"grpc-timeout" in fields:
            given = _TIMEOUT.fullmatch(fields[b"grpc-timeout"])
            if given is None:
                refusal = refused(Status.INTERNAL, "grpc-timeout is not 1 to 8 digits and a unit")
                return Call(refusal=refusal, at_once=True, content_length=length)
            timeout_s = int(given[1]) * _UNIT_S[given[2]]
        return Call(
            unary=unary or _no_method,
            timeout_s=timeout_s,
            content_length=length,
            encoding=fields.get(b"grpc-encoding", b""),
            plain=begin is None,
            begin=begin,
        )

    def check_prefix(self, body: bytes | bytearray) -> None:
        """Refuse a body as early as its first bytes tell; raises GrpcError."""
        if len(body) < PREFIX_BYTES:
            return
        length = int.from_bytes(body[1:PREFIX_BYTES], "big")
        if length > self.max_message_bytes:
            raise GrpcError(Status.RESOURCE_EXHAUSTED, f"a message has at most {self.max_message_bytes} bytes")
        if len(body) > PREFIX_BYTES + length:
            raise GrpcError(Status.INTERNAL, "more than one message")

    def message(self, body: bytes | bytearray, encoding: bytes) -> bytes:
        """Give the one message of a whole body; raises GrpcError."""
        self.check_prefix(body)
        if not body:
            raise GrpcError(Status.INTERNAL, "no message")
        if len(body) < PREFIX_BYTES or len(body) != PREFIX_BYTES + int.from_bytes(body[1:PREFIX_BYTES], "big"):
            raise GrpcError(Status.INTERNAL, "a message that is cut off")
        match body[0]:
            case 0:
                return bytes(body[PREFIX_BYTES:])
            case 1 if encoding not in _NOT_COMPRESSED:  # compression.md: "UNIMPLEMENTED", and what is accepted
                raise GrpcError(Status.UNIMPLEMENTED, "compressed messages are not read")
            case 1:
                raise GrpcError(Status.INTERNAL, "a compressed message without its grpc-encoding")
            case _:
                raise GrpcError(Status.INTERNAL, "a compressed-flag that is neither 0 nor 1")


def _without_body(answer: Answer, request: Request) -> Answer:
    return Answer(head=answer.head) if request.method == b"HEAD" else answer

"""The messages of a gRPC stream: where each one ends, and which calls are gRPC at all. Pure.

An echo passes the bytes on as they come; a message is never held, whatever its length. Only the first message of a
call that asks for a stream is kept, because it is what each tick repeats.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import re
from enum import IntEnum

from authz.mesh.errors import MeshError

#: Length-Prefixed-Message: one byte of flags and four of length
PREFIX_BYTES = 5
#: what one call may have repeated each 100 ms
MAX_REPEATED_BYTES = 64 * 1024

_COMPRESSED_FLAGS = (0, 1)
_GRPC_CONTENT = re.compile(r"application/grpc(?:[+;].*)?", re.IGNORECASE)


class GrpcStatus(IntEnum):
    """The status codes that the echo app uses."""

    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class GrpcFault(MeshError):  # noqa: N818 it is an answer to the caller, not a failure
    """A call's bytes are no messages, or more than can be repeated; `status` says so to the caller."""

    def __init__(self, message: str, *, status: GrpcStatus) -> None:
        super().__init__(message)
        self.status = status


class MessageEnds:
    """Follows the messages of one stream through chunks of any size without keeping them."""

    __slots__ = ("_missing", "_prefix")

    def __init__(self) -> None:
        self._prefix = bytearray()
        self._missing = 0

    @property
    def between_messages(self) -> bool:
        """Whether everything so far was whole messages."""
        return not self._prefix and not self._missing

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream; raises GrpcFault for a prefix that no message has."""
        at = 0
        while at < len(data):
            if self._missing:
                step = min(self._missing, len(data) - at)
                self._missing -= step
                at += step
                continue
            step = min(PREFIX_BYTES - len(self._prefix), len(data) - at)
            self._prefix += data[at : at + step]
            at += step
            if len(self._prefix) == PREFIX_BYTES:
                self._missing = message_length(self._prefix)
                self._prefix.clear()


class FirstMessage:
    """Collects the first message of a stream, its prefix included, and drops what follows."""

    __slots__ = ("_bytes", "whole")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.whole: bytes | None = None

    @property
    def begun(self) -> bool:
        """Whether a part of the message is there and the rest is missing."""
        return self.whole is None and bool(self._bytes)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream; raises GrpcFault for a message that is too long or none."""
        if self.whole is not None:
            return
        self._bytes += data
        if len(self._bytes) < PREFIX_BYTES:
            return
        length = message_length(self._bytes)
        if length > MAX_REPEATED_BYTES:
            raise GrpcFault(
                f"a streamed message has at most {MAX_REPEATED_BYTES} bytes, this one {length}",
                status=GrpcStatus.RESOURCE_EXHAUSTED,
            )
        if len(self._bytes) >= PREFIX_BYTES + length:
            self.whole = bytes(self._bytes[: PREFIX_BYTES + length])
            self._bytes.clear()


def is_grpc(method: str, content_type: str) -> bool:
    """Whether an HTTP/2 request is a gRPC call; gRPC-Web is not."""
    return method == "POST" and _GRPC_CONTENT.fullmatch(content_type) is not None


def message_length(prefix: bytes | bytearray) -> int:
    """Read a message's prefix; raises GrpcFault where it is none."""
    if prefix[0] not in _COMPRESSED_FLAGS:
        raise GrpcFault(f"`{prefix[0]}` is no compressed-flag of a message", status=GrpcStatus.INTERNAL)
    return int.from_bytes(prefix[1:PREFIX_BYTES], "big")


def trailers(status: GrpcStatus, message: str = "") -> list[tuple[bytes, bytes]]:
    """Give the trailers that end a call; the message is percent-encoded where it has to be."""
    fields = [(b"grpc-status", b"%d" % status)]
    if message:
        encoded = "".join(chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in message.encode())  # noqa: PLR2004 printable ASCII but `%`
        fields.append((b"grpc-message", encoded.encode()))
    return fields

"""The few HTTP/2 frames that a measurement writes and knows apart (RFC 9113), for both sides of a connection."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
DEFAULT_WINDOW_BYTES = 65_535
WINDOW_BYTES = 2**31 - 1
#: a connection's window is opened again after so much of it was used
WINDOW_STEP_BYTES = 2**30
#: length and kind, flags, stream
FRAME_HEADER = Struct(">IBI")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """Write a header field of at most 126 bytes each that no table remembers (RFC 7541 6.2.2)."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def window_update(size_bytes: int) -> bytes:
    """Open the connection's window further."""
    return frame(WINDOW_UPDATE, 0, 0, size_bytes.to_bytes(4, "big"))


def grpc_message(message: bytes) -> bytes:
    """Put the prefix of a message that is not compressed before it."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def greeting() -> bytes:
    """Remember no header fields, and open all windows as far as they go."""
    settings = b"".join(
        name.to_bytes(2, "big") + value.to_bytes(4, "big")
        for name, value in ((HEADER_TABLE_SIZE, 0), (INITIAL_WINDOW_SIZE, WINDOW_BYTES))
    )
    return frame(SETTINGS, 0, 0, settings) + window_update(WINDOW_BYTES - DEFAULT_WINDOW_BYTES)

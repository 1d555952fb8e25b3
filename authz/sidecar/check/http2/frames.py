"""Frames as bytes: their header, how ours are made, and what a payload may look like before it is looked into.

RFC 9113 4.1 (https://www.rfc-editor.org/rfc/rfc9113#section-4.1): three bytes of length, one of type, one of flags,
four of stream id, whose first bit means nothing. What a frame changes is :mod:`.connection`'s and :mod:`.streams`'.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from authz.sidecar.check.http2.errors import BrokenConnectionError, ErrorCode
from authz.sidecar.check.http2.limits import MAX_FRAME_BYTES, MAX_WINDOW_BYTES

#: RFC 9113 3.4
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_BYTES: Final = 9
#: length and type in one number; the id signed, so that one with its reserved bit set is negative
FRAME_HEADER: Final = Struct(">IBi")
STREAM_ID_MASK: Final = 0x7FFF_FFFF

SETTING_HEADER_TABLE_SIZE: Final = 0x1
SETTING_ENABLE_PUSH: Final = 0x2
SETTING_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTING_INITIAL_WINDOW_SIZE: Final = 0x4
SETTING_MAX_FRAME_SIZE: Final = 0x5
SETTING_MAX_HEADER_LIST_SIZE: Final = 0x6
#: RFC 9218 2.1
SETTING_NO_RFC7540_PRIORITIES: Final = 0x9
_SETTING: Final = Struct(">HI")
_LARGEST_FRAME_BYTES: Final = 2**24 - 1
_UINT32: Final = Struct(">I")
_PING_BYTES: Final = 8
_PRIORITY_BYTES: Final = 5
_GOAWAY_BYTES: Final = 8


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Make a frame."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings_frame(settings: dict[int, int]) -> bytes:
    """Make our SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in settings.items()))


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """Give a window back."""
    return frame(WINDOW_UPDATE, 0, stream_id, _UINT32.pack(increment))


def rst_stream_frame(stream_id: int, code: ErrorCode) -> bytes:
    """End a stream."""
    return frame(RST_STREAM, 0, stream_id, _UINT32.pack(code))


def goaway_frame(last_stream: int, code: ErrorCode, text: str) -> bytes:
    """Say which streams are the last, and why."""
    return frame(GOAWAY, 0, 0, _UINT32.pack(last_stream) + _UINT32.pack(code) + text.encode())


def unpadded(payload: bytes, flags: int) -> bytes:
    """Give what is left without padding (RFC 9113 6.1, 6.2)."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its pad length")
    if payload[0] >= len(payload):
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def header_fragment(payload: bytes, flags: int, stream_id: int) -> bytes:
    """Give the part of the header block in a HEADERS frame (RFC 9113 6.2)."""
    payload = unpadded(payload, flags)
    if not flags & HAS_PRIORITY:
        return payload
    if len(payload) < _PRIORITY_BYTES:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS with a priority that is cut off")
    _refuse_self_dependency(payload, stream_id)
    return payload[_PRIORITY_BYTES:]


def check_priority(payload: bytes, stream_id: int) -> None:
    """Refuse what is no PRIORITY frame; one that is says nothing any more (RFC 9113 5.3.2, 6.3)."""
    _refuse_stream_0(stream_id, "PRIORITY")
    if len(payload) != _PRIORITY_BYTES:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes, not 5")
    _refuse_self_dependency(payload, stream_id)


def check_rst_stream(payload: bytes, stream_id: int) -> None:
    """Refuse what is no RST_STREAM frame; why a peer resets a stream changes nothing (RFC 9113 6.4)."""
    _refuse_stream_0(stream_id, "RST_STREAM")
    if len(payload) != _UINT32.size:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes, not 4")


def window_increment(payload: bytes) -> int:
    """Give the increment of a WINDOW_UPDATE frame (RFC 9113 6.9)."""
    if len(payload) != _UINT32.size:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes, not 4")
    increment = _uint32(payload) & STREAM_ID_MASK
    if not increment:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
    return increment


def check_ping(payload: bytes, stream_id: int) -> None:
    """Refuse what is no PING frame (RFC 9113 6.7)."""
    _refuse_stream(stream_id, "PING")
    if len(payload) != _PING_BYTES:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes, not 8")


def check_goaway(payload: bytes, stream_id: int) -> None:
    """Refuse what is no GOAWAY frame; to a server, which opens no streams, one changes nothing (RFC 9113 6.8)."""
    _refuse_stream(stream_id, "GOAWAY")
    if len(payload) < _GOAWAY_BYTES:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes, fewer than 8")


def check_settings(payload: bytes, flags: int, stream_id: int) -> None:
    """Refuse settings of a stream, and an ACK that brings settings (RFC 9113 6.5)."""
    _refuse_stream(stream_id, "SETTINGS")
    if flags & ACK and payload:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS ACK with a payload")


def settings_from(payload: bytes) -> dict[int, int]:
    """Read the peer's SETTINGS; of a setting that stands twice, the later value is in force (RFC 9113 6.5, 6.5.2)."""
    if len(payload) % _SETTING.size:
        raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes, no multiple of 6")
    settings = {}
    for name, value in _SETTING.iter_unpack(payload):
        if name in {SETTING_ENABLE_PUSH, SETTING_NO_RFC7540_PRIORITIES} and value > 1:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"setting {name} is {value}, neither 0 nor 1")
        if name == SETTING_INITIAL_WINDOW_SIZE and value > MAX_WINDOW_BYTES:
            raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
        if name == SETTING_MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value <= _LARGEST_FRAME_BYTES:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"a maximum frame size of {value} bytes")
        settings[name] = value
    return settings


def _uint32(payload: bytes) -> int:
    return int.from_bytes(payload, "big")


def _refuse_stream_0(stream_id: int, name: str) -> None:
    if not stream_id:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"{name} on stream 0")


def _refuse_stream(stream_id: int, name: str) -> None:
    if stream_id:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"{name} on a stream")


def _refuse_self_dependency(payload: bytes, stream_id: int) -> None:
    # RFC 7540 5.3.1; RFC 9113 gives priorities no meaning, and no honest client says this
    if _uint32(payload[:4]) & STREAM_ID_MASK == stream_id:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")

"""What a peer can do wrong, and how far the harm goes: a stream, or the connection.

RFC 9113 5.4 lets a server treat any stream error as a connection error. It is done wherever an honest peer cannot come
to it: whoever breaks the framing is not read any further.
"""

from __future__ import annotations

from enum import IntEnum

from authz.errors import AuthzError


class ErrorCode(IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(AuthzError):
    """The peer broke HTTP/2, or asked for more than is given."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class BrokenConnectionError(Http2Error):
    """The connection ends with GOAWAY (RFC 9113 5.4.1)."""


class BrokenStreamError(Http2Error):
    """The stream ends with RST_STREAM, the others go on (RFC 9113 5.4.2)."""

"""What h2 is shown of a client's frames: all but its GOAWAYs, and none that is longer than allowed.

A GOAWAY says that the sender takes no new streams of the other side: for a server, which opens none, it changes
nothing, and what was asked before is to be answered (RFC 9113 6.8). h2 closes the whole connection at it and drops
what waits to be sent.

h2 refuses a frame for its length only when it has all of it, which can be 16 MiB; here its header is enough.

Everything else is passed on as it is: judging it is h2's task.
"""

from __future__ import annotations

from authz.mesh.errors import MeshError

#: RFC 9113 3.4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: RFC 9113 4.2: the longest payload that every peer takes, and the longest that we take
MAX_FRAME_BYTES = 16_384
#: RFC 9113 4.1: three bytes of length, one of type, one of flags, four of stream id
_HEADER_BYTES = 9
_GOAWAY = 0x07


class FrameTooLongError(MeshError):
    """A frame says that it is longer than allowed (FRAME_SIZE_ERROR)."""


class ClientFrames:
    """Takes a client's bytes from its preface on, in chunks of any size; gives back what h2 is to see."""

    __slots__ = ("_header", "_payload_missing", "_preface_missing", "_skips")

    def __init__(self) -> None:
        self._preface_missing = len(PREFACE)
        self._header = b""
        self._payload_missing = 0
        self._skips = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; the start of a frame waits until its type is known. Raises FrameTooLongError."""
        at = min(self._preface_missing, len(data))
        self._preface_missing -= at
        shown = [data[:at]]
        while at < len(data):
            if not self._payload_missing:
                missing = _HEADER_BYTES - len(self._header)
                self._header += data[at : at + missing]
                at += missing
                if len(self._header) < _HEADER_BYTES:
                    break
                self._begin(self._header)
                if not self._skips:
                    shown.append(self._header)
                self._header = b""
            payload = data[at : at + self._payload_missing]
            if not self._skips:
                shown.append(payload)
            self._payload_missing -= len(payload)
            at += len(payload)
        return b"".join(shown)

    def _begin(self, header: bytes) -> None:
        self._payload_missing = int.from_bytes(header[:3], "big")
        if self._payload_missing > MAX_FRAME_BYTES:
            raise FrameTooLongError(f"a frame of {self._payload_missing} bytes, where {MAX_FRAME_BYTES} are allowed")
        self._skips = header[3] == _GOAWAY

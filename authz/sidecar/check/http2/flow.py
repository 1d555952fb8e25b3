"""Flow control: what the peer may still send us, and what we may still send it (RFC 9113 5.2, 6.9).

INVARIANT (no byte beyond a window): what we send of an answer's body fits the connection's window and the stream's; the
rest waits, in order, until the peer opens them. A peer that lets too much wait loses the stream that is too much
(:mod:`.streams`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.sidecar.check.http2.errors import BrokenConnectionError, BrokenStreamError, ErrorCode
from authz.sidecar.check.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame
from authz.sidecar.check.http2.limits import DEFAULT_WINDOW_BYTES, MAX_FRAME_BYTES, MAX_WINDOW_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

#: sent bytes for which the peer may well send a WINDOW_UPDATE of its own
_BYTES_PER_UPDATE: Final = 1024


class ReceiveWindow:
    """What the peer may still send.

    INVARIANT (never overrun): what is received is read or dropped at once, and the window is opened again as soon as
    less than half of it is left, which is more than a frame: no peer can send beyond it. What bounds memory is what may
    be *held*.
    """

    __slots__ = ("full", "left", "low")

    def __init__(self, full: int) -> None:
        """Begin with all of it."""
        self.full = full
        self.left = full
        self.low = full // 2

    def refill(self) -> int:
        """Give the increment that opens all of the window again; due when `left` is below `low`."""
        increment = self.full - self.left
        self.left = self.full
        return increment


class Outgoing:
    """The sending side of a stream: its window, and what of the answer waits for it."""

    __slots__ = ("rest", "send_left", "stays", "stream_id", "trailers")

    def __init__(self, stream_id: int, send_left: int) -> None:
        """Begin with nothing to send."""
        self.stream_id = stream_id
        self.send_left = send_left
        self.rest = memoryview(b"")
        self.trailers: bytes | None = None
        self.stays = False  # more may follow, whatever is sent by now


class SendFlow:
    """The peer's windows, and the answers that wait for them."""

    __slots__ = ("_out", "_queue", "initial", "left", "quick_bytes", "updates_earned", "waiting_bytes")

    def __init__(self, out: list[bytes]) -> None:
        """Append frames to `out`."""
        self._out = out
        self._queue: dict[int, Outgoing] = {}  # whose stream's window is open; in the order of their answers
        self.left = DEFAULT_WINDOW_BYTES
        self.initial = DEFAULT_WINDOW_BYTES
        #: a body of so many bytes is one frame, and fits the window of a stream that has had none
        self.quick_bytes = MAX_FRAME_BYTES
        self.waiting_bytes = 0
        self.updates_earned = 0

    def send(self, outgoing: Outgoing) -> bool:
        """Send the body and the trailers as far as the windows are open; whether that was all."""
        if self._push(outgoing):
            return True
        self.waiting_bytes += len(outgoing.rest)
        if outgoing.send_left > 0:
            self._queue[outgoing.stream_id] = outgoing
        return False

    def forget(self, outgoing: Outgoing) -> None:
        """Send nothing more of this stream."""
        self.waiting_bytes -= len(outgoing.rest)
        outgoing.rest = memoryview(b"")
        self._queue.pop(outgoing.stream_id, None)

    def widen(self, increment: int) -> list[Outgoing]:
        """Open the connection's window; give the streams that are now done. Raises BrokenConnectionError."""
        self.left += increment
        if self.left > MAX_WINDOW_BYTES:
            raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window goes beyond 2^31-1")
        return self._flush()

    def widen_stream(self, outgoing: Outgoing, increment: int) -> list[Outgoing]:
        """Open a stream's window; as `widen`, but raises BrokenStreamError."""
        outgoing.send_left += increment
        if outgoing.send_left > MAX_WINDOW_BYTES:
            raise BrokenStreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window goes beyond 2^31-1")
        self._enqueue(outgoing)
        return self._flush()

    def change_initial(self, initial: int, streams: Iterable[Outgoing]) -> list[Outgoing]:
        """Change every stream's window by as much as the setting (RFC 9113 6.9.2); as `widen`."""
        change = initial - self.initial
        self.initial = initial
        self.quick_bytes = min(initial, MAX_FRAME_BYTES)
        for outgoing in streams:
            outgoing.send_left += change
            if outgoing.send_left > MAX_WINDOW_BYTES:
                raise BrokenConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window goes beyond 2^31-1")
            if outgoing.send_left <= 0:
                self._queue.pop(outgoing.stream_id, None)
            else:
                self._enqueue(outgoing)
        return self._flush()

    def _enqueue(self, outgoing: Outgoing) -> None:
        if outgoing.rest and outgoing.send_left > 0:
            self._queue.setdefault(outgoing.stream_id, outgoing)

    def _flush(self) -> list[Outgoing]:
        done = []
        while self._queue and self.left > 0:
            outgoing = next(iter(self._queue.values()))
            before = len(outgoing.rest)
            if self._push(outgoing):
                done.append(outgoing)
            self.waiting_bytes -= before - len(outgoing.rest)
            if not outgoing.rest or outgoing.send_left <= 0:
                del self._queue[outgoing.stream_id]
        return done

    def _push(self, outgoing: Outgoing) -> bool:
        stream_id = outgoing.stream_id
        while outgoing.rest:
            # INVARIANT (no byte beyond a window): it is held here, and on the quick way of `connection`.
            size = min(len(outgoing.rest), self.left, outgoing.send_left, MAX_FRAME_BYTES)
            if size <= 0:
                return False
            self.left -= size
            outgoing.send_left -= size
            self.updates_earned += size // _BYTES_PER_UPDATE
            part, outgoing.rest = outgoing.rest[:size], outgoing.rest[size:]
            ends = not outgoing.rest and outgoing.trailers is None and not outgoing.stays
            self._out.append(frame(DATA, END_STREAM if ends else 0, stream_id, bytes(part)))
        if outgoing.trailers is not None:
            self._out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream_id, outgoing.trailers))
        return True

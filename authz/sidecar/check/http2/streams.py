"""The streams of one connection that are not closed yet, from a request's header section to the end of its answer.

A stream is here while its request is incomplete or its answer waits for a window; the quick way of :mod:`.connection`
answers whole requests without one.

INVARIANT (one whole message, one answer): a method is called with the one message of a request that has ended well, or
not at all; nothing else gives an answer with status OK.
INVARIANT (bounded): at most MAX_STREAMS streams, MAX_HELD_BYTES of unfinished messages, and MAX_WAITING_BYTES of
answers.

RFC 9113 5.1 (stream states), 8.1 (requests).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from authz.sidecar.check.http2.errors import BrokenConnectionError, ErrorCode
from authz.sidecar.check.http2.flow import Outgoing, ReceiveWindow
from authz.sidecar.check.http2.frames import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    frame,
    rst_stream_frame,
    window_update_frame,
)
from authz.sidecar.check.http2.grpc import (
    EXPIRED,
    FAILED,
    PREFIX_BYTES,
    TOO_MANY_BYTES,
    Call,
    GrpcError,
    answered,
    refused,
)
from authz.sidecar.check.http2.headers import EMPTY_TABLE
from authz.sidecar.check.http2.limits import (
    EMPTY_FRAMES,
    MAX_GAPS,
    MAX_HELD_BYTES,
    MAX_RESET_STREAMS,
    MAX_STREAMS,
    MAX_WAITING_BYTES,
    RESETS,
    STREAM_TIMEOUT_S,
    STREAM_WINDOW_BYTES,
    Budget,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from authz.sidecar.check.http2.flow import SendFlow
    from authz.sidecar.check.http2.grpc import Answer, Service


#: there is nothing left to ask
_ANSWERED: Final = Call()


class Stream(Outgoing):
    """A stream that is open, or half-closed because its answer is not out yet."""

    __slots__ = ("body", "call", "due_s", "ended", "expires_s", "received_bytes", "window")

    def __init__(self, stream_id: int, call: Call, *, send_left: int, now_s: float) -> None:
        """Begin with the header section."""
        super().__init__(stream_id, send_left)
        self.call = call
        self.body = bytearray()
        self.received_bytes = 0
        self.ended = False
        self.window = ReceiveWindow(STREAM_WINDOW_BYTES)
        self.expires_s = now_s + call.timeout_s
        self.due_s = min(self.expires_s, now_s + STREAM_TIMEOUT_S)


class Streams:
    """All that is known of a connection's streams; frames go to `out`."""

    __slots__ = (
        "_clock",
        "_empty",
        "_failed",
        "_flow",
        "_gaps",
        "_held_bytes",
        "_out",
        "_reset",
        "_resets",
        "_service",
        "due_s",
        "last",
        "now_s",
        "open",
        "opening",
    )

    def __init__(
        self,
        *,
        service: Service,
        flow: SendFlow,
        out: list[bytes],
        clock: Callable[[], float],
        failed: Callable[[Exception], None],
    ) -> None:
        """Begin with none; `failed` is told what a method raises."""
        self._service = service
        self._flow = flow
        self._out = out
        self._clock = clock
        self._failed = failed
        self.now_s = clock()
        self.open: dict[int, Stream] = {}
        self._reset: dict[int, int] = {}  # by us before they ended: what of their window is left to late frames
        self._gaps: list[range] = []
        self._held_bytes = 0
        self._resets = Budget(RESETS, self.now_s)
        self._empty = Budget(EMPTY_FRAMES, self.now_s)
        self.last = -1
        #: the earliest instant at which a stream may have to end by itself; never too late
        self.due_s = inf
        #: RFC 9113 4.3.1: our first header block begins with it, so that no setting of the peer's concerns our encoder
        self.opening = EMPTY_TABLE

    # --- the request

    def check_id(self, stream_id: int) -> bool:
        """Whether HEADERS open a stream; raises BrokenConnectionError where they can do neither that nor end one."""
        if stream_id in self.open or stream_id in self._reset:
            return False
        if not stream_id & 1:
            raise BrokenConnectionError(
                ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's to open"
            )
        if stream_id > self.last:
            return True
        # RFC 9113 5.1.1: what was skipped is closed without ever having been used
        if any(stream_id in gap for gap in self._gaps):
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream id that is not greater than the last")
        raise BrokenConnectionError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")

    def begin(self, stream_id: int) -> None:
        """Take note of a new stream's id."""
        if stream_id > self.last + 2:
            self._gaps.append(range(self.last + 2, stream_id, 2))
            del self._gaps[:-MAX_GAPS]
        self.last = stream_id

    def start(self, stream_id: int, call: Call, *, ended: bool) -> None:
        """Open a stream. Raises BrokenConnectionError where there are too many resets."""
        if len(self.open) >= MAX_STREAMS:  # RFC 9113 5.1.2
            self.cut(stream_id, ErrorCode.REFUSED_STREAM, ended=ended)
            return
        stream = self._made(stream_id, call)
        self.open[stream_id] = stream
        self.due_s = min(self.due_s, stream.due_s)
        stream.ended = ended
        if call.refusal is not None and call.at_once:
            self._answer(stream, call.refusal)
        elif ended:
            self._complete(stream)

    def _made(self, stream_id: int, call: Call) -> Stream:
        return Stream(stream_id, call, send_left=self._flow.initial, now_s=self.now_s)

    def end_with_trailers(self, stream_id: int) -> None:
        """End a request that is followed by trailers, which gRPC gives no meaning."""
        stream = self.open.get(stream_id)
        if stream is None:
            self._reset.pop(stream_id, None)
        elif stream.ended:
            self.cut(stream_id, ErrorCode.STREAM_CLOSED, ended=True)
        else:
            stream.ended = True
            self._complete(stream)

    def data(self, stream_id: int, data: bytes, *, flow_bytes: int, ended: bool) -> None:
        """Take a part of a body; `flow_bytes` counts its padding too. Raises BrokenConnectionError."""
        stream = self.open.get(stream_id)
        if stream is None:
            self._late_data(stream_id, flow_bytes, ended=ended)
            return
        if stream.ended:
            self.cut(stream_id, ErrorCode.STREAM_CLOSED, ended=True)
            return
        if not data and not ended and not self._empty.spend(self.now_s, self.last >> 1):
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many empty DATA frames")
        stream.window.left -= flow_bytes
        stream.ended = ended
        stream.received_bytes += len(data)
        if not self._keep(stream, data):
            return
        if ended:
            self._complete(stream)
            return
        if stream.window.left < stream.window.low:
            self._out.append(window_update_frame(stream_id, stream.window.refill()))

    def reset_by_peer(self, stream_id: int) -> None:
        """Forget a stream. Raises BrokenConnectionError where there are too many resets, or it has not begun."""
        self.check_begun(stream_id, "RST_STREAM")
        self._count_reset()
        self._reset.pop(stream_id, None)
        stream = self.open.get(stream_id)
        if stream is not None:
            self.close(stream)

    def check_begun(self, stream_id: int, name: str) -> None:
        """Refuse a frame on an idle stream (RFC 9113 5.1); raises BrokenConnectionError."""
        if stream_id > self.last or not stream_id & 1:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, f"{name} on an idle stream")

    def _late_data(self, stream_id: int, flow_bytes: int, *, ended: bool) -> None:
        self.check_begun(stream_id, "DATA")
        left = self._reset.get(stream_id)
        if left is None:
            raise BrokenConnectionError(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")
        if left < flow_bytes:
            raise BrokenConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window of a stream that was reset"
            )
        if not flow_bytes and not ended and not self._empty.spend(self.now_s, self.last >> 1):
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many empty DATA frames")
        if ended:
            del self._reset[stream_id]
        else:
            self._reset[stream_id] = left - flow_bytes

    def _keep(self, stream: Stream, data: bytes) -> bool:
        """Keep a part of the body; whether the stream goes on."""
        if stream.call.refusal is not None:  # only counted
            if stream.received_bytes > PREFIX_BYTES + self._service.max_message_bytes:
                self._answer(stream, stream.call.refusal)
                return False
            return True
        stream.body += data
        self._held_bytes += len(data)
        try:
            self._service.check_prefix(stream.body)
        except GrpcError as error:
            self._answer(stream, refused(error.status, str(error)))
            return False
        if self._held_bytes > MAX_HELD_BYTES and not stream.ended:
            self._answer(stream, TOO_MANY_BYTES)
            return False
        return True

    # --- the answer

    def _complete(self, stream: Stream) -> None:
        call = stream.call
        if call.content_length is not None and call.content_length != stream.received_bytes:  # RFC 9113 8.1.1
            self.cut(stream.stream_id, ErrorCode.PROTOCOL_ERROR, ended=True)
        elif call.refusal is not None:
            self._answer(stream, call.refusal)
        elif call.timeout_s != inf and self._clock() >= stream.expires_s:
            self._answer(stream, EXPIRED)
        else:
            # INVARIANT (one whole message, one answer): here, and on the quick way of `connection`.
            try:
                answer = answered(call.unary(self._service.message(stream.body, call.encoding)))
            except Exception as error:  # noqa: BLE001 the outermost edge of a call: it fails alone
                answer = self.failure(error)
            self._answer(stream, answer)

    def failure(self, error: Exception) -> Answer:
        """Give the answer of a call whose method raised."""
        if isinstance(error, GrpcError):
            return refused(error.status, str(error))
        self._failed(error)
        return FAILED

    def answer_at_once(self, stream_id: int, answer: Answer) -> None:
        """Answer a whole request that was never opened as a stream."""
        stream = Stream(stream_id, _ANSWERED, send_left=self._flow.initial, now_s=self.now_s)
        stream.ended = True
        self.open[stream_id] = stream
        self._answer(stream, answer)

    def _answer(self, stream: Stream, answer: Answer) -> None:
        self._release(stream)
        head = self.opening + answer.head
        self.opening = b""
        stream.rest, stream.trailers = memoryview(answer.body), answer.trailers
        ends = not answer.body and answer.trailers is None
        self._out.append(frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream.stream_id, head))
        if self._flow.send(stream):
            self._finish(stream)
            return
        self._waits(stream)
        if self._flow.waiting_bytes > MAX_WAITING_BYTES:
            self.cut(stream.stream_id, ErrorCode.ENHANCE_YOUR_CALM, ended=stream.ended)

    def _waits(self, stream: Stream) -> None:
        stream.due_s = self.now_s + STREAM_TIMEOUT_S
        self.due_s = min(self.due_s, stream.due_s)

    def finished(self, streams: Iterable[Outgoing]) -> None:
        """Close the streams whose answer is out."""
        for each in streams:
            self._finish(self.open[each.stream_id])

    def _finish(self, stream: Stream) -> None:
        # RFC 9113 8.1: a whole answer before the end of the request, and then the client is asked to stop
        if stream.ended:
            self.close(stream)
        else:
            self.cut(stream.stream_id, ErrorCode.NO_ERROR, ended=False)

    # --- the end

    def cut(self, stream_id: int, code: ErrorCode, *, ended: bool) -> None:
        """Reset a stream; drop what may still come where the peer has not ended it. Raises BrokenConnectionError."""
        self._count_reset()
        stream = self.open.get(stream_id)
        left = STREAM_WINDOW_BYTES
        if stream is not None:
            left = stream.window.left
            self.close(stream)
        if not ended:
            if len(self._reset) >= MAX_RESET_STREAMS:
                del self._reset[next(iter(self._reset))]
            self._reset[stream_id] = left
        self._out.append(rst_stream_frame(stream_id, code))

    def expire(self) -> None:
        """End the streams whose time is over. Raises BrokenConnectionError."""
        for stream in list(self.open.values()):
            if stream.due_s > self.now_s:
                continue
            if stream.rest or stream.due_s < stream.expires_s:
                self.cut(stream.stream_id, ErrorCode.CANCEL, ended=stream.ended)
            else:
                self._answer(stream, EXPIRED)
        self.due_s = min((stream.due_s for stream in self.open.values()), default=inf)

    def close(self, stream: Stream) -> None:
        """Forget a stream."""
        self._release(stream)
        self._flow.forget(stream)
        del self.open[stream.stream_id]
        if not self.open:
            self.due_s = inf

    def lost(self) -> None:
        """Forget all of them: the connection is gone."""
        for stream in list(self.open.values()):
            self.close(stream)

    def _release(self, stream: Stream) -> None:
        if stream.body:
            self._held_bytes -= len(stream.body)
            stream.body = bytearray()

    def _count_reset(self) -> None:
        if not self._resets.spend(self.now_s, 0):
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many streams are reset")

"""Streams that stay open: messages are heard one by one as they come, and what is said goes out at any time.

The calls of other methods are answered as :mod:`.streams` does. A stream that stays open ends with its client's end or
reset, with the connection, at its deadline, or behind the last message of its method.

INVARIANT (told once): who listens to a stream is told of its end exactly once, however that comes, and hears nothing
afterwards.
INVARIANT (bounded): as in `streams`; what is said and finds no window counts as an answer that waits.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from authz.sidecar.check.http2.errors import BrokenConnectionError, ErrorCode
from authz.sidecar.check.http2.frames import END_HEADERS, HEADERS, frame
from authz.sidecar.check.http2.grpc import (
    GRPC_HEAD,
    GRPC_TRAILERS,
    PREFIX_BYTES,
    TOO_MANY_BYTES,
    Answer,
    Status,
    framed,
    refused,
)
from authz.sidecar.check.http2.limits import MAX_HELD_BYTES, MAX_WAITING_BYTES
from authz.sidecar.check.http2.streams import Stream, Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.http2.flow import SendFlow
    from authz.sidecar.check.http2.grpc import Begin, Call, Listener, Service

#: to a client that ends before anything was said: one HEADERS frame ("Trailers-Only")
_NOTHING: Final = Answer(head=GRPC_HEAD + GRPC_TRAILERS)
_CUT_OFF: Final = refused(Status.INTERNAL, "a message that is cut off")


class OpenStream(Stream):
    """A stream that stays open; it is the Speaker of its method."""

    __slots__ = ("_streams", "deadline_s", "has_head", "is_over", "listener")

    def __init__(
        self, stream_id: int, call: Call, begin: Begin, *, streams: OpenStreams, send_left: int, now_s: float
    ) -> None:
        """Begin with the header section."""
        super().__init__(stream_id, call, send_left=send_left, now_s=now_s)
        self._streams = streams
        self.stays = True
        self.has_head = self.is_over = False
        # When its time is over it is reset, as there is no answer that could be refused any more.
        self.deadline_s, self.expires_s = self.expires_s, inf
        self.listener: Listener | None = begin(self)

    def say(self, message: bytes) -> None:
        """Send a message, as soon as there is a window for it; one that is over says nothing more."""
        if not self.is_over:
            self._streams.say(self, message)

    def end(self, message: bytes, trailers: bytes) -> None:
        """Send a last message and these trailers, and end the stream."""
        if not self.is_over:
            self.is_over = True
            self.stays = False
            self.trailers = trailers
            self._streams.say(self, message)


class OpenStreams(Streams):
    """The streams of a service that has methods whose calls stay open.

    `woken` is called when something was said; `fault` is what is to end the connection then.
    """

    __slots__ = ("fault", "woken")

    def __init__(
        self,
        *,
        service: Service,
        flow: SendFlow,
        out: list[bytes],
        clock: Callable[[], float],
        failed: Callable[[Exception], None],
    ) -> None:
        """Begin with none."""
        super().__init__(service=service, flow=flow, out=out, clock=clock, failed=failed)
        self.woken: Callable[[], None] = _nobody
        self.fault: BrokenConnectionError | None = None

    def say(self, stream: OpenStream, message: bytes) -> None:
        """Send a message of a stream, and its trailers where that was the last one; raises nothing."""
        body = framed(message)
        if not stream.has_head:
            stream.has_head = True
            head, self.opening = self.opening + GRPC_HEAD, b""
            self._out.append(frame(HEADERS, END_HEADERS, stream.stream_id, head))
        try:
            if stream.rest:  # what follows waits behind it
                stream.rest = memoryview(bytes(stream.rest) + body)
                self._flow.waiting_bytes += len(body)
            else:
                stream.rest = memoryview(body)
                self._send(stream)
            if self._flow.waiting_bytes > MAX_WAITING_BYTES and stream.stream_id in self.open:
                self.cut(stream.stream_id, ErrorCode.ENHANCE_YOUR_CALM, ended=stream.ended)
        except BrokenConnectionError as fault:
            self.fault = fault
        self.woken()

    def close(self, stream: Stream) -> None:
        """Forget a stream, and tell who listens to it."""
        super().close(stream)
        if isinstance(stream, OpenStream):
            stream.is_over = True
            # INVARIANT (told once)
            listener, stream.listener = stream.listener, None
            if listener is not None:
                listener.ended()

    # --- what differs from `streams`

    def _made(self, stream_id: int, call: Call) -> Stream:
        if call.begin is None:
            return super()._made(stream_id, call)
        return OpenStream(stream_id, call, call.begin, streams=self, send_left=self._flow.initial, now_s=self.now_s)

    def _keep(self, stream: Stream, data: bytes) -> bool:
        if not isinstance(stream, OpenStream):
            return super()._keep(stream, data)
        if stream.is_over:
            return False
        stream.body += data
        self._held_bytes += len(data)
        try:
            while (message := self._next_message(stream)) is not None:
                stream.due_s = stream.deadline_s  # it has begun in time, and may last
                if stream.listener is not None:
                    stream.listener.heard(message)
        except Exception as error:  # noqa: BLE001 the outermost edge of a call: it fails alone
            self._fail(stream, self.failure(error))
        if self._held_bytes > MAX_HELD_BYTES:
            self._fail(stream, TOO_MANY_BYTES)
        return not stream.is_over

    def _next_message(self, stream: OpenStream) -> bytes | None:
        """Take a whole message out of what has come; raises GrpcError."""
        body = stream.body
        if stream.is_over or len(body) < PREFIX_BYTES:
            return None
        prefix = bytes(body[:PREFIX_BYTES])
        self._service.check_prefix(prefix)
        size = PREFIX_BYTES + int.from_bytes(prefix[1:], "big")
        if len(body) < size:
            return None
        message = self._service.message(body[:size], stream.call.encoding)
        del body[:size]
        self._held_bytes -= size
        return message

    def _complete(self, stream: Stream) -> None:
        length = stream.call.content_length
        if isinstance(stream, OpenStream) and stream.is_over:
            return  # its last words wait for a window, and stay what they are
        if not isinstance(stream, OpenStream) or (length is not None and length != stream.received_bytes):
            super()._complete(stream)
        elif stream.body:
            self._fail(stream, _CUT_OFF)
        else:
            stream.is_over = True
            stream.stays = False
            if not stream.has_head:
                self._answer(stream, _NOTHING)
                return
            stream.trailers = GRPC_TRAILERS
            if not stream.rest:
                self._send(stream)

    def _fail(self, stream: OpenStream, answer: Answer) -> None:
        """End a stream for a fault; one that has said something is reset."""
        if stream.stream_id not in self.open:
            return
        stream.is_over = True
        if stream.has_head:
            self.cut(stream.stream_id, ErrorCode.INTERNAL_ERROR, ended=stream.ended)
        else:
            stream.stays = False
            self._answer(stream, answer)

    def _send(self, stream: OpenStream) -> None:
        if self._flow.send(stream):
            self._finish(stream)
        elif not stream.stays:
            self._waits(stream)

    def _finish(self, stream: Stream) -> None:
        if not stream.stays:
            super()._finish(stream)


def _nobody() -> None:
    pass

"""One HTTP/2 connection of a server: bytes in, bytes out; no socket, no loop, and no clock but the one it is given.

Whole calls take the quick way: HEADERS whose block is known, and DATA that ends the stream with one message right
behind them, are answered without a stream, an object or a frame being made of them; so is such DATA that comes later.
Every other frame is :mod:`.session`'s. Both give the same bytes for the same input, however it is cut into chunks:
frames are answered one by one, and windows are given back at a mark, not at the end of a chunk.

INVARIANT (an error is the end): after a BrokenConnectionError there is a GOAWAY with its code, and nothing more is read
or answered.
INVARIANT (bounded): no more than a frame and a header block wait to be whole; when MAX_BATCH_BYTES are made, reading
stops (`held`) until they are written.

RFC 9113 (https://www.rfc-editor.org/rfc/rfc9113).
"""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import TYPE_CHECKING, Final

from authz.sidecar.check.http2 import frames
from authz.sidecar.check.http2.errors import BrokenConnectionError, ErrorCode
from authz.sidecar.check.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADER_BYTES,
    HEADERS,
    PREFACE,
    STREAM_ID_MASK,
)
from authz.sidecar.check.http2.grpc import EXPIRED, GRPC_HEAD, GRPC_TRAILERS, PREFIX_BYTES, answered
from authz.sidecar.check.http2.limits import (
    CONNECTION_WINDOW_BYTES,
    DEFAULT_WINDOW_BYTES,
    DRAIN_NOTICE_S,
    FRAME_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    MAX_BATCH_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_LIST_BYTES,
    MAX_STREAMS,
    PROBE_PATIENCE_S,
    STREAM_WINDOW_BYTES,
)
from authz.sidecar.check.http2.open_streams import OpenStreams
from authz.sidecar.check.http2.session import DRAIN_PING, PROBE_PING, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.http2.grpc import Call, Service

#: the header of a DATA frame and the prefix of the message in it
_DATA_AND_PREFIX: Final = Struct(">IBiBI")
_DATA_AND_PREFIX_BYTES: Final = _DATA_AND_PREFIX.size
_PREFIX: Final = Struct(">BI")
#: HEADERS of an answer, the header of its DATA and the prefix of its message; and its trailers
_ANSWER: Final = Struct(f">IBI{len(GRPC_HEAD)}sIBIBI")
_HEAD_WORD: Final = len(GRPC_HEAD) << 8 | HEADERS
_TRAILERS: Final = Struct(f">IBI{len(GRPC_TRAILERS)}s")
_TRAILERS_WORD: Final = len(GRPC_TRAILERS) << 8 | HEADERS
_TRAILERS_FLAGS: Final = END_HEADERS | END_STREAM

OUR_SETTINGS: Final = {
    frames.SETTING_HEADER_TABLE_SIZE: 0,
    frames.SETTING_MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    frames.SETTING_INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
    frames.SETTING_MAX_FRAME_SIZE: MAX_FRAME_BYTES,
    frames.SETTING_MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
}


class Connection(Session):
    """The server's side of one connection; `finished` says that it is to be closed, `held` that input waits in it."""

    __slots__ = (
        "_incomplete_since_s",
        "_is_draining",
        "_is_prefaced",
        "_known",
        "_probed_call",
        "_quick_message_bytes",
        "_settings",
        "_started_s",
        "_unread",
        "due_s",
        "held",
    )

    def __init__(
        self,
        *,
        service: Service,
        known: dict[bytes, Call],
        clock: Callable[[], float],
        failed: Callable[[Exception], None],
        table_bytes: int = 0,
    ) -> None:
        """Wait for the preface; `known` is shared by connections, `failed` is told what a method raises.

        `table_bytes` is the size of the peer's HPACK table: 0, or more for a peer that ignores the setting (which RFC
        9113 4.3.1 has refused); that costs the quick way.
        """
        super().__init__(service=service, known=known, clock=clock, failed=failed, table_bytes=table_bytes)
        self._settings = {**OUR_SETTINGS, frames.SETTING_HEADER_TABLE_SIZE: table_bytes}
        self._known = known
        self._started_s = self._now_s
        self._quick_message_bytes = min(service.max_message_bytes, MAX_FRAME_BYTES - PREFIX_BYTES)
        self._unread = b""
        self._is_prefaced = self._is_draining = False
        self._incomplete_since_s = inf  # what stands in `_unread` or in `_block`
        self._probed_call = -1
        self.held = False
        #: when `expire` is to be called; infinite where nothing is awaited
        self.due_s = self._started_s + HANDSHAKE_TIMEOUT_S

    def start(self) -> bytes:
        """Give what a server says first (RFC 9113 3.4)."""
        increment = CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES
        return frames.settings_frame(self._settings) + frames.window_update_frame(0, increment)

    def receive(self, data: bytes) -> bytes:
        """Take the peer's next bytes; give what is to be written. Call again with none while `held` is set."""
        if self.finished:
            return b""
        if self._unread:
            data = self._unread + data
        self._now_s = self._streams.now_s = self._clock()
        at = 0
        try:
            at = self._take_frames(data, 0) if self._is_prefaced else self._take_preface(data)
        except BrokenConnectionError as fault:
            self._fail(fault.code, str(fault))
            at = len(data)
        self._unread = data[at:]
        if not self._unread and self._block is None:
            self._incomplete_since_s = inf
        elif self._incomplete_since_s == inf or (at and self._block is None):
            self._incomplete_since_s = self._now_s
        return self._written()

    def expire(self) -> bytes:
        """End what has taken too long; as `receive`."""
        if self.finished:
            return b""
        self._now_s = self._streams.now_s = self._clock()
        now_s = self._now_s
        try:
            if not self._is_acknowledged and now_s >= self._started_s + HANDSHAKE_TIMEOUT_S:  # RFC 9113 6.5.3
                self._fail(ErrorCode.SETTINGS_TIMEOUT, "no acknowledgement of our settings")
            elif not self.held and now_s >= self._incomplete_since_s + FRAME_TIMEOUT_S:
                self._fail(ErrorCode.ENHANCE_YOUR_CALM, "a frame that does not end")
            else:
                self._streams.expire()
                if now_s >= self._draining_s:
                    self._end_drain()
        except BrokenConnectionError as fault:
            self._fail(fault.code, str(fault))
        return self._written()

    def tell_when_said(self, woken: Callable[[], None]) -> None:
        """Have `woken` called when something was said on a stream that stays open: `said` gives it."""
        if isinstance(self._streams, OpenStreams):
            self._streams.woken = woken

    def said(self) -> bytes:
        """Give what was said on streams that stay open; as `receive`."""
        if self.finished:
            return b""
        self._now_s = self._streams.now_s = self._clock()
        if isinstance(self._streams, OpenStreams) and (fault := self._streams.fault) is not None:
            self._fail(fault.code, str(fault))
        return self._written()

    def lost(self) -> None:
        """Take in that the peer is gone: what it has begun is over."""
        self._streams.lost()

    @property
    def lag_s(self) -> float:
        """How long the last PING of `probe` took, or is on its way: its answer comes behind what the peer had sent."""
        if self._probed_s == inf:
            return self._lag_s
        lag_s = self._clock() - self._probed_s
        # Who answers no PING at all says nothing about how long it waits.
        return lag_s if lag_s < PROBE_PATIENCE_S else 0.0

    def probe(self) -> bytes:
        """Give a PING, unless the last one is on its way, or no call has come since it was answered."""
        if self.finished or self._probed_s != inf or not self._is_acknowledged:
            return b""
        if self._probed_call == self._streams.last:
            self._lag_s = 0.0
            return b""
        self._probed_call = self._streams.last
        self._probed_s = self._clock()
        return frames.frame(frames.PING, 0, 0, PROBE_PING)

    def drain(self) -> bytes:
        """Say that no new streams will be taken, and end with the last of those that there are (RFC 9113 6.8)."""
        if self.finished or self._is_draining:
            return b""
        self._is_draining = True
        self._now_s = self._clock()
        self._draining_s = self._now_s + DRAIN_NOTICE_S
        self._out.append(frames.goaway_frame(STREAM_ID_MASK, ErrorCode.NO_ERROR, "draining"))
        self._out.append(frames.frame(frames.PING, 0, 0, DRAIN_PING))
        return self._written()

    def fail(self) -> bytes:
        """Say that a fault of the program ends the connection."""
        self._fail(ErrorCode.INTERNAL_ERROR, "the server has failed")
        return self._written()

    # --- frames

    def _take_preface(self, data: bytes) -> int:
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2")
        if len(data) < len(PREFACE):
            return 0
        self._is_prefaced = True
        return self._take_frames(data, len(PREFACE))

    def _take_frames(self, data: bytes, at: int) -> int:  # noqa: C901, PLR0912, PLR0915 calls would cost what it saves
        """Take every whole frame from `at` on; give how far that came."""
        end = len(data)
        unpack, unpack_prefix = FRAME_HEADER.unpack_from, _PREFIX.unpack_from
        unpack_message = _DATA_AND_PREFIX.unpack_from
        pack_answer, pack_trailers = _ANSWER.pack, _TRAILERS.pack
        known, streams, flow, window, out = self._known, self._streams, self._flow, self._window, self._out
        made_bytes = size = message_end = 0
        expires_s = inf
        self.held = False
        while end - at >= HEADER_BYTES:
            word, flags, stream_id = unpack(data, at)
            next_at = at + HEADER_BYTES + (word >> 8)
            call = None
            if not self._quick:
                pass
            elif word & 0xFF == HEADERS:
                if (
                    flags == END_HEADERS
                    and stream_id == streams.last + 2
                    and end - next_at >= _DATA_AND_PREFIX_BYTES
                    and (asked := known.get(data[at + HEADER_BYTES : next_at])) is not None
                    and asked.plain
                ):
                    data_word, data_flags, data_stream_id, compressed, size = unpack_message(data, next_at)
                    message_end = next_at + _DATA_AND_PREFIX_BYTES + size
                    if (
                        data_word == size + PREFIX_BYTES << 8 | DATA
                        and data_flags == END_STREAM
                        and data_stream_id == stream_id
                        and not compressed
                        and message_end <= end
                        and size <= self._quick_message_bytes
                        and len(streams.open) < MAX_STREAMS
                        and (asked.content_length is None or asked.content_length == size + PREFIX_BYTES)
                    ):
                        call = asked
                        expires_s = self._now_s + call.timeout_s
                        streams.last = stream_id
            elif (
                word & 0xFF == DATA
                and flags == END_STREAM
                and next_at <= end
                and next_at - at >= _DATA_AND_PREFIX_BYTES
                and (stream := streams.open.get(stream_id)) is not None
                and stream.call.plain
                and not stream.received_bytes
                and not stream.ended
                and stream.send_left == flow.initial
            ):
                compressed, size = unpack_prefix(data, at + HEADER_BYTES)
                if (
                    word == size + PREFIX_BYTES << 8 | DATA
                    and not compressed
                    and size <= self._quick_message_bytes
                    and (stream.call.content_length is None or stream.call.content_length == size + PREFIX_BYTES)
                ):
                    call = stream.call
                    expires_s = stream.expires_s
                    message_end = next_at
                    streams.close(stream)
            if call is not None:
                window.left -= size + PREFIX_BYTES
                if window.left < window.low:
                    self._refill()
                at = message_end
                if call.timeout_s != inf and self._clock() >= expires_s:
                    streams.answer_at_once(stream_id, EXPIRED)
                    continue
                # INVARIANT (one whole message, one answer), as in `streams`: it is whole, and ends the stream.
                try:
                    answer = call.unary(data[message_end - size : message_end])
                    size = len(answer) + PREFIX_BYTES
                except Exception as error:  # noqa: BLE001 the outermost edge of a call: it fails alone
                    streams.answer_at_once(stream_id, streams.failure(error))
                    continue
                if size > flow.quick_bytes or size > flow.left:
                    streams.answer_at_once(stream_id, answered(answer))
                else:
                    # INVARIANT (no byte beyond a window), as in `flow`.
                    flow.left -= size
                    out += (
                        pack_answer(
                            _HEAD_WORD, END_HEADERS, stream_id, GRPC_HEAD,
                            size << 8 | DATA, 0, stream_id, 0, size - PREFIX_BYTES,
                        ),
                        answer,
                        pack_trailers(_TRAILERS_WORD, _TRAILERS_FLAGS, stream_id, GRPC_TRAILERS),
                    )  # fmt: skip
                made_bytes += size
                if made_bytes >= MAX_BATCH_BYTES:
                    self.held = at < end
                    break
                continue
            if word >> 8 > MAX_FRAME_BYTES:  # RFC 9113 4.2; known before the frame is there
                raise BrokenConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of over {MAX_FRAME_BYTES} bytes")
            if next_at > end:
                break
            pieces = len(out)
            self._frame(word & 0xFF, flags, stream_id & STREAM_ID_MASK, data[at + HEADER_BYTES : next_at])
            at = next_at
            if len(out) > pieces:
                made_bytes += sum(map(len, out[pieces:]))
            if made_bytes >= MAX_BATCH_BYTES:
                self.held = at < end
                break
        return at

    def _fail(self, code: ErrorCode, text: str) -> None:
        # INVARIANT (an error is the end)
        self._out.append(frames.goaway_frame(max(0, self._streams.last), code, text))
        self.finished = True
        self.held = False
        self._unread = b""

    def _written(self) -> bytes:
        """Give what was made, and note when something is due."""
        if self._last_accepted != STREAM_ID_MASK and not self._streams.open:  # RFC 9113 6.8: drained
            self.finished = True
        if self.finished or (
            self._is_acknowledged and not self._streams.open and self._incomplete_since_s == inf == self._draining_s
        ):
            self.due_s = inf
        else:
            handshake_s = inf if self._is_acknowledged else self._started_s + HANDSHAKE_TIMEOUT_S
            frame_s = self._incomplete_since_s + FRAME_TIMEOUT_S
            self.due_s = min(handshake_s, frame_s, self._streams.due_s, self._draining_s)
        out = self._out
        if not out:
            return b""
        written = b"".join(out)
        out.clear()
        return written

"""What each frame of a client changes in a connection, and what is answered to it.

INVARIANT (bounded): no more than one header block is unfinished, and only its own frames may finish it; frames that ask
for nothing are counted.

RFC 9113 4.3 (header blocks), 5.1 (states), 6 (frames), 6.8 (GOAWAY).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

from authz.sidecar.check.http2 import frames
from authz.sidecar.check.http2.errors import BrokenConnectionError, BrokenStreamError, ErrorCode
from authz.sidecar.check.http2.flow import ReceiveWindow, SendFlow
from authz.sidecar.check.http2.frames import ACK, END_HEADERS, END_STREAM, STREAM_ID_MASK
from authz.sidecar.check.http2.headers import HeaderBlocks, UnfinishedBlock, check_trailers
from authz.sidecar.check.http2.limits import CONNECTION_WINDOW_BYTES, CONTROL_FRAMES, WINDOW_UPDATES, Budget
from authz.sidecar.check.http2.open_streams import OpenStreams
from authz.sidecar.check.http2.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.http2.grpc import Call, Service

#: the PING behind the first GOAWAY of a drain: its answer says that the peer has read that (RFC 9113 6.8)
DRAIN_PING: Final = b"draining"
#: the PING that measures how long the peer waits for us
PROBE_PING: Final = b"how long"


class Session:
    """The state that frames change; what is to be sent is appended to `_out`."""

    __slots__ = (
        "_block",
        "_blocks",
        "_clock",
        "_control",
        "_draining_s",
        "_flow",
        "_is_acknowledged",
        "_is_opened",
        "_lag_s",
        "_last_accepted",
        "_now_s",
        "_out",
        "_probed_s",
        "_quick",
        "_streams",
        "_updates",
        "_window",
        "finished",
    )

    def __init__(
        self,
        *,
        service: Service,
        known: dict[bytes, Call],
        clock: Callable[[], float],
        failed: Callable[[Exception], None],
        table_bytes: int,
    ) -> None:
        """Wait for SETTINGS; see `connection`."""
        self._clock = clock
        self._out: list[bytes] = []
        self._flow = SendFlow(self._out)
        streams = OpenStreams if service.has_open_calls else Streams
        self._streams = streams(service=service, flow=self._flow, out=self._out, clock=clock, failed=failed)
        self._blocks: HeaderBlocks[Call] = HeaderBlocks(read=service.call, known=known, table_bytes=table_bytes)
        self._block: UnfinishedBlock | None = None
        self._window = ReceiveWindow(CONNECTION_WINDOW_BYTES)
        self._now_s = clock()
        self._control = Budget(CONTROL_FRAMES, self._now_s)
        self._updates = Budget(WINDOW_UPDATES, self._now_s)
        self._is_opened = self._is_acknowledged = False
        self._draining_s = inf  # when the last GOAWAY is due even if the peer does not answer the PING
        self._probed_s = inf  # when the PING that is on its way was sent
        self._lag_s = 0.0  # how long the last one took
        self._last_accepted = STREAM_ID_MASK
        self._quick = False  # whether a whole call with a known block may take the quick way of `connection`
        self.finished = False

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is not None and (kind != frames.CONTINUATION or stream_id != block.stream_id):
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame inside of a header block")  # RFC 9113 4.3
        if not self._is_opened and (kind != frames.SETTINGS or flags & ACK):
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "no SETTINGS behind the preface")  # RFC 9113 3.4
        take = self._TAKE.get(kind)
        if take is None:  # RFC 9113 4.1, 5.5: frames of unknown types are dropped
            self._count_control()
        else:
            take(self, flags, stream_id, payload)
        self._quick = (
            self._blocks.is_stateless
            and not self._streams.opening
            and self._block is None
            and self._last_accepted == STREAM_ID_MASK
        )

    def _take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_stream(stream_id)
        self._window.left -= len(payload)
        if self._window.left < self._window.low:
            self._refill()
        data = frames.unpadded(payload, flags)
        if stream_id > self._last_accepted:  # RFC 9113 6.8: what came after the last GOAWAY
            return
        self._streams.data(stream_id, data, flow_bytes=len(payload), ended=bool(flags & END_STREAM))

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_stream(stream_id)
        fragment = frames.header_fragment(payload, flags, stream_id)
        ends_stream = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._take_block(stream_id, fragment, ends_stream=ends_stream)
        else:
            self._block = UnfinishedBlock(stream_id, fragment, ends_stream=ends_stream)

    def _take_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.add(payload)
        if flags & END_HEADERS:
            self._block = None
            self._take_block(stream_id, bytes(block.block), ends_stream=block.ends_stream)

    def _take_block(self, stream_id: int, block: bytes, *, ends_stream: bool) -> None:
        streams = self._streams
        if stream_id > self._last_accepted:  # RFC 9113 6.8; decoded all the same, for the table (4.3)
            self._blocks.fields(block)
            return
        if streams.check_id(stream_id):
            streams.begin(stream_id)
            try:
                call = self._blocks.request(block)
            except BrokenStreamError as fault:
                streams.cut(stream_id, fault.code, ended=ends_stream)
            else:
                streams.start(stream_id, call, ended=ends_stream)
            return
        try:
            check_trailers(self._blocks.fields(block), ends_stream=ends_stream)
        except BrokenStreamError as fault:
            streams.cut(stream_id, fault.code, ended=ends_stream)
        else:
            streams.end_with_trailers(stream_id)

    def _take_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_priority(payload, stream_id)
        self._count_control()

    def _take_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_rst_stream(payload, stream_id)
        if stream_id <= self._last_accepted:
            self._streams.reset_by_peer(stream_id)

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_settings(payload, flags, stream_id)
        self._count_control()
        if flags & ACK:
            if self._is_acknowledged:
                raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS are acknowledged twice")
            self._is_acknowledged = True
            self._blocks.acknowledged()
            return
        self._is_opened = True
        initial = frames.settings_from(payload).get(frames.SETTING_INITIAL_WINDOW_SIZE)
        # RFC 9113 6.5.3: nothing that follows from them goes before the acknowledgement
        self._out.append(frames.frame(frames.SETTINGS, ACK, 0))
        if initial is not None:
            self._streams.finished(self._flow.change_initial(initial, self._streams.open.values()))

    def _take_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE of a client")  # RFC 9113 8.4

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_ping(payload, stream_id)
        self._count_control()
        if not flags & ACK:
            self._out.append(frames.frame(frames.PING, ACK, 0, payload))
        elif payload == DRAIN_PING and self._draining_s < inf:
            self._end_drain()
        elif payload == PROBE_PING and self._probed_s < inf:
            self._lag_s = self._now_s - self._probed_s
            self._probed_s = inf

    def _take_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_goaway(payload, stream_id)
        self._count_control()

    def _take_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.window_increment(payload)
        if not self._updates.spend(self._now_s, (self._streams.last >> 1) + self._flow.updates_earned):
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many WINDOW_UPDATE frames")
        if not stream_id:
            self._streams.finished(self._flow.widen(increment))
            return
        if stream_id > self._last_accepted:
            return
        self._streams.check_begun(stream_id, "WINDOW_UPDATE")
        stream = self._streams.open.get(stream_id)
        if stream is None:  # RFC 9113 5.1: closed, which the peer may not know yet
            return
        try:
            done = self._flow.widen_stream(stream, increment)
        except BrokenStreamError as fault:
            self._streams.cut(stream_id, fault.code, ended=stream.ended)
        else:
            self._streams.finished(done)

    def _refill(self) -> None:
        self._out.append(frames.window_update_frame(0, self._window.refill()))

    def _count_control(self) -> None:
        if not self._control.spend(self._now_s, self._streams.last >> 1):
            raise BrokenConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _end_drain(self) -> None:
        self._draining_s = inf
        self._last_accepted = max(0, self._streams.last)
        self._out.append(frames.goaway_frame(self._last_accepted, ErrorCode.NO_ERROR, "drained"))

    _TAKE: ClassVar = {
        frames.DATA: _take_data,
        frames.HEADERS: _take_headers,
        frames.PRIORITY: _take_priority,
        frames.RST_STREAM: _take_rst_stream,
        frames.SETTINGS: _take_settings,
        frames.PUSH_PROMISE: _take_push_promise,
        frames.PING: _take_ping,
        frames.GOAWAY: _take_goaway,
        frames.WINDOW_UPDATE: _take_window_update,
        frames.CONTINUATION: _take_continuation,
    }


def _check_stream(stream_id: int) -> None:
    if not stream_id:
        raise BrokenConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream's frame on stream 0")  # RFC 9113 5.1.1

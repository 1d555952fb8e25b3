"""The echo app over HTTP/2: one connection, its streams, and flow control in both directions.

h2 parses, checks and frames; this module decides what is read on and what is sent next. What is answered on a stream is
:mod:`authz.mesh.echo.http2_exchange`'s.

INVARIANT (no stream starves another): the connection's receive window is the sum of what all allowed streams may
send, so a stream whose echo is not read holds up itself alone.
INVARIANT (bounded): bytes that are echoed are acknowledged while little of the echo waits, so a stream holds no more
than one and a half windows; other bytes are dropped and acknowledged at once.

RFC 9113 (https://www.rfc-editor.org/rfc/rfc9113), RFC 8441 for WebSockets.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from authz.mesh.echo.answer import MAX_HEADERS_BYTES
from authz.mesh.echo.connection import EchoConnection
from authz.mesh.echo.http2_exchange import exchange_for
from authz.mesh.echo.http2_frames import MAX_FRAME_BYTES, ClientFrames, FrameTooLongError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from authz.mesh.echo.connection import OpenConnections
    from authz.mesh.echo.http2_exchange import Exchange

    Fields = Sequence[tuple[bytes, bytes]]

#: Envoy opens no more on one connection before it has read our settings
MAX_STREAMS = 1024
#: RFC 9113 6.9.2: the initial window of a stream, and of the connection
STREAM_WINDOW_BYTES = 65_535
#: an echo is acknowledged when no more than this much of it waits
_LOW_WATER_BYTES = STREAM_WINDOW_BYTES // 2
#: what is framed before the transport is asked whether it takes more
_BATCH_BYTES = 4 * MAX_FRAME_BYTES

# What is received is checked; what is sent is our own and need not be.
_CONFIGURATION = H2Configuration(
    client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)


class Http2Stream:
    """The sending side of one stream: what waits until flow control lets it go."""

    __slots__ = ("_connection", "exchange", "gone", "pending", "queued", "started_s", "stream_id", "trailers", "unread")

    def __init__(self, connection: Http2Connection, stream_id: int, started_s: float) -> None:
        """Answer a stream that started at this time of the loop."""
        self._connection = connection
        self.stream_id = stream_id
        self.started_s = started_s
        self.exchange: Exchange | None = None
        self.pending = bytearray()
        self.trailers: Fields | None = None  # set once the answer ends; empty for an end without trailers
        self.unread = 0  # bytes received and not acknowledged
        self.queued = False
        self.gone = False

    @property
    def service(self) -> str:
        """The Service that this app is."""
        return self._connection.connections.service

    def head(self, fields: Fields, *, end: bool = False) -> None:
        """Send the header section of an answer, or an interim one."""
        self._connection.send_head(self, fields, end=end)

    def send(self, data: bytes) -> None:
        """Send bytes of the answer as soon as the client takes them."""
        if data and self.trailers is None:
            self.pending += data
            self._connection.enqueue(self)

    def end(self, trailers: Fields = ()) -> None:
        """End the answer behind what waits."""
        if self.trailers is None:
            self.trailers = trailers
            self._connection.enqueue(self)

    def flush(self) -> None:
        """Let go what can go; needed outside of the handling of what was received."""
        self._connection.proceed()


class Http2Connection(EchoConnection):
    """One HTTP/2 connection."""

    def __init__(self, connections: OpenConnections) -> None:
        """Wait for the client's preface."""
        super().__init__(connections)
        self._http = H2Connection(_CONFIGURATION)
        self._http.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        self._http.decoder.max_header_list_size = MAX_HEADERS_BYTES
        self._frames = ClientFrames()
        self._streams: dict[int, Http2Stream] = {}
        self._waiting: deque[Http2Stream] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings."""
        super().connection_made(transport)
        self._http.initiate_connection()
        # INVARIANT (no stream starves another): here it is made.
        self._http.increment_flow_control_window((MAX_STREAMS - 1) * STREAM_WINDOW_BYTES)
        self._write_frames()

    def receive(self, data: bytes) -> None:
        """Take the next frames."""
        try:
            events = self._http.receive_data(self._frames.feed(data))
        except FrameTooLongError:
            self._http.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
            events = None
        except H2Error:  # h2 has put the GOAWAY that says why into what is to be sent
            events = None
        if events is None:
            self._write_frames()
            self.close_after_last_words()
            return
        for event in events:
            match event:
                case h2.events.RequestReceived():
                    self._begin(event)
                case h2.events.DataReceived():
                    self._take_data(event)
                case h2.events.StreamEnded():
                    stream = self._streams.get(event.stream_id)
                    if stream is not None and stream.exchange is not None:
                        stream.exchange.ended()
                case h2.events.StreamReset():
                    self._forget(event.stream_id)
                case _:  # settings, windows and pings: h2 has done what they ask
                    pass
        self.proceed()

    def proceed(self) -> None:
        """Send what flow control and the client's reading allow, one frame of each stream in turn."""
        unsent, progress = 0, True
        while progress and self._waiting and self.writable:
            progress = False
            for _ in range(len(self._waiting)):
                stream = self._waiting.popleft()
                sent = self._send_frame(stream)
                progress = progress or sent > 0
                unsent += sent
                if unsent >= _BATCH_BYTES:
                    unsent = 0
                    self._write_frames()
                    if not self.writable:
                        break
        self._write_frames()

    def stop(self) -> None:
        """End every stream's beat."""
        for stream in self._streams.values():
            stream.gone = True
            if stream.exchange is not None:
                stream.exchange.stopped()
        self._streams.clear()
        self._waiting.clear()

    def shut_down(self) -> None:
        """Say GOAWAY and close."""
        self.stop()
        self._http.close_connection()
        self._write_frames()
        self.transport.close()

    # What a stream asks for.

    def send_head(self, stream: Http2Stream, fields: Fields, *, end: bool) -> None:
        """Send a header section: flow control does not concern it."""
        if stream.gone:
            return
        try:
            self._http.send_headers(stream.stream_id, fields, end_stream=end)
        except H2Error:  # reset by the client, in the same bytes that asked
            self._forget(stream.stream_id)
            return
        if end:
            self._forget(stream.stream_id)

    def enqueue(self, stream: Http2Stream) -> None:
        """Note that a stream has something to send."""
        if not stream.queued and not stream.gone:
            stream.queued = True
            self._waiting.append(stream)

    # What the client sent.

    def _begin(self, event: h2.events.RequestReceived) -> None:
        stream = Http2Stream(self, event.stream_id, self.now_s)
        self._streams[event.stream_id] = stream
        stream.exchange = exchange_for(stream, event.headers, has_ended=event.stream_ended is not None)
        stream.exchange.started()

    def _take_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.exchange is None:
            self._acknowledge(event.stream_id, event.flow_controlled_length)
            return
        stream.unread += event.flow_controlled_length
        stream.exchange.received(event.data)
        self._acknowledge_sent(stream)

    # What is sent.

    def _send_frame(self, stream: Http2Stream) -> int:
        """Send the next frame of a stream that waits, and let it wait again if there is more; give its size."""
        stream.queued = False
        if stream.gone:
            return 0
        sent = 0
        try:
            if stream.pending:
                window = self._http.local_flow_control_window(stream.stream_id)
                sent = max(0, min(len(stream.pending), window, MAX_FRAME_BYTES))
            if sent:
                ends = stream.trailers == () and sent == len(stream.pending)
                self._http.send_data(stream.stream_id, bytes(stream.pending[:sent]), end_stream=ends)
                del stream.pending[:sent]
                if ends:
                    self._forget(stream.stream_id)
                    return sent
            if not stream.pending and stream.trailers is not None:
                self._end(stream)
                return max(sent, 1)
        except H2Error:  # reset by the client, in the same bytes that asked
            self._forget(stream.stream_id)
            return sent
        self._acknowledge_sent(stream)
        if stream.pending:
            self.enqueue(stream)
        return sent

    def _end(self, stream: Http2Stream) -> None:
        if stream.trailers:
            self._http.send_headers(stream.stream_id, stream.trailers, end_stream=True)
        else:
            self._http.end_stream(stream.stream_id)
        self._forget(stream.stream_id)

    def _acknowledge_sent(self, stream: Http2Stream) -> None:
        # INVARIANT (bounded): relied on here; bytes that are not echoed never wait.
        if stream.unread and len(stream.pending) <= _LOW_WATER_BYTES:
            unread, stream.unread = stream.unread, 0
            self._acknowledge(stream.stream_id, unread)

    def _acknowledge(self, stream_id: int, size: int) -> None:
        if size:
            self._http.acknowledge_received_data(size, stream_id)

    def _forget(self, stream_id: int) -> None:
        """Let go of a stream that is over on our side; what the client still sends on it is dropped."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        stream.gone = True
        stream.pending.clear()
        if stream.exchange is not None:
            stream.exchange.stopped()
        unread, stream.unread = stream.unread, 0
        self._acknowledge(stream_id, unread)

    def _write_frames(self) -> None:
        self.write(self._http.data_to_send())

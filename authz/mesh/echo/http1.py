"""The echo app over HTTP/1.1: keep-alive, pipelining, chunked bodies, 100-continue, streams, and upgrades to WebSocket.

h11 parses and frames; this module decides when to answer and with what. A body is read and dropped. A request that
h11 refuses is answered with the status that h11 names and ends the connection.

A client that ends its sending side gets the answer to what it asked; a stream goes on until it ends or a line cannot
be sent. Only an idle stream ends with it, since silence would never find out that nobody is there.

RFC 9110, RFC 9112 (https://www.rfc-editor.org/rfc/rfc9112), RFC 6455 4.2 for the upgrade.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from authz.mesh.echo.answer import (
    MAX_HEADERS_BYTES,
    EchoProtocol,
    EchoRefusal,
    EchoRequest,
    StreamWish,
    joined_headers,
    stream_wish,
)
from authz.mesh.echo.connection import EchoConnection, OpenConnections
from authz.mesh.echo.ticks import Ticks
from authz.mesh.echo.websocket import WebSocketConnection, accepted_upgrade, asks_for_websocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    Fields = Sequence[tuple[bytes, bytes]]

#: what a client may send ahead while its stream runs; beyond that it is not read
_MAX_AHEAD_BYTES = 64 * 1024


class Http1Connection(EchoConnection):
    """One HTTP/1.1 connection: one request after the other."""

    def __init__(self, connections: OpenConnections) -> None:
        """Wait for the first request."""
        super().__init__(connections)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADERS_BYTES)
        self._request: EchoRequest | None = None
        self._wish: StreamWish | None = None
        self._refusal: EchoRefusal | None = None
        self._started_s = 0.0
        self._ticks: Ticks | None = None
        self._ahead_bytes = 0

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the requests."""
        self._http.receive_data(data)
        if self._ticks is not None:
            self._ahead_bytes += len(data)
        self.proceed()

    def eof_received(self) -> bool:
        """Answer what was asked before the client's end; give whether more is to be said before the connection ends."""
        if not self.closing:
            self._http.receive_data(b"")
            self.proceed()
        if self.closing or self.is_tls:  # asyncio cannot keep half of a TLS connection
            return False
        if self._ticks is not None:
            return not self._ticks.idle
        return not self.writable

    def proceed(self) -> None:
        """Take the events that have been read, as long as the client reads the answers."""
        try:
            while self.writable and not self.closing:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if type(event) is h11.ConnectionClosed:
                    self._end_exchange()
                    break
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._refuse(error)
        if self._ticks is not None and self._ahead_bytes > _MAX_AHEAD_BYTES:
            self.transport.pause_reading()

    def stop(self) -> None:
        """End a running stream's beat."""
        if self._ticks is not None:
            self._ticks.stop()
            self._ticks = None

    def shut_down(self) -> None:
        """Close: HTTP/1.1 has no word for it."""
        self.stop()
        self.transport.close()

    def _take(self, event: object) -> None:
        match event:
            case h11.Request():
                self._begin(event)
            case h11.EndOfMessage():
                self._end()
            case _:  # h11.Data: a body is dropped
                self._ahead_bytes = 0

    def _begin(self, event: h11.Request) -> None:
        headers = joined_headers(event.headers)
        method = event.method.decode("latin-1")
        websocket = event.http_version != b"1.0" and asks_for_websocket(method, headers)
        self._request = EchoRequest(
            service=self.connections.service,
            method=method,
            path=event.target.decode("latin-1"),
            host=headers.get("host", ""),
            protocol=EchoProtocol.WEBSOCKET if websocket else EchoProtocol.HTTP_1_1,
            headers=headers,
        )
        self._started_s = self.now_s
        self._refusal = None
        try:
            self._wish = stream_wish(self._request)
        except EchoRefusal as refusal:
            self._wish, self._refusal = None, refusal
        if self._http.they_are_waiting_for_100_continue:
            self.write(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b""
            )
        # HEAD has no body that could be a stream, CONNECT a tunnel instead of one.
        if self._wish is not None and not websocket and method not in {"HEAD", "CONNECT"}:
            self._begin_stream(self._wish)

    def _end(self) -> None:
        """Answer the request, which has ended."""
        request = self._request
        if request is None or self._ticks is not None or self._http.our_state is h11.DONE:
            self._end_exchange()
        elif self._refusal is not None:
            self._answer(self._refusal.status, self._refusal.body, self._refusal.headers)
        elif request.protocol is EchoProtocol.WEBSOCKET:
            self._upgrade(request)
        elif request.method == "CONNECT":
            # RFC 9110 9.3.6: what follows a 2xx is the tunnel. This one says its JSON and ends.
            self.write((self._http.send(h11.Response(status_code=200, headers=[], reason=b"OK")) or b"") + request.body)
            self.close_after_last_words()
        else:
            self._answer(200, request.body)

    def _answer(self, status: int, body: bytes, more: Fields = ()) -> None:
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *more]
        phrase = HTTPStatus(status).phrase.encode()
        sent = self._http.send(h11.Response(status_code=status, headers=head, reason=phrase)) or b""
        if self._request is None or self._request.method != "HEAD":
            sent += self._http.send(h11.Data(data=body)) or b""
        self.write(sent + (self._http.send(h11.EndOfMessage()) or b""))
        self._end_exchange()

    def _end_exchange(self) -> None:
        """Go on to the next request, or close, once this one is over on both sides."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._request = None
        elif self._http.our_state in {h11.MUST_CLOSE, h11.CLOSED}:
            if self._http.their_state in {h11.SEND_BODY, h11.ERROR}:
                self.close_after_last_words()
            else:
                self.transport.close()

    def _begin_stream(self, wish: StreamWish) -> None:
        head = [(b"content-type", wish.content_type), (b"cache-control", b"no-store")]
        self.write(self._http.send(h11.Response(status_code=200, headers=head, reason=b"OK")) or b"")
        self._ahead_bytes = 0
        self._ticks = Ticks(wish, started_s=self._started_s, tick=self._say_tick, end=self._end_stream)
        self._ticks.start()

    def _say_tick(self, number: int) -> None:
        # A client that does not read misses lines instead of having them pile up.
        if (number == 0 or self.writable) and self._wish is not None:
            self.write(self._http.send(h11.Data(data=self._wish.line(number))) or b"")

    def _end_stream(self) -> None:
        self.stop()
        self.write(self._http.send(h11.EndOfMessage()) or b"")
        self._end_exchange()
        if self.writable and not self.closing:
            self.transport.resume_reading()
            self.proceed()

    def _upgrade(self, request: EchoRequest) -> None:
        try:
            head = accepted_upgrade(request.headers)
        except EchoRefusal as refusal:
            self._answer(refusal.status, refusal.body, refusal.headers)
            return
        switching = h11.InformationalResponse(status_code=101, headers=head, reason=b"Switching Protocols")
        self.write(self._http.send(switching) or b"")
        websocket = WebSocketConnection(self.connections, request=request, wish=self._wish, started_s=self._started_s)
        sent_ahead, client_has_ended = self._http.trailing_data
        self.hand_over(websocket, sent_ahead)
        if client_has_ended:
            self.transport.close()

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Say what is wrong with the request, where that can still be said, and close."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE} and self._ticks is None:
            body = json.dumps({"error": f"{error}"}).encode()
            self._answer(error.error_status_hint, body, [(b"connection", b"close")])
            self.close_after_last_words()
        else:
            # An answer has begun: only its abrupt end says that something is wrong.
            self.transport.abort()

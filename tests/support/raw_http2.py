"""A small HTTP/2 client that says exactly what it is told, well-formed or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


@dataclass(slots=True, kw_only=True)
class RawHttp2Answer:
    """What came back on one stream; `reset` is the error code where it was cut, -1 where the connection just ended."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None


class RawHttp2:
    """Speaks on a connected socket, with TLS already done where there is any; nothing that it sends is checked."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        configuration = h2.config.H2Configuration(
            client_side=True,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(configuration)
        self._h2.initiate_connection()
        self._flush()

    def request(
        self,
        pseudo: Sequence[tuple[str, str]],
        headers: Sequence[tuple[str, str]] = (),
        *,
        body: bytes = b"",
        trailers: Sequence[tuple[str, str]] = (),
    ) -> RawHttp2Answer:
        """Make one request and wait for the end of its answer."""
        stream = self.begin(pseudo, headers, end=not body and not trailers)
        if body or trailers:
            self._h2.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self._h2.send_headers(stream, list(trailers), end_stream=True)
        self._flush()
        return self.rest(stream)

    def begin(
        self, pseudo: Sequence[tuple[str, str]], headers: Sequence[tuple[str, str]] = (), *, end: bool = False
    ) -> int:
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self._h2.send_data(stream, data, end_stream=end)
        self._flush()

    def rest(self, stream: int, *, until_bytes: int | None = None) -> RawHttp2Answer:
        """Wait for the stream's end, or for its first bytes of body."""
        answer = RawHttp2Answer()
        while True:
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                answer.reset = -1 if answer.reset is None else answer.reset
                return answer
            for event in self._h2.receive_data(data):
                if self._is_last(answer, stream, event):
                    self._flush()
                    return answer
            self._flush()
            if until_bytes is not None and len(answer.body) >= until_bytes:
                return answer

    def _is_last(self, answer: RawHttp2Answer, stream: int, event: h2.events.Event) -> bool:
        match event:
            case h2.events.ConnectionTerminated():
                answer.reset = int(event.error_code or 0)
                return answer.reset != 0
            case h2.events.ResponseReceived() if event.stream_id == stream:
                answer.headers = {_text(name): _text(value) for name, value in event.headers or []}
                answer.status = int(answer.headers[":status"])
            case h2.events.DataReceived() if event.stream_id == stream:
                answer.body += event.data or b""
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            case h2.events.TrailersReceived() if event.stream_id == stream:
                answer.trailers = {_text(name): _text(value) for name, value in event.headers or []}
            case h2.events.StreamReset() if event.stream_id == stream:
                answer.reset = int(event.error_code or 0)
                return True
            case h2.events.StreamEnded() if event.stream_id == stream:
                return True
        return False

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._connection.sendall(data)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")

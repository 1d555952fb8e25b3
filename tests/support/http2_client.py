"""A small HTTP/2 client over a blocking socket, for what ordinary clients never do: windows, resets, GOAWAYs."""

from __future__ import annotations

import socket
from collections import defaultdict
from typing import TYPE_CHECKING, Self

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Fields = list[tuple[str, str]]


class Http2Client:
    def __init__(
        self, sock: socket.socket, *, window_bytes: int | None = None, reads: bool = True, authority: str = "orders"
    ) -> None:
        self.sock = sock
        self.authority = authority
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        if window_bytes is not None:
            self.http.local_settings = Settings(
                client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window_bytes}
            )
        self.http.initiate_connection()
        self.reads = reads  # whether what is received opens the window again
        self.heads: dict[int, dict[str, str]] = {}
        self.interim: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytearray] = defaultdict(bytearray)
        self.trailers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.pings = 0
        self.closed = False
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.http.data_to_send())

    def request(
        self, path: str = "/", *fields: tuple[str, str], method: str = "GET", end: bool = True, **pseudo: str
    ) -> int:
        stream_id = self.http.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", self.authority), (":path", path)]
        head += [(f":{name}", value) for name, value in pseudo.items()]
        self.http.send_headers(stream_id, [*head, *fields], end_stream=end)
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send a body as fast as the app lets it."""
        while True:
            window = min(self.http.local_flow_control_window(stream_id), self.http.max_outbound_frame_size)
            step = data[: max(0, window)]
            if data and not step:
                self.read()
                continue
            data = data[len(step) :]
            self.http.send_data(stream_id, step, end_stream=end and not data)
            self.flush()
            if not data:
                return

    def read(self) -> None:
        """Take what the app sends next."""
        data = self.sock.recv(65_536)
        if not data:
            self.closed = True
            return
        for event in self.http.receive_data(data):
            self._take(event)
        self.flush()

    def until(self, done: Callable[[Self], object]) -> Self:
        """Read until it is so; fail if the connection ends first."""
        while not done(self):
            assert not self.closed, "the connection has ended"
            self.read()
        return self

    def answer(self, stream_id: int) -> bytes:
        """Read until the stream has ended; give its body."""
        self.until(lambda client: stream_id in client.ended)
        return bytes(self.bodies[stream_id])

    def until_read(self) -> None:
        """Wait until the app has taken everything that was sent so far."""
        before = self.pings
        self.http.ping(b"12345678")
        self.flush()
        self.until(lambda client: client.pings > before)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.InformationalResponseReceived():
                self.interim[event.stream_id] = _decoded(event.headers)
            case h2.events.ResponseReceived():
                self.heads[event.stream_id] = _decoded(event.headers)
            case h2.events.DataReceived():
                self.bodies[event.stream_id] += event.data
                if self.reads and event.flow_controlled_length:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.trailers[event.stream_id] = _decoded(event.headers)
            case h2.events.StreamEnded():
                self.ended.add(event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = int(event.error_code or 0)
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)
            case h2.events.PingAckReceived():
                self.pings += 1
            case _:
                pass


def _decoded(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}

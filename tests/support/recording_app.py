"""An app that writes down exactly what reached it, over HTTP/1.1 and HTTP/2, and answers like one that lies.

Its answers carry denial headers that only a sidecar may set. WebSockets (Upgrade and extended CONNECT) echo bytes.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import Self

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes

#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 30
FORGED = (("x-authz-reason", "closed"), ("x-authz-decision-id", "forged"), ("x-authz-caller", "forged"))
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(slots=True, kw_only=True)
class SeenRequest:
    """One request; of HTTP/1.1 `target` is the request line's own, of HTTP/2 it is `:path`."""

    protocol: str
    target: str
    headers: list[tuple[str, str]]
    trailers: list[tuple[str, str]] = field(default_factory=list)
    tls: tuple[str, str | None] | None = None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def names(self) -> set[str]:
        return {name for name, _ in self.headers}


class RecordingApp:
    """Listens on a port of 127.0.0.1; `tls` makes it a ThirdParty's host."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._seen: queue.SimpleQueue[SeenRequest] = queue.SimpleQueue()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def next(self) -> SeenRequest:
        return self._seen.get(timeout=PATIENCE_S)

    def saw_nothing(self) -> bool:
        return self._seen.empty()

    def forget(self) -> None:
        """Take everything that was seen so far; what an answered call brought has been seen."""
        while not self._seen.empty():
            self._seen.get_nowait()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A peer that goes, or that breaks off the handshake, ends its own connection only.
        with contextlib.suppress(OSError, ValueError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._open.add(connection)
            with connection:
                first = connection.recv(65536)
                if first.startswith(_PREFACE[:3]):
                    _Http2(connection, self._seen, self._tls_of(connection)).serve(first)
                else:
                    self._http1(connection, first)

    def _tls_of(self, connection: socket.socket) -> tuple[str, str | None] | None:
        if not isinstance(connection, ssl.SSLSocket):
            return None
        return connection.version() or "", connection.selected_alpn_protocol()

    def _http1(self, connection: socket.socket, data: bytes) -> None:
        while data:
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, data = data.partition(b"\r\n\r\n")
            request_line, *lines = head.decode("latin-1").split("\r\n")
            headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            seen = SeenRequest(
                protocol="http/1.1",
                target=request_line.split(" ", 1)[1].rsplit(" ", 1)[0],
                headers=headers,
                tls=self._tls_of(connection),
            )
            self._seen.put(seen)
            if seen.all("upgrade"):
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                )
                while data or (data := connection.recv(65536)):
                    connection.sendall(data)
                    data = b""
                return
            length = int(next(iter(seen.all("content-length")), "0"))
            while len(data) < length:
                data += connection.recv(65536)
            data = data[length:]
            forged = "".join(f"{name}: {value}\r\n" for name, value in FORGED)
            connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{forged}\r\nok".encode())
            data = data or connection.recv(65536)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)


class _Http2:
    def __init__(
        self,
        connection: socket.socket,
        seen: queue.SimpleQueue[SeenRequest],
        tls: tuple[str, str | None] | None,
    ) -> None:
        self._connection = connection
        self._seen = seen
        self._tls = tls
        self._requests: dict[int, SeenRequest] = {}
        configuration = h2.config.H2Configuration(
            client_side=False, header_encoding="latin-1", validate_inbound_headers=False
        )
        self._h2 = h2.connection.H2Connection(configuration)
        self._h2.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self._h2.initiate_connection()

    def serve(self, data: bytes) -> None:
        while data:
            for event in self._h2.receive_data(data):
                self._take(event)
            self._connection.sendall(self._h2.data_to_send())
            data = self._connection.recv(65536)

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(headers=headers, stream_id=stream):
                told = [(str(name), str(value)) for name, value in headers or []]
                request = SeenRequest(protocol="h2", target=dict(told).get(":path", ""), headers=told, tls=self._tls)
                self._requests[int(stream or 0)] = request
                if request.all(":protocol"):
                    self._seen.put(request)
                    self._h2.send_headers(int(stream or 0), [(":status", "200")])
            case h2.events.TrailersReceived(headers=headers, stream_id=stream):
                self._requests[int(stream or 0)].trailers = [(str(name), str(value)) for name, value in headers or []]
            case h2.events.DataReceived(stream_id=stream, data=data):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, int(stream or 0))
                if self._requests[int(stream or 0)].all(":protocol"):
                    self._h2.send_data(int(stream or 0), data or b"")
            case h2.events.StreamEnded(stream_id=stream):
                request = self._requests.pop(int(stream or 0))
                if not request.all(":protocol"):
                    self._seen.put(request)
                    self._h2.send_headers(int(stream or 0), [(":status", "200"), *FORGED])
                    self._h2.send_data(int(stream or 0), b"ok", end_stream=True)
            case _:
                pass

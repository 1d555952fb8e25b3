"""A SPIFFE bundle endpoint: our own trust domain's bundle, for those who federate with us.

Answers GET at one path and nothing else; whoever asks gets the same public document, so nobody is asked who they are
(SPIFFE Federation 5.2.1.3, 5.2.2.3). One request a connection. What a client can cost is bounded: how many connections
there are at once, how long each may take from its first packet to its last, how long its request may be.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

import h11

from authz.errors import AuthzError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from authz.federation.endpoint_certificate import EndpointCertificate
    from authz.identity.bundle import Bundle

_log = logging.getLogger(__name__)

#: A thousand partners' sidecars that poll every five minutes are three or four connections a second.
MAX_CONNECTIONS: Final = 64
#: from the first packet to the last; a handshake and 20 KiB over a bad line take two or three
CONNECTION_S: Final = 10.0
#: RFC 9110 4.1 and 5.4 recommend 8000 octets for a request line; what we ask ourselves has 200
MAX_REQUEST_BYTES: Final = 8 * 1024
#: descriptors that ran out come back when other connections end
ACCEPT_AGAIN_S: Final = 0.5
DEFAULT_PATH: Final = "/"

_READ_BYTES: Final = 4096


class BundleEndpoint:
    """Serves what `bundle` gives at the time of each request; `certificate` says by what it proves itself."""

    def __init__(
        self,
        *,
        bundle: Callable[[], Bundle],
        certificate: EndpointCertificate,
        path: str = DEFAULT_PATH,
        connection_s: float = CONNECTION_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._bundle = bundle
        self._certificate = certificate
        self._path = path.encode("ascii")
        self._connection_s = connection_s
        self._free = asyncio.Semaphore(max_connections)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve a listening socket until cancelled, then close it."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            while True:
                # Who comes when all places are taken waits in the kernel's queue, where it costs nothing.
                await self._free.acquire()
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    self._free.release()
                    _log.error("the bundle endpoint cannot accept: %s", error.strerror)
                    await asyncio.sleep(ACCEPT_AGAIN_S)
                    continue
                except BaseException:
                    self._free.release()
                    raise
                task = asyncio.create_task(self._connection(connection))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free.release()

    async def _connection(self, connection: socket.socket) -> None:
        with connection:
            try:
                async with asyncio.timeout(self._connection_s):
                    await self._serve(connection)
            except (TimeoutError, OSError, EOFError) as error:  # ssl.SSLError is an OSError
                _log.debug("a connection to the bundle endpoint came to nothing: %s", type(error).__name__)
            except AuthzError as error:
                _log.error("the bundle endpoint cannot serve: %s", error)
            except Exception:  # noqa: BLE001 the edge of one connection
                _log.exception("the bundle endpoint cannot serve: a fault of the program")

    async def _serve(self, connection: socket.socket) -> None:
        # The handshake is part of what is bounded, and shows the certificate of now.
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._certificate())
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._exchange(reader, writer)
        finally:
            transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        try:
            status, headers, body = self._answer(await _request(connection, reader))
        except h11.RemoteProtocolError as error:
            status, headers, body = error.error_status_hint, [], b""
        head = h11.Response(
            status_code=status,
            headers=[*headers, ("Content-Length", str(len(body))), ("Connection", "close")],
        )
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):  # what was written has been taken, or the client has gone
            await writer.wait_closed()

    def _answer(self, request: h11.Request) -> tuple[int, list[tuple[str, str]], bytes]:
        """Give status, headers and body."""
        path, _, _ = request.target.partition(b"?")
        if path != self._path:
            return 404, [], b""
        if request.method != b"GET":
            return 405, [("Allow", "GET")], b""
        # 5.2.1.3: the most up-to-date version there is, whatever a cache on the way would like.
        return 200, [("Content-Type", "application/json"), ("Cache-Control", "no-cache")], self._bundle().to_json()


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request:
    """Read the head of the request, and no body; raises h11.RemoteProtocolError."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise EOFError
        connection.receive_data(await reader.read(_READ_BYTES))

"""Where the echo app listens, which protocol each connection speaks, and how everything ends.

One port serves all: with TLS the client and the server agree by ALPN, otherwise the first bytes tell. HTTP/2 begins
with its preface (RFC 9113 3.4), which no HTTP/1.1 request does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from authz.mesh.echo.connection import EchoConnection, OpenConnections
from authz.mesh.echo.http1 import Http1Connection
from authz.mesh.echo.http2 import Http2Connection
from authz.mesh.echo.http2_frames import PREFACE
from authz.proxy.addresses import Address, TcpAddress, UnixAddress

if TYPE_CHECKING:
    import ssl

_BACKLOG = 1024
#: a client that starts a TLS handshake and leaves it
_HANDSHAKE_S = 10.0
#: how long the connections have to take their good-byes
_GOODBYE_S = 0.3


class FirstBytes(EchoConnection):
    """A connection whose protocol is not known yet."""

    def __init__(self, connections: OpenConnections) -> None:
        """Wait for the first bytes."""
        super().__init__(connections)
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the protocol speak that TLS has agreed on, if it has."""
        super().connection_made(transport)
        ssl_object = self.transport.get_extra_info("ssl_object")
        match None if ssl_object is None else ssl_object.selected_alpn_protocol():
            case "h2":
                self.hand_over(Http2Connection(self.connections))
            case "http/1.1":
                self.hand_over(Http1Connection(self.connections))
            case _:  # no TLS, or a client without ALPN
                pass

    def receive(self, data: bytes) -> None:
        """Let the protocol speak that the client does, once that is clear."""
        self._seen += data
        if self._seen.startswith(PREFACE):
            self.hand_over(Http2Connection(self.connections), self._seen)
        elif not PREFACE.startswith(self._seen):
            self.hand_over(Http1Connection(self.connections), self._seen)

    def proceed(self) -> None:
        """Nothing was sent yet."""

    def stop(self) -> None:
        """Nothing was begun yet."""

    def shut_down(self) -> None:
        """Close."""
        self.transport.close()


class EchoServer:
    """The echo app of one Service, on any number of addresses."""

    def __init__(self, service: str, tls: ssl.SSLContext | None = None) -> None:
        """Serve nobody yet; with a TLS context every address speaks TLS."""
        self._tls = tls
        self._connections = OpenConnections(service)
        self._servers: list[asyncio.Server] = []
        self._sockets: list[tuple[str, int]] = []

    async def listen(self, address: Address) -> Address:
        """Accept connections; give the address with the port that port 0 became. Raises OSError where it cannot."""
        match address:
            case TcpAddress():
                return await self._listen_tcp(address)
            case UnixAddress():
                await self._listen_unix(address)
                return address

    async def close(self) -> None:
        """Accept nobody more, say good-bye on every connection, and cut those that do not take it."""
        for server in self._servers:
            server.close()
        for path, inode in self._sockets:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:  # noqa: PTH116 a successor's socket stays
                    os.unlink(path)  # noqa: PTH108 as above
        await self._connections.shut_down(within_s=_GOODBYE_S)

    async def _listen_tcp(self, address: TcpAddress) -> TcpAddress:
        server = await asyncio.get_running_loop().create_server(
            self._connection,
            address.host,
            address.port,
            reuse_port=True,  # whoever chose the port may hold it by a socket that is bound and does not listen
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=self._only_with_tls(_HANDSHAKE_S),
            ssl_shutdown_timeout=self._only_with_tls(_GOODBYE_S),
        )
        self._servers.append(server)
        return TcpAddress(host=address.host, port=server.sockets[0].getsockname()[1])

    async def _listen_unix(self, address: UnixAddress) -> None:
        server = await asyncio.get_running_loop().create_unix_server(
            self._connection,
            address.path,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=self._only_with_tls(_HANDSHAKE_S),
            ssl_shutdown_timeout=self._only_with_tls(_GOODBYE_S),
        )
        self._servers.append(server)
        self._sockets.append((address.path, os.stat(address.path).st_ino))  # noqa: PTH116 once, at the start

    def _only_with_tls(self, seconds: float) -> float | None:
        return None if self._tls is None else seconds

    def _connection(self) -> EchoConnection:
        return FirstBytes(self._connections)

"""Serves gRPC methods on listening sockets that are given to it, until it is drained.

A socket stays open and where it is: other processes may accept on it too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from authz.sidecar.check.http2.connection import Connection
from authz.sidecar.check.http2.protocol import Http2Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from authz.sidecar.check.http2.grpc import Call, Service

#: a proxy has one connection for each of its threads; beyond this one is closed as soon as it comes
MAX_CONNECTIONS: Final = 512
_BACKLOG: Final = 1024


class Http2Server:
    """The connections of one service."""

    def __init__(self, service: Service, *, failed: Callable[[Exception], None], table_bytes: int = 0) -> None:
        """Serve nobody yet; `failed` is told what a method raises that is no GrpcError, and what ends a connection.

        `table_bytes` is :class:`Connection`'s.
        """
        self._table_bytes = table_bytes
        self._service = service
        self._failed = failed
        self._known: dict[bytes, Call] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: set[Http2Protocol] = set()
        self._is_draining = False
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def serve(self, listening: socket.socket) -> None:
        """Accept on a socket that is bound."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._accept, sock=listening, backlog=_BACKLOG))

    def lag_s(self) -> float:
        """Give how long it takes, at most, until a peer has had what it asked before; measured by PING, since calls."""
        return max((protocol.lag_s() for protocol in self._connections), default=0.0)

    async def drain(self, *, within_s: float) -> None:
        """Accept nobody more, let every connection end what is under way, and cut those that take longer."""
        self._is_draining = True
        for server in self._servers:
            server.close()
        for protocol in list(self._connections):
            protocol.drain()
        try:
            await asyncio.wait_for(self._all_closed.wait(), within_s)
        except TimeoutError:
            for protocol in list(self._connections):
                protocol.abort()
            await self._all_closed.wait()

    def _accept(self) -> asyncio.Protocol:
        if self._is_draining or len(self._connections) >= MAX_CONNECTIONS:
            return _Refused()
        clock = asyncio.get_running_loop().time
        connection = Connection(
            service=self._service, known=self._known, clock=clock, failed=self._failed, table_bytes=self._table_bytes
        )
        protocol = Http2Protocol(connection, closed=self._forget, failed=self._failed)
        self._connections.add(protocol)
        self._all_closed.clear()
        return protocol

    def _forget(self, protocol: Http2Protocol) -> None:
        self._connections.discard(protocol)
        if not self._connections:
            self._all_closed.set()


class _Refused(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
